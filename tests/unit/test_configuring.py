"""Which service config is in force after each answer of the resolver (gRFC A21)."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from lbkit import configuring
from lbkit.balancer import registry
from lbkit.configuring import Configuration, StaticSelector, Undecided
from lbkit.resolution import UNCONFIGURED, CallConfig
from lbkit.service_config import EMPTY, PolicyChoice, ServiceConfig, parse
from tests.support.fakes import FakeCall

OWN = PolicyChoice("round_robin", registry.get("round_robin"), {})
DEFAULT = parse({"methodConfig": [{"name": [{}], "timeout": "1s"}], "loadBalancingConfig": [{"random": {}}]})
GOOD = {"methodConfig": [{"name": [{}], "timeout": "2s"}]}
BETTER = '{"methodConfig": [{"name": [{}], "timeout": "3s"}], "loadBalancingPolicy": "pick_first"}'
BAD = {"methodConfig": 5}
REASON = "the resolver's service config is wrong: methodConfig: 5 is not a list"


def configuration(default: ServiceConfig | None = None, *, listen: bool = True) -> Configuration:
    return Configuration("dns:///x", default, OWN, listen=listen)


def timeout(found: Configuration) -> float | None:
    return found.active.method("/a/b").timeout_s


def test_before_any_answer_the_default_applies() -> None:
    assert configuration().active is EMPTY
    assert configuration(DEFAULT).active is DEFAULT
    assert not configuration().usable
    assert configuration(DEFAULT).usable


def test_answer_without_a_config_means_the_default_or_none() -> None:
    for default in (None, DEFAULT):
        found = configuration(default)
        assert found.take(GOOD) == ""
        assert timeout(found) == 2.0
        assert found.take(None) == ""
        assert found.active is (default or EMPTY)
        assert found.usable


def test_each_good_config_replaces_the_one_before() -> None:
    found = configuration(DEFAULT)
    for given, seconds in ((GOOD, 2.0), (BETTER, 3.0), (GOOD, 2.0)):
        assert found.take(given) == ""
        assert timeout(found) == seconds


def test_bad_config_keeps_the_last_good_one(caplog: pytest.LogCaptureFixture) -> None:
    found = configuration()
    found.take(GOOD)
    assert found.take(BAD) == REASON
    assert timeout(found) == 2.0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == [f"dns:///x: {REASON}; the last good one stays"]


def test_bad_config_after_none_at_all_keeps_that() -> None:
    found = configuration()
    found.take(None)
    assert found.take(BAD) == REASON
    assert found.active is EMPTY
    assert found.usable


def test_bad_first_config_leaves_nothing_to_go_on_with(caplog: pytest.LogCaptureFixture) -> None:
    found = configuration()
    assert found.take(BAD) == REASON
    assert not found.usable
    assert caplog.messages == [f"dns:///x: {REASON}; calls fail until there is a good one"]
    assert found.take(GOOD) == ""
    assert found.usable


def test_bad_first_config_leaves_the_default_if_there_is_one() -> None:
    found = configuration(DEFAULT)
    assert found.take(BAD) == REASON
    assert found.active is DEFAULT
    assert found.usable


def test_same_config_again_is_neither_read_nor_logged_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Any] = []

    def read(given: Any) -> ServiceConfig:
        reads.append(given)
        return parse(given)

    monkeypatch.setattr(configuring, "parse", read)
    found = configuration()
    for _ in range(3):
        assert found.take(BAD) == REASON
    found.take(dict(GOOD))
    before = found.active
    found.take(dict(GOOD))
    assert found.active is before
    found.take(None)
    found.take(dict(GOOD))
    assert found.active is before
    assert len(reads) == 2
    assert len(caplog.messages) == 1


def test_resolvers_config_can_be_refused() -> None:
    found = configuration(DEFAULT, listen=False)
    for given in (GOOD, BAD, None):
        assert found.take(given) == ""
        assert found.active is DEFAULT
    found = configuration(listen=False)
    assert found.take(BAD) == ""
    assert found.usable


def test_policy_is_the_configs_or_the_channels() -> None:
    found = configuration(DEFAULT)
    assert found.policy.name == "random"
    found.take(GOOD)
    assert found.policy is OWN
    found.take(BETTER)
    assert found.policy.name == "pick_first"


# Selectors


class Own:
    def select(self, call: Any) -> CallConfig:
        raise NotImplementedError


def test_resolvers_own_selector_comes_first() -> None:
    own = Own()
    assert configuration(DEFAULT).selector(own) is own


def test_no_methods_means_no_selector() -> None:
    assert configuration().selector(None) is None
    found = configuration()
    found.take({"loadBalancingConfig": [{"random": {}}]})
    assert found.selector(None) is None


def test_selector_is_made_once_for_a_config() -> None:
    found = configuration(DEFAULT)
    first = found.selector(None)
    assert found.selector(None) is first
    found.take(GOOD)
    assert found.selector(None) is not first


def test_methods_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    selector = StaticSelector(parse({"methodConfig": [{"name": [{"service": "a"}], "timeout": "1s"}]}))
    first = selector.select(FakeCall("/a/b"))
    assert first.method_config.timeout_s == 1.0
    assert selector.select(FakeCall("/a/b")) is first
    assert selector.select(FakeCall("/b/b")).method_config is UNCONFIGURED


def test_what_is_kept_of_methods_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuring, "_MOST_METHODS", 10)
    selector = StaticSelector(DEFAULT)
    for number in range(100):
        assert selector.select(FakeCall(f"/a/{number}")).method_config.timeout_s == 1.0
    assert len(selector._known) == 10


class EarlyCall(FakeCall):
    def __init__(self) -> None:
        super().__init__()
        self.configured = 0

    def configure(self) -> None:
        self.configured += 1


def test_calls_that_begin_before_anything_is_known_are_configured_then() -> None:
    undecided = Undecided()
    calls = [EarlyCall() for _ in range(3)]
    assert [undecided.select(call).method_config for call in calls] == [UNCONFIGURED] * 3
    undecided.decided()
    assert [call.configured for call in calls] == [1, 1, 1]


def test_calls_that_end_before_anything_is_known_are_forgotten() -> None:
    undecided = Undecided()
    for _ in range(100):
        undecided.select(EarlyCall())
    gc.collect()
    assert len(undecided._calls) == 0
