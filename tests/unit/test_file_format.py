from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit.address import Endpoint
from lbkit_resolvers.file.format import MAX_ENDPOINTS, FileFormatError, parse

ENTRY = {"address": "a:1", "weight": 2, "zone": "eu", "metadata": {"version": "2"}}


def read(document: Any) -> tuple[Endpoint, ...]:
    return parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (["a:1", "[::1]:2"], [Endpoint("a:1"), Endpoint("[::1]:2")]),
        ([], []),
        ({"endpoints": []}, []),
        ({"endpoints": ["a:1"]}, [Endpoint("a:1")]),
        ({"endpoints": [ENTRY]}, [Endpoint("a:1", weight=2, zone="eu", metadata={"version": "2"})]),
        ([ENTRY, "b:1"], [Endpoint("a:1", weight=2, zone="eu", metadata={"version": "2"}), Endpoint("b:1")]),
        ([{"addresses": ["a:1", "unix:/a"]}], [Endpoint(["a:1", "unix:/a"])]),
        ([{"address": "a:1", "weight": 0.5}], [Endpoint("a:1", weight=0.5)]),
    ],
)
def test_forms_of_the_file(document: Any, expected: list[Endpoint]) -> None:
    assert list(read(document)) == expected


def test_byte_order_mark_is_no_content() -> None:
    assert parse(b'\xef\xbb\xbf["a:1"]') == (Endpoint("a:1"),)


GOOD = '  "endpoints": [\n    {"address": "a:1"},\n    "b:1",\n    '


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ('"c"', "'c' has no valid port; write host:port"),
        ("7", 'an endpoint is an object or "host:port", not 7'),
        ("null", "not null"),
        ('["c:1"]', "an endpoint is an object"),
        (
            '{"adress": "c:1"}',
            "unknown key 'adress'. Did you mean 'address'? Known: address, addresses, weight",
        ),
        ("{}", 'write either "address": "host:port" or "addresses"'),
        ('{"address": "c:1", "addresses": ["d:1"]}', "write either"),
        ('{"address": 7}', 'write "address": "host:port"'),
        ('{"addresses": "c:1"}', 'or "addresses": ["host:port", ...]'),
        ('{"addresses": ["c:1", 7]}', 'or "addresses": ["host:port", ...]'),
        ('{"addresses": []}', "at least one address"),
        ('{"address": "c:1", "weight": "2"}', 'weight must be a number, not "2"'),
        ('{"address": "c:1", "weight": true}', "weight must be a number, not true"),
        ('{"address": "c:1", "weight": 0}', "weight must be positive and finite"),
        ('{"address": "c:1", "weight": NaN}', "weight must be positive and finite"),
        (f'{{"address": "c:1", "weight": {10**400}}}', "weight is too large"),
        ('{"address": "c:1", "zone": 1}', "zone must be printable text, not 1"),
        ('{"address": "c:1", "zone": "a\\nb"}', "zone must be printable text"),
        ('{"address": "c:1", "metadata": ["x"]}', "metadata must be an object of printable texts"),
        ('{"address": "c:1", "metadata": {"x": 1}}', "metadata must be an object of printable texts"),
        (
            '{"address": "c:1", "metadata": {"x\\u0000": "1"}}',
            "metadata must be an object of printable texts",
        ),
    ],
)
def test_bad_entry_spoils_the_file_and_is_named_by_its_line(entry: str, why: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        parse(f"{{\n{GOOD}{entry}\n  ]\n}}\n".encode())
    assert str(caught.value).startswith("line 5: ")
    assert why in str(caught.value)


def test_line_is_right_in_the_short_form_too() -> None:
    with pytest.raises(FileFormatError, match=r"^line 4: 'c' has no valid port"):
        parse(b'[\n "a:1",\n "b:1",\n "c", "d"]')


def test_of_two_equal_keys_the_last_counts() -> None:
    assert parse(b'{"endpoints": ["x"], "endpoints": ["a:1"]}') == (Endpoint("a:1"),)
    with pytest.raises(FileFormatError, match="line 2"):
        parse(b'{"endpoints": ["a:1"],\n "endpoints": ["x"]}')


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "line 1, column 1: no JSON: Expecting value"),
        (b'["a:1",\n "b:1"', "line 2, column 7: no JSON: Expecting ',' delimiter"),
        (b'[\n"a:1",\n]', "no JSON"),
        (b'["a:1"]\n["b:1"]', "line 2, column 1: no JSON: Extra data"),
        (b'["a:1",\n"\xff:1"]', "line 2: this is no UTF-8; save the file as UTF-8"),
        (b"[" * 100_000, "no JSON that can be read"),
        (b'[{"weight": ' + b"1" * 5000 + b"}]", "no JSON that can be read"),
        (b"7", 'there is no list of endpoints; write {"endpoints"'),
        (b"{}", "there is no list of endpoints"),
        (b'{"endpoints": {}}', "there is no list of endpoints"),
        (b'{"endpoints": null}', "there is no list of endpoints"),
        (b'{\n\n"endpoint": []}', "line 3: unknown key 'endpoint'. Did you mean 'endpoints'?"),
    ],
)
def test_bad_file_says_where_and_the_cure(data: bytes, why: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        parse(data)
    assert why in str(caught.value)


def test_number_of_endpoints_is_limited() -> None:
    many = [f"10.0.0.1:{port}" for port in range(1, MAX_ENDPOINTS + 1)]
    assert len(read(many)) == MAX_ENDPOINTS
    with pytest.raises(FileFormatError, match="10001 endpoints are more than the 10000"):
        read([*many, "10.0.0.2:1"])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["endpoints", "address", "weight", "x"]), inner)
    ),
)


@settings(deadline=None)
@given(JSON, st.sampled_from([None, 0, 2]))
def test_any_json_gives_endpoints_or_an_error_with_a_line(document: Any, indent: int | None) -> None:
    error = ""
    try:
        parse(json.dumps(document, indent=indent).encode())
    except FileFormatError as caught:
        error = str(caught)
    assert not error or error.startswith("line ")


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_give_endpoints_or_an_error(data: bytes) -> None:
    try:
        parse(data)
    except FileFormatError:
        return
