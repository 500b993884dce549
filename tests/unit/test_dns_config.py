"""The service config in TXT records: which choice counts, and that trouble with it is nobody else's."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Mapping
from typing import Any

import pytest

from lbkit.errors import ResolverError
from lbkit_resolvers.dns.answers import Found, NoSuchNameError
from lbkit_resolvers.dns.choices import choose
from lbkit_resolvers.dns.config import TextConfig
from tests.support.virtual_loop import run_virtual

ONE: Mapping[str, Any] = {"methodConfig": [{"name": [{}], "timeout": "1s"}]}
TWO: Mapping[str, Any] = {"methodConfig": [{"name": [{}], "timeout": "2s"}]}


def record(*choices: Mapping[str, Any]) -> str:
    return "grpc_config=" + json.dumps(choices)


def chosen(*choices: Mapping[str, Any], draw: int = 50) -> Mapping[str, Any] | None:
    return choose([record(*choices)], "Host-1", draw)


# Which choice


@pytest.mark.parametrize(
    "criteria",
    [
        {},
        {"clientLanguage": []},
        {"clientLanguage": ["go", "python"]},
        {"clientLanguage": ["Python"]},
        {"clientHostname": []},
        {"clientHostname": ["host-2", "host-1"]},
        {"percentage": 100},
        {"percentage": 50},
        {"clientLanguage": ["python"], "clientHostname": ["HOST-1"], "percentage": 50},
        {"somethingNew": 1},
    ],
)
def test_choice_whose_criteria_are_met_counts(criteria: Mapping[str, Any]) -> None:
    assert chosen({**criteria, "serviceConfig": ONE}) == ONE


@pytest.mark.parametrize(
    "criteria",
    [
        {"clientLanguage": ["go"]},
        {"clientLanguage": ["c++"]},  # grpcio's name for itself
        {"clientHostname": ["host-2"]},
        {"percentage": 0},
        {"percentage": 49},
        {"clientLanguage": ["python"], "percentage": 49},
    ],
)
def test_choice_with_a_criterion_that_is_not_met_is_passed_over(criteria: Mapping[str, Any]) -> None:
    assert chosen({**criteria, "serviceConfig": ONE}) is None
    assert chosen({**criteria, "serviceConfig": ONE}, {"serviceConfig": TWO}) == TWO


def test_first_choice_that_matches_counts() -> None:
    assert chosen({"serviceConfig": ONE}, {"serviceConfig": TWO}) == ONE
    assert chosen() is None


def test_percentages_are_those_of_clients() -> None:
    draws = range(1, 101)
    assert sum(chosen({"percentage": 7, "serviceConfig": ONE}, draw=draw) == ONE for draw in draws) == 7


def test_records_of_others_are_passed_over() -> None:
    assert choose(["v=spf1 -all", record({"serviceConfig": ONE})], "", 1) == ONE
    assert choose([], "", 1) is None


def test_order_of_the_records_does_not_matter() -> None:
    records = [record({"serviceConfig": ONE}), record({"serviceConfig": TWO})]
    assert choose(records, "", 1) == choose(records[::-1], "", 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v=spf1 -all", "no TXT record begins with 'grpc_config='"),
        ("grpc_config=", "is no JSON: Expecting value"),
        ("grpc_config=[{]", "is no JSON: Expecting property name"),
        ("grpc_config=" + "[" * 50_000, "is no JSON: "),
        ('grpc_config="\\xff"', "is no JSON: Invalid \\escape"),
        ("grpc_config={}", "belongs a JSON list of objects"),
        ("grpc_config=[1]", "belongs a JSON list of objects"),
        ("grpc_config=[{}]", "a choice needs an object as its 'serviceConfig', not None"),
        ('grpc_config=[{"serviceConfig": "x"}]', "a choice needs an object as its 'serviceConfig', not 'x'"),
        ('grpc_config=[{"percentage": 101}]', "'percentage' must be a whole number from 0 to 100, not 101"),
        ('grpc_config=[{"percentage": true}]', "not True"),
        ('grpc_config=[{"percentage": "5"}]', "not '5'"),
        ('grpc_config=[{"clientLanguage": "go"}]', "'clientLanguage' must be a list of strings, not 'go'"),
        ('grpc_config=[{"clientHostname": [1]}]', "'clientHostname' must be a list of strings, not [1]"),
        (record({"serviceConfig": {"methodConfig": 1}}), "methodConfig"),
        (record({"serviceConfig": {"loadBalancingConfig": [{"nobody_has_this": {}}]}}), "nobody_has_this"),
    ],
)
def test_malformed_record_is_told(text: str, said: str) -> None:
    with pytest.raises(ResolverError) as caught:
        choose([text], "", 1)
    assert said in str(caught.value)


# Beside the addresses


class Names:
    """What the name servers say about TXT, after a while."""

    def __init__(self) -> None:
        self.said: Found | Exception = NoSuchNameError("no such name")
        self.after_s = 0.0
        self.asked: list[tuple[str, str]] = []

    async def ask(self, name: str, kind: str) -> Found:
        self.asked.append((name, kind))
        await asyncio.sleep(self.after_s)
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    def say(self, *records: str) -> None:
        self.said = Found(records, 300.0)


async def addresses(after_s: float = 0.0) -> str:
    await asyncio.sleep(after_s)
    return "the addresses"


async def look(config: TextConfig, names: Names) -> Mapping[str, Any] | None:
    found, chosen = await config.beside(addresses(), names.ask, random.Random(1))
    assert found == "the addresses"
    return chosen


def test_name_without_records_has_no_config(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        names, config = Names(), TextConfig("backend.example", "", 2.0)
        assert await look(config, names) is None
        names.say()
        assert await look(config, names) is None
        assert names.asked == [("_grpc_config.backend.example", "TXT")] * 2

    run_virtual(main())
    assert not caplog.records


def test_config_that_is_removed_goes() -> None:
    async def main() -> None:
        names, config = Names(), TextConfig("backend", "", 2.0)
        for gone in (NoSuchNameError("no such name"), Found((), 300.0)):
            names.say(record({"serviceConfig": ONE}))
            assert await look(config, names) == ONE
            names.said = gone
            assert await look(config, names) is None

    run_virtual(main())


@pytest.mark.parametrize("trouble", [ResolverError("SERVFAIL"), Found(("grpc_config=[",), 300.0)])
def test_last_good_config_stays_and_trouble_is_logged_once(
    caplog: pytest.LogCaptureFixture, trouble: Found | Exception
) -> None:
    async def main() -> None:
        names, config = Names(), TextConfig("backend", "", 2.0)
        names.said = trouble
        assert await look(config, names) is None
        assert await look(config, names) is None
        names.say(record({"serviceConfig": ONE}))
        assert await look(config, names) == ONE
        names.said = trouble
        assert await look(config, names) == ONE
        assert await look(config, names) == ONE

    with caplog.at_level(logging.WARNING, logger="lbkit.resolver"):
        run_virtual(main())
    assert [record.message.rpartition("; ")[2] for record in caplog.records] == [
        "going on without one",
        "the last good one stays",
    ]
    assert all("service config of TXT _grpc_config.backend: " in record.message for record in caplog.records)


def test_silence_holds_the_addresses_up_no_longer_than_its_grace(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        names, config = Names(), TextConfig("backend", "", 2.0)
        names.after_s = 1e9
        assert await look(config, names) is None
        assert asyncio.get_running_loop().time() == 2.0

    with caplog.at_level(logging.WARNING, logger="lbkit.resolver"):
        run_virtual(main())
    assert "no answer, 2 s after the addresses; going on without one" in caplog.text


def test_slow_addresses_give_it_time() -> None:
    async def main() -> None:
        names, config = Names(), TextConfig("backend", "", 2.0)
        names.say(record({"serviceConfig": ONE}))
        names.after_s = 5.0
        assert (await config.beside(addresses(4.0), names.ask, random.Random(1)))[1] == ONE

    run_virtual(main())


def test_failure_of_the_addresses_is_the_failure() -> None:
    async def broken() -> None:
        await asyncio.sleep(1.0)
        raise ResolverError("no addresses")

    async def main() -> None:
        names, config = Names(), TextConfig("backend", "", 2.0)
        names.after_s = 1e9
        with pytest.raises(ResolverError, match="no addresses"):
            await config.beside(broken(), names.ask, random.Random(1))
        assert asyncio.get_running_loop().time() == 1.0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())


def test_client_stays_on_its_side_of_a_percentage() -> None:
    async def main() -> None:
        names, source = Names(), random.Random(3)
        names.say(record({"percentage": 50, "serviceConfig": ONE}))
        sides = set()
        for _ in range(20):
            config = TextConfig("backend", "", 2.0)
            seen = [(await config.beside(addresses(), names.ask, source))[1] for _ in range(5)]
            assert all(each == seen[0] for each in seen)
            sides.add(seen[0] is None)
        assert sides == {True, False}

    run_virtual(main())
