"""Options of grpcio become keyword arguments: each name, each unit, and what is wrong is said."""

from __future__ import annotations

import json
import re
import warnings
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit.compat.options import (
    CHANNEL,
    NO_EFFECT,
    NO_LIMIT,
    SERVER,
    UnknownOptionWarning,
    channel_keywords,
    server_keywords,
)

# Names that programs still use, though the grpcio of today has forgotten them.
FORGOTTEN = {
    "SingleThreadedUnaryStream",
    "grpc.http2.min_recv_ping_interval_without_data_ms",
    "grpc.http2.min_sent_ping_interval_without_data_ms",
    "grpc.http2.min_time_between_pings_ms",
    "grpc.optimization_target",
}
LIMITS = lbkit.Limits()


def channel(*options: Any) -> dict[str, Any]:
    """What options add to the keywords of a channel."""
    found = channel_keywords(options)
    assert found.pop("balancer") == "pick_first"
    return found


def server(*options: Any) -> dict[str, Any]:
    usual = server_keywords(None)
    return {name: value for name, value in server_keywords(options).items() if usual.get(name) != value}


def test_defaults_are_those_of_grpcio() -> None:
    assert channel_keywords(None) == channel_keywords([]) == {"balancer": "pick_first"}
    assert server_keywords(None) == {"max_concurrent_streams": NO_LIMIT, "compression": "identity"}


@pytest.mark.parametrize(
    ("name", "value", "keywords"),
    [
        ("grpc.client_idle_timeout_ms", 5000, {"idle_timeout": 5.0}),
        ("grpc.client_idle_timeout_ms", NO_LIMIT, {"idle_timeout": None}),
        ("grpc.default_authority", "shop.example", {"authority": "shop.example"}),
        ("grpc.default_compression_algorithm", 2, {"compression": lbkit.Compression.Gzip}),
        ("grpc.default_compression_algorithm", 0, {"compression": lbkit.Compression.NoCompression}),
        ("grpc.enable_http_proxy", 0, {"proxy": False}),
        ("grpc.enable_http_proxy", 1, {}),
        ("grpc.http_proxy", "http://proxy:80", {"proxy": "http://proxy:80"}),
        ("grpc.keepalive_permit_without_calls", True, {"keepalive_without_calls": True}),
        ("grpc.keepalive_time_ms", 10_000, {"keepalive": 10.0}),
        ("grpc.keepalive_time_ms", NO_LIMIT, {"keepalive": None}),
        ("grpc.keepalive_timeout_ms", 1500, {"keepalive_timeout": 1.5}),
        ("grpc.keepalive_timeout_ms", NO_LIMIT, {"keepalive": None}),
        ("grpc.max_receive_message_length", 10, {"max_response_bytes": 10}),
        ("grpc.max_receive_message_length", -1, {"max_response_bytes": 2**32 - 1}),
        ("grpc.max_send_message_length", -1, {"max_request_bytes": None}),
        ("grpc.min_reconnect_backoff_ms", 2500, {"connect_timeout": 2.5}),
        ("grpc.service_config", "{}", {"service_config": "{}"}),
        ("grpc.service_config_disable_resolution", 1, {"resolver_service_config": False}),
        ("grpc.service_config_disable_resolution", 0, {}),
        ("grpc.ssl_target_name_override", "a.example", {"server_name": "a.example"}),
        ("grpc.primary_user_agent", b"mine/1", {"user_agent": "mine/1"}),
        ("grpc.max_concurrent_streams", 5, {}),  # of servers
    ],
)
def test_channel_option_is_a_keyword(name: str, value: object, keywords: dict[str, Any]) -> None:
    assert channel((name, value)) == keywords


def test_last_policy_name_counts() -> None:
    options = [("grpc.lb_policy_name", "random"), ("grpc.lb_policy_name", "round_robin")]
    assert channel_keywords(options) == {"balancer": "round_robin"}


@pytest.mark.parametrize(
    ("name", "value", "keywords"),
    [
        ("grpc.default_compression_level", 2, {"compression": lbkit.Compression.Gzip}),
        ("grpc.default_compression_level", 0, {}),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000, {"keepalive_min_interval": 1.0}),
        ("grpc.keepalive_time_ms", 10_000, {"keepalive": 10.0}),
        ("grpc.max_concurrent_streams", 7, {"max_concurrent_streams": 7}),
        ("grpc.max_connection_age_grace_ms", 2000, {"max_connection_age_grace": 2.0}),
        ("grpc.max_connection_age_ms", 30_000, {"max_connection_age": 30.0}),
        ("grpc.max_connection_idle_ms", 500, {"max_connection_idle": 0.5}),
        ("grpc.max_receive_message_length", -1, {"max_request_bytes": 2**32 - 1}),
        ("grpc.max_receive_message_length", 9, {"max_request_bytes": 9}),
        ("grpc.max_send_message_length", 8, {"max_response_bytes": 8}),
        ("grpc.so_reuseport", 1, {"reuse_port": True}),
        ("grpc.lb_policy_name", "x", {}),  # of channels
    ],
)
def test_server_option_is_a_keyword(name: str, value: object, keywords: dict[str, Any]) -> None:
    assert server((name, value)) == keywords


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("grpc.http2.lookahead_bytes", 65_536, "stream_window", 65_536),
        ("grpc.http2.max_frame_size", 32_768, "max_frame_size", 32_768),
        ("grpc.http2.settings_timeout", 2000, "settings_timeout_s", 2.0),
        ("grpc.max_metadata_size", 4096, "header_list_advertised", 4096),
        ("grpc.max_metadata_size", 4096, "max_header_list", LIMITS.max_header_list),
        ("grpc.max_metadata_size", 1_000_000, "max_header_list", 1_250_000),
        ("grpc.max_metadata_size", 1_000_000, "abusive_header_list", 5_000_000),
        ("grpc.absolute_max_metadata_size", 9000, "max_header_list", 9000),
        ("grpc.absolute_max_metadata_size", 9000, "abusive_header_list", LIMITS.abusive_header_list),
    ],
)
def test_limits_of_both_sides_are_options(name: str, value: object, field: str, expected: object) -> None:
    for keywords in (channel((name, value)), server((name, value))):
        assert getattr(keywords["limits"], field) == expected


def test_limits_of_servers_are_options() -> None:
    found = server(
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_allowed_incoming_connections", 5),
        ("grpc.server_handshake_timeout_ms", 1000),
    )["limits"]
    assert (found.ping_strikes, found.max_connections, found.handshake_timeout_s) == (0, 5, 1.0)
    assert found.max_message == LIMITS.max_message


@pytest.mark.parametrize(
    ("options", "initial", "maximum"),
    [
        ({"initial": 200}, 0.2, 120.0),
        ({"max": 500}, 0.5, 0.5),
        ({"initial": 300, "max": 900}, 0.3, 0.9),
        ({"initial": 3000, "max": 900}, 0.9, 0.9),
        ({"initial": 500_000}, 500.0, 500.0),
    ],
)
def test_backoff_is_put_together(options: dict[str, int], initial: float, maximum: float) -> None:
    found = channel(*((f"grpc.{name}_reconnect_backoff_ms", value) for name, value in options.items()))
    assert (found["backoff"].initial_s, found["backoff"].maximum_s) == (initial, maximum)


def test_user_agents_are_put_together() -> None:
    options = [("grpc.secondary_user_agent", "two/2"), ("grpc.primary_user_agent", "one/1")]
    assert channel(*options) == {"user_agent": "one/1 two/2"}


CONFIG = {
    "methodConfig": [{"name": [{}], "timeout": "1s", "retryPolicy": {"x": 1}}, {"hedgingPolicy": {}}, "?"],
    "healthCheckConfig": {"serviceName": ""},
}


def test_retries_and_health_checks_can_be_switched_off() -> None:
    config = ("grpc.service_config", json.dumps(CONFIG))
    kept = [{"name": [{}], "timeout": "1s"}, {}, "?"]
    assert channel(config, ("grpc.enable_retries", 1)) == {"service_config": json.dumps(CONFIG)}
    off = channel(config, ("grpc.enable_retries", 0))["service_config"]
    assert off == {**CONFIG, "methodConfig": kept}
    off = channel(config, ("grpc.inhibit_health_checking", 1))["service_config"]
    assert off == {"methodConfig": CONFIG["methodConfig"]}
    assert channel(("grpc.enable_retries", 0)) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"methodConfig": 1}'])
def test_wrong_service_config_is_left_to_the_channel(text: str) -> None:
    options = [("grpc.service_config", text), ("grpc.enable_retries", 0)]
    with pytest.raises(lbkit.ServiceConfigError):
        lbkit.Channel("static:///127.0.0.1:1", **channel_keywords(options))


# What is wrong


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("grpc.keepalive_time_ms", "10", "a whole number of milliseconds, more than 0"),
        ("grpc.keepalive_time_ms", 0, "a whole number of milliseconds, more than 0"),
        ("grpc.keepalive_time_ms", 1.5, "a whole number of milliseconds, more than 0"),
        ("grpc.max_receive_message_length", -2, "a whole number from 0 to 2147483647"),
        ("grpc.max_metadata_size", None, "a whole number from 0 to 2147483647"),
        ("grpc.keepalive_permit_without_calls", 2, "0 or 1"),
        ("grpc.keepalive_permit_without_calls", "yes", "0 or 1"),
        ("grpc.lb_policy_name", 1, "text"),
        ("grpc.lb_policy_name", "", "text"),
        ("grpc.default_compression_algorithm", 3, "a member of grpc.Compression"),
        ("grpc.http2.max_frame_size", 1, "from 16384 to 16777215"),
    ],
)
def test_wrong_value_names_option_and_value(name: str, value: object, must: str) -> None:
    text = f"option {name!r} is {value!r}: "
    with pytest.raises(ValueError, match=re.escape(text) + ".*it must be " + re.escape(must)):
        channel((name, value))


@pytest.mark.parametrize("option", [("grpc.lb_policy_name",), "grpc.lb_policy_name", (1, 2), None])
def test_what_is_no_pair_is_shown(option: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"options= has {option!r}; write ('grpc.name', value)")):
        channel(option)


def test_unknown_option_is_warned_of_with_the_nearest_and_the_line() -> None:
    with pytest.warns(
        UnknownOptionWarning, match=r"'grpc\.keepalive_time'.* Did you mean 'grpc\.keepalive_time_ms'"
    ) as caught:
        channel_keywords([("grpc.keepalive_time", 1)])
    assert [Path(each.filename) for each in caught] == [Path(__file__)]
    with pytest.warns(UnknownOptionWarning, match=r"'my\.own'; it has no effect\.$"):
        server_keywords([("my.own", object())])


def test_unknown_option_is_warned_of_once_for_each_line() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            channel_keywords([("grpc.what", 1), ("grpc.whatever", 1)])
    assert len(caught) == 2


# The tables


@pytest.mark.parametrize(("table", "cls"), [(CHANNEL, lbkit.Channel), (SERVER, lbkit.Server)])
def test_every_keyword_is_one_of_the_class(table: Any, cls: Any) -> None:
    parts = {keyword.partition(".")[0] for keyword, _ in table.values()}
    assert parts <= set(signature(cls.__init__).parameters)


def test_no_name_is_in_two_tables() -> None:
    assert not set(NO_EFFECT) & (set(CHANNEL) | set(SERVER))
    assert all(NO_EFFECT.values())


def test_known_name_without_effect_is_accepted_silently() -> None:
    assert channel(*((name, object()) for name in NO_EFFECT)) == {}
    assert server(*((name, object()) for name in NO_EFFECT)) == {}


@pytest.mark.interop
def test_names_are_those_of_grpcio() -> None:
    cython = pytest.importorskip("grpc._cython.cygrpc")
    binary = Path(cython.__file__).read_bytes()
    missing = {name for name in [*CHANNEL, *SERVER, *NO_EFFECT] if name.encode() not in binary}
    assert missing <= FORGOTTEN
