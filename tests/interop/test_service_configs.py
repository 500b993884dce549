"""grpcio accepts and rejects the same service configs, but for differences that are known and listed here."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from lbkit.errors import ServiceConfigError
from lbkit.service_config import parse

pytestmark = pytest.mark.interop

RETRY = {
    "maxAttempts": 3,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def all_methods(**fields: Any) -> str:
    """A config with one entry, for all methods."""
    return json.dumps({"methodConfig": [{"name": [{}], **fields}]})


def named(*names: Any) -> str:
    """A config for methods with such names."""
    return json.dumps({"methodConfig": [{"name": list(names), "timeout": "1s"}]})


def retry(**changes: Any) -> str:
    """A config whose retry policy is a good one but for the changes."""
    return all_methods(retryPolicy={**RETRY, **changes})


def throttling(tokens: Any, ratio: Any) -> str:
    return json.dumps({"retryThrottling": {"maxTokens": tokens, "tokenRatio": ratio}})


def balancing(*entries: Any) -> str:
    return json.dumps({"loadBalancingConfig": list(entries)})


SAME = [
    "{}",
    "",
    "[]",
    "{",
    '{"x": 1, "x": 2}',
    '{"x": NaN}',
    '{"ofTheFuture": [1]}',
    '{"methodConfig": {}}',
    '{"methodConfig": [{}]}',
    '{"methodConfig": [null]}',
    named({"service": "a"}),
    named({"service": "a", "method": "b"}, {"service": "a"}, {}),
    named({"service": "a", "method": ""}, {"service": "a"}),
    named({"service": ""}, {}),
    named({"method": "b"}),
    named({"service": None, "method": "b"}),
    named({"service": 5}),
    named({"service": "with/slash"}),
    all_methods(timeout="1.5s"),
    all_methods(timeout="0s"),
    all_methods(timeout=None),
    all_methods(timeout="1.123456789s"),
    all_methods(timeout="1.1234567891s"),
    all_methods(timeout="315576000000s"),
    all_methods(timeout="315576000001s"),
    all_methods(timeout="-1s"),
    all_methods(timeout=".5s"),
    all_methods(timeout="1e3s"),
    all_methods(timeout="1"),
    all_methods(timeout=1),
    all_methods(waitForReady=True),
    all_methods(waitForReady="true"),
    all_methods(maxRequestMessageBytes=0),
    all_methods(maxRequestMessageBytes="5"),
    all_methods(maxRequestMessageBytes=2**32 - 1),
    all_methods(maxRequestMessageBytes=2**32),
    all_methods(maxRequestMessageBytes=-1),
    all_methods(maxResponseMessageBytes=5.0),
    all_methods(maxResponseMessageBytes=True),
    all_methods(retryPolicy={}),
    retry(),
    retry(maxAttempts=1),
    retry(maxAttempts=100),
    retry(maxAttempts="2"),
    retry(maxAttempts=2.0),
    retry(initialBackoff="0s"),
    retry(maxBackoff=None),
    retry(maxBackoff="0.01s"),
    retry(backoffMultiplier=0),
    retry(backoffMultiplier="1.5"),
    retry(retryableStatusCodes=[]),
    retry(retryableStatusCodes=["OK"]),
    retry(retryableStatusCodes=["NO_SUCH_CODE"]),
    retry(retryableStatusCodes=["ABORTED", "ABORTED"]),
    all_methods(hedgingPolicy={"maxAttempts": 2}),
    throttling(10, 0.1),
    throttling(10, "0.1"),
    throttling(10, 0.0004),
    throttling(0, 1),
    throttling(10, None),
    balancing(),
    balancing({"round_robin": {}}),
    balancing({"round_robin": {"ofTheFuture": 1}}),
    balancing({"no_such_policy": {}}, {"round_robin": {}}),
    balancing({"no_such_policy": {}}),
    balancing({"no_such_policy": 5}, {"round_robin": {}}),
    balancing({"round_robin": {}}, 5),
    balancing({"round_robin": {}, "pick_first": {}}),
    balancing({"round_robin": []}),
    balancing({"pick_first": {"shuffleAddressList": True}}),
    balancing({"pick_first": {"shuffleAddressList": "yes"}}),
    '{"loadBalancingConfig": {}}',
    '{"loadBalancingPolicy": "ROUND_ROBIN"}',
    '{"loadBalancingPolicy": "no_such_policy"}',
    '{"loadBalancingPolicy": 5}',
    '{"healthCheckConfig": {}}',
    '{"healthCheckConfig": {"serviceName": "x"}}',
    '{"healthCheckConfig": {"serviceName": 5}}',
    '{"healthCheckConfig": "x"}',
    '{"connectionScaling": {"maxConnectionsPerSubchannel": 0}}',
    '{"connectionScaling": {"maxConnectionsPerSubchannel": 11}}',
    '{"connectionScaling": {"maxConnectionsPerSubchannel": "x"}}',
    '{"connectionScaling": []}',
]

# What lbkit says to it, and why grpcio says the contrary.
DIFFERENT = [
    ('{"methodConfig": null}', True, "null is an absent field (proto3's JSON, grpc-go)"),
    ('{"loadBalancingConfig": null}', True, "null is an absent field (proto3's JSON, grpc-go)"),
    (all_methods(timeout="+1s"), False, "that is no JSON number (gRFC A6)"),
    (all_methods(timeout=" 1s"), False, "that is no JSON number (gRFC A6)"),
    (retry(retryableStatusCodes=["unavailable"]), True, "names are taken in any case (gRFC A6)"),
    (retry(retryableStatusCodes=[14]), True, "numbers are taken (gRFC A6)"),
    (throttling(1001, 1), False, "1000 is the most (gRFC A6)"),
    (throttling(1.5, 1), True, "three decimals are taken (gRFC A6)"),
    (throttling(10, "1e-1"), True, "that is a number"),
    (all_methods(hedgingPolicy={}), False, "grpcio does not hedge, and does not look at it"),
    (all_methods(hedgingPolicy={"maxAttempts": 1}), False, "grpcio does not hedge, and does not look at it"),
    (
        all_methods(retryPolicy=RETRY, hedgingPolicy={"maxAttempts": 2}),
        False,
        "grpcio does not hedge, and does not look at it",
    ),
]


def lbkit_accepts(config: str) -> bool:
    """Whether we take it."""
    try:
        parse(config)
    except ServiceConfigError:
        return False
    return True


def grpcio_accepts(config: str) -> bool:
    """Whether grpcio takes it. It says so with the first call: a channel that could not be made fails it for that."""
    with grpc.insecure_channel("ipv4:127.0.0.1:1", options=[("grpc.service_config", config)]) as channel:
        call: Any = channel.unary_unary("/a/b")
        error: Any = call.future(b"", timeout=2.0).exception()
        return "Failed to create channel" not in error.details()


@pytest.mark.parametrize("config", SAME)
def test_verdict_is_grpcios(config: str) -> None:
    assert lbkit_accepts(config) == grpcio_accepts(config)


@pytest.mark.parametrize(("config", "ours", "reason"), DIFFERENT)
def test_differences_are_what_they_were(config: str, ours: bool, reason: str) -> None:
    assert lbkit_accepts(config) is ours, reason
    assert grpcio_accepts(config) is not ours, "no longer a difference"
