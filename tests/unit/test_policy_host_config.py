"""A policy's configuration is checked before the policy is made: unknown keys and wrong values are errors that help."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pytest

from lbkit.balancer import BalancerFactory, EndpointBalancer, Subchannel, balancer, check_config, registry
from lbkit.balancing import PolicyHost
from lbkit.callinfo import CallInfo
from lbkit.options import Option, flag, seconds
from lbkit.picking import Picker
from lbkit.subchannel import ConnectOptions, Dialler
from lbkit.testing.clock import VirtualClock
from lbkit.transport.setup import ConnectionSetup


def level(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= 9:
        raise ValueError("must be a whole number of 0 to 9")
    return value


class Tuned(EndpointBalancer):
    name = "tuned"
    options: ClassVar[Mapping[str, Option]] = {
        "stickySessions": Option(default=False, read=flag),
        "warmUp": Option(10.0, seconds),
        "level": Option(5, level),
    }

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        raise NotImplementedError


class Nameless(Tuned):
    name = ""


class Free(EndpointBalancer):
    """Declares nothing: whatever it is given is its own affair."""

    def make_picker(self, ready: Sequence[Subchannel]) -> Picker:
        raise NotImplementedError


def host(factory: BalancerFactory, config: dict[str, Any]) -> PolicyHost:
    return PolicyHost(
        factory,
        config,
        dialler=Dialler(VirtualClock(), random.Random(0), ConnectOptions(ConnectionSetup())),
        schedule=lambda callback: None,
        publish=lambda state, picker: None,
        reresolve=lambda: None,
    )


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"stickySession": True}, "Did you mean 'stickySessions'? Known: level, stickySessions, warmUp"),
        ({"sticky_sessions": True}, "Did you mean 'stickySessions'?"),
        ({"colour": 1}, "tuned has no option 'colour'. Known: level, stickySessions, warmUp"),
        ({"warmUp": "soon"}, "tuned: warmUp must be a duration, like \"0.25s\" or 0.25, not 'soon'"),
        ({"warmUp": [1]}, "tuned: warmUp must be a duration"),
        ({"stickySessions": "true"}, "tuned: stickySessions must be true or false, not 'true'"),
        ({"level": 10}, "tuned: level must be a whole number of 0 to 9, not 10"),
    ],
    ids=str,
)
def test_wrong_configuration_is_refused_with_the_key(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        host(Tuned, config)


def test_policy_reads_values_or_defaults() -> None:
    policy = host(Tuned, {"stickySessions": True, "warmUp": "1.5s"}).policy
    assert isinstance(policy, Tuned)
    assert [policy.option(key) for key in ("stickySessions", "warmUp", "level")] == [True, 1.5, 5]


@pytest.mark.parametrize(
    ("value", "expected"), [("0s", 0.0), ("2s", 2.0), ("0.25s", 0.25), (3, 3.0), (0.5, 0.5)]
)
def test_durations_are_text_or_numbers(value: object, expected: float) -> None:
    assert seconds(value) == expected
    assert isinstance(seconds(value), float)


def test_policy_without_a_name_is_called_by_its_class() -> None:
    with pytest.raises(ValueError, match=r"^Nameless has no option 'x'\."):
        check_config(Nameless, {"x": 1})
    policy = host(Nameless, {}).policy
    policy.config = {"level": "high"}
    with pytest.raises(ValueError, match=r"^Nameless: level must be"):
        policy.option("level")


def test_policy_that_declares_nothing_gets_what_it_is_given() -> None:
    assert host(Free, {"anything": object}).policy.config == {"anything": object}


def test_factory_that_declares_nothing_gets_what_it_is_given() -> None:
    assert host(partial(Free), {"x": 1}).policy.config == {"x": 1}


def test_function_policy_takes_no_configuration() -> None:
    try:

        @balancer("test-function")
        def pick(ready: Sequence[Subchannel], call: CallInfo) -> Subchannel:
            return ready[0]

        factory = registry.get("test-function")
        host(factory, {})
        with pytest.raises(
            ValueError, match=r"^test-function has no option 'x'\. It takes no configuration$"
        ):
            host(factory, {"x": 1})
    finally:
        registry._registered.pop("test-function", None)


@pytest.mark.parametrize("name", ["round_robin", "pick_first", "random", "weighted_round_robin"])
def test_installed_policies_refuse_what_they_do_not_know(name: str) -> None:
    host(registry.get(name), {})
    with pytest.raises(ValueError, match=f"^{name} has no option 'shufleAddressList'"):
        host(registry.get(name), {"shufleAddressList": True})
