"""The format of the files that ``file:`` targets name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from lbkit.address import Endpoint
from lbkit.errors import AddressError, ResolverError
from lbkit.suggest import did_you_mean

MAX_BYTES = 16 * 1024 * 1024
MAX_ENDPOINTS = 10_000
_KEYS = ("address", "addresses", "weight", "zone", "metadata")
_DECODER = json.JSONDecoder()
_FORMS = '{"endpoints": [{"address": "host:port", "weight": 1, "zone": "", "metadata": {}}]} or ["host:port"]'


class FileFormatError(ResolverError):
    """The content makes no sense; the text says in which line, and what would."""


def parse(data: bytes) -> tuple[Endpoint, ...]:
    """Read the whole file: one bad entry spoils it, for half a list is worse than the last good one.

    Raises:
        FileFormatError: it is not JSON, or not of the form that it must have.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileFormatError(f"line {line}: this is no UTF-8; save the file as UTF-8") from None
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileFormatError(f"line {error.lineno}, column {error.colno}: no JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting that nobody writes by hand
        raise FileFormatError(f"no JSON that can be read: {error}; write {_FORMS}") from None
    items = document
    if isinstance(document, dict):
        for key in document:
            if key != "endpoints":
                hint = did_you_mean(key, ["endpoints"])
                raise FileFormatError(
                    f"line {_line_of_key(text, key)}: unknown key {key!r}.{hint} Write {_FORMS}"
                )
        items = document.get("endpoints")
    if not isinstance(items, list):
        raise FileFormatError(f"line 1: there is no list of endpoints; write {_FORMS}")
    if len(items) > MAX_ENDPOINTS:
        raise FileFormatError(f"{len(items)} endpoints are more than the {MAX_ENDPOINTS} that lbkit takes")
    endpoints: list[Endpoint] = []
    for item in items:
        try:
            endpoints.append(_endpoint(item))
        except (AddressError, _EntryError) as error:
            line = _line_of_item(text, len(endpoints))
            raise FileFormatError(f"line {line}: {error}") from None
    return tuple(endpoints)


class _EntryError(ValueError):
    """What is wrong with one entry."""


def _endpoint(item: Any) -> Endpoint:
    if isinstance(item, str):
        return Endpoint(item)
    if not isinstance(item, dict):
        raise _EntryError(f'an endpoint is an object or "host:port", not {json.dumps(item)[:60]}')
    for key in item:
        if key not in _KEYS:
            raise _EntryError(f"unknown key {key!r}.{did_you_mean(key, _KEYS)} Known: {', '.join(_KEYS)}")
    if ("address" in item) == ("addresses" in item):
        raise _EntryError('write either "address": "host:port" or "addresses": ["host:port", ...]')
    addresses = [item["address"]] if "address" in item else item["addresses"]
    if not isinstance(addresses, list) or not all(isinstance(each, str) for each in addresses):
        raise _EntryError('write "address": "host:port", or "addresses": ["host:port", ...]')
    weight, zone, metadata = item.get("weight", 1), item.get("zone", ""), item.get("metadata", {})
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise _EntryError(f"weight must be a number, not {json.dumps(weight)[:60]}")
    if not _is_text(zone):
        raise _EntryError(f"zone must be printable text, not {json.dumps(zone)[:60]}")
    if not isinstance(metadata, dict) or not all(map(_is_text, [*metadata, *metadata.values()])):
        raise _EntryError('metadata must be an object of printable texts: {"version": "2"}')
    try:
        return Endpoint(addresses, weight=float(weight), zone=zone, metadata=metadata)
    except OverflowError:
        raise _EntryError("weight is too large") from None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


# Where something stands is only looked for when it is wrong, in a text that is known to be JSON of this form.


def _line_of_item(text: str, number: int) -> int:
    """Return the line in which an item of the list begins."""
    start = _after_space(text, 0)
    if text[start] == "{":
        start = [value for _, _, value in _members(text, start)][-1]  # of two equal keys, JSON takes the last
    return text.count("\n", 0, next(islice(_elements(text, start), number, None))) + 1


def _line_of_key(text: str, key: str) -> int:
    """Return the line in which a key of the outermost object stands."""
    members = _members(text, _after_space(text, 0))
    return text.count("\n", 0, next(start for name, start, _ in members if name == key)) + 1


def _members(text: str, start: int) -> Iterator[tuple[str, int, int]]:
    """Go through an object: each key, where it begins, and where its value begins."""
    at = _after_space(text, start + 1)
    while text[at] == '"':
        key, end = _DECODER.raw_decode(text, at)
        value = _after_space(text, _after_space(text, end) + 1)
        yield key, at, value
        at = _behind(text, value)


def _elements(text: str, start: int) -> Iterator[int]:
    """Go through an array: where each element begins. Nobody asks for more than there are."""
    at = _after_space(text, start + 1)
    while True:
        yield at
        at = _behind(text, at)


def _behind(text: str, start: int) -> int:
    """Return where the next thing begins behind the value at ``start``, and behind its comma."""
    at = _after_space(text, _DECODER.raw_decode(text, start)[1])
    return _after_space(text, at + 1) if text[at] == "," else at


def _after_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
