"""What ``/v1/health/service/<name>`` says about the instances of a service."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from lbkit.address import Endpoint
from lbkit.errors import ResolverError
from lbkit_resolvers.records import MAX_ENDPOINTS, MAX_VALUE_BYTES, RecordError, endpoint_of, shown

OWNER = "lbkit-owner"  # who registered it, in Service.Meta
_PRIVATE = "lbkit-"  # what begins so is between registrars
_MAX_ENTRIES = 10 * MAX_ENDPOINTS  # that are looked at
_PER_TURN = 100  # entries read before other work on the event loop gets a turn
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")


class Nodes(NamedTuple):
    """The instances of one answer.

    Attributes:
        endpoints: those that can be used, in the agent's order.
        problems: by the id of the service, why another one cannot.
    """

    endpoints: tuple[Endpoint, ...]
    problems: Mapping[str, str]


async def nodes_of(body: str, *, sort: bool) -> Nodes:
    """Read an answer.

    Args:
        body: as it came.
        sort: by address; else in the order of the answer, which then has a meaning.

    Raises:
        ResolverError: it is no list of instances, or far too long, or none of them can be used.
    """
    found: list[tuple[str, Endpoint]] = []
    problems: dict[str, str] = {}
    number = 0
    try:
        for number, entry in enumerate(_entries(body), 1):
            if number > _MAX_ENTRIES:
                raise ResolverError(f"the answer has more than {_MAX_ENTRIES} instances; tag= asks for fewer")
            key = _key(entry, number)
            try:
                found.append((key, endpoint_of_entry(entry)))
            except RecordError as error:
                problems[key] = str(error)
            if number % _PER_TURN == 0:
                await asyncio.sleep(0)
    except (ValueError, RecursionError) as error:
        raise ResolverError(f"the answer is no list in JSON: {shown(str(error))}: {shown(body)}") from None
    if number and not found:
        key, reason = next(iter(problems.items()))
        raise ResolverError(
            f"none of the {number} instances can be used, like {shown(key)}: {shown(reason, 200)}"
        )
    if sort:
        found.sort(key=lambda item: (item[1].addresses, item[0]))
    # The same address under two ids is one backend and its ghost; the healthier one is alive.
    kept: dict[object, Endpoint] = {}
    for _, endpoint in found:
        other = kept.get(endpoint.identity)
        if other is None or (other.draining and not endpoint.draining):
            kept[endpoint.identity] = endpoint
    endpoints = tuple(kept.values())
    if len(endpoints) > MAX_ENDPOINTS:
        problems["all"] = f"{len(endpoints)} instances are more than the {MAX_ENDPOINTS} that lbkit uses"
    return Nodes(endpoints[:MAX_ENDPOINTS], problems)


def _entries(body: str) -> Iterator[object]:
    """Decode a JSON list item by item: all 10 000 of one in one go would hold the event loop up for long.

    Raises:
        ValueError, RecursionError: it is none.
    """
    position = _after_blanks(body, 0)
    if body[position : position + 1] != "[":
        raise ValueError(f"no '[' at character {position}")
    position = _after_blanks(body, position + 1)
    more = body[position : position + 1] != "]"
    while more:
        item, position = _DECODER.raw_decode(body, position)
        yield item
        position = _after_blanks(body, position)
        more = body[position : position + 1] == ","
        if more:
            position = _after_blanks(body, position + 1)
    if body[position : position + 1] != "]" or _after_blanks(body, position + 1) != len(body):
        raise ValueError(f"the list does not end at character {position}, or something follows")


def _after_blanks(body: str, position: int) -> int:
    found = _BLANKS.match(body, position)
    return position if found is None else found.end()


def endpoint_of_entry(entry: object) -> Endpoint:
    """Make an endpoint of one instance.

    Its weight is ``weight`` in ``Service.Meta``, else ``Service.Weights`` by the state of its checks. An instance that is
    critical, or whose weight is 0 while it warns, is draining: for when there is nobody else.

    Raises:
        RecordError: it cannot be used; says why.
    """
    whole = _object(entry, "the entry")
    service, node = _object(whole.get("Service"), "Service"), _object(whole.get("Node"), "Node")
    meta, node_meta = (
        _object(service.get("Meta"), "Service.Meta", optional=True),
        _object(node.get("Meta"), "Node.Meta", optional=True),
    )
    tags = [tag for tag in _list(service.get("Tags"), "Service.Tags") if isinstance(tag, str)]
    attributes: dict[str, Any] = {
        **{f"node.{key}": value for key, value in node_meta.items() if key != "zone" and value != ""},
        "datacenter": node.get("Datacenter"),
        "node": node.get("Node"),
    }
    if tags:
        attributes["tags"] = ",".join(tags)
    if "zone" in node_meta:
        attributes["zone"] = node_meta["zone"]
    for tag in tags:
        if tag.startswith("version="):  # go-kratos writes it there
            attributes["version"] = tag.removeprefix("version=")
    state = _state(whole)
    weights = _object(service.get("Weights"), "Service.Weights", optional=True)
    weight = weights.get("Warning" if state == "warning" else "Passing", 1)
    if not isinstance(weight, int) or isinstance(weight, bool) or weight < 0:
        raise RecordError(f"Service.Weights has {shown(str(weight))}, which is no weight")
    attributes["weight"] = weight or 1
    attributes.update({key: value for key, value in meta.items() if not key.startswith(_PRIVATE)})
    if sum(len(str(value)) for value in attributes.values()) > MAX_VALUE_BYTES:
        raise RecordError(f"its attributes are longer than {MAX_VALUE_BYTES} characters")
    return endpoint_of(_address(service, node), attributes, draining=state == "critical" or weight == 0)


def _address(service: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Return where it listens: what is tagged ``grpc``, else the service's address, else its node's."""
    host, port = service.get("Address") or node.get("Address"), service.get("Port")
    tagged = _object(service.get("TaggedAddresses"), "Service.TaggedAddresses", optional=True).get("grpc")
    if tagged is not None:
        tagged = _object(tagged, "Service.TaggedAddresses.grpc")
        host, port = tagged.get("Address"), tagged.get("Port")
        if isinstance(host, str) and "://" in host:  # go-kratos writes grpc://10.0.0.1:9000?isSecure=false
            host = _host_of(host)
    if not isinstance(host, str) or not host:
        raise RecordError("neither Service.Address nor Node.Address says where it is")
    if not isinstance(port, int) or isinstance(port, bool):
        raise RecordError(f"its port is {shown(str(port))}, which is no number")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        raise RecordError(f"Service.TaggedAddresses.grpc: {shown(url)} is no URL") from None


def _state(entry: Mapping[str, Any]) -> str:
    """Return ``passing``, ``warning`` or ``critical``: the worst of its checks; maintenance is critical."""
    states = {
        check.get("Status") if isinstance(check, dict) else None
        for check in _list(entry.get("Checks"), "Checks")
    }
    if states - {"passing", "warning"}:
        return "critical"
    return "warning" if "warning" in states else "passing"


def _key(entry: object, number: int) -> str:
    """Return the service's id, or where the entry stands."""
    service = entry.get("Service") if isinstance(entry, dict) else None
    found = service.get("ID") if isinstance(service, dict) else None
    return found if isinstance(found, str) and found else f"entry {number}"


def _object(value: Any, name: str, *, optional: bool = False) -> Mapping[str, Any]:
    if value is None and optional:
        return {}
    if not isinstance(value, dict):
        raise RecordError(f"{name} is no object")
    return value


def _list(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise RecordError(f"{name} is no list")
    return value
