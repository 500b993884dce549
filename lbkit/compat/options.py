"""grpcio's ``options=[("grpc.keepalive_time_ms", 10_000), ...]`` as keyword arguments of lbkit's channels and servers.

Pure, and tables first: one of what a name means for a channel, one for a server, and one of names that need no
counterpart, each with the reason. The names are those of grpc/impl/channel_arg_names.h, as grpcio 1.85 knows them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from lbkit.backoff import BackoffPolicy
from lbkit.encoding.compressors import Compression
from lbkit.limits import Limits
from lbkit.suggest import did_you_mean

Options: TypeAlias = "Iterable[tuple[str, Any]] | None"

NO_LIMIT = 2**31 - 1  # INT_MAX: grpcio's "never" and "as many as you like", beside -1 for sizes
_MESSAGE_MOST = 2**32 - 1  # the length in front of a message has four bytes


class UnknownOptionWarning(UserWarning):
    """An option has a name that lbkit does not know; it has no effect."""


# What values may be. A reader raises a ValueError that says what the value must be.


def _whole(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= NO_LIMIT:
        raise ValueError("it must be a whole number from 0 to 2147483647")
    return int(value)


def _size(value: object) -> int | None:
    """Read a size in bytes; None for -1, which is no limit."""
    return None if value == -1 else _whole(value)


def _flag(value: object) -> bool:
    if value not in {0, 1}:
        raise ValueError("it must be 0 or 1")
    return bool(value)


def _seconds(value: object) -> float:
    if not isinstance(value, int) or not 0 < value < NO_LIMIT:
        raise ValueError("it must be a whole number of milliseconds, more than 0")
    return value / 1000


def _seconds_or_never(value: object) -> float | None:
    return None if value in {-1, NO_LIMIT} else _seconds(value)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str) or not value:
        raise ValueError("it must be text")
    return value


def _algorithm(value: object) -> Compression:
    algorithms = (Compression.NoCompression, Compression.Deflate, Compression.Gzip)  # as in grpc.Compression
    if not isinstance(value, int) or not 0 <= value < len(algorithms):
        raise ValueError("it must be a member of grpc.Compression")
    return algorithms[value]


def _level(value: object) -> Compression:
    return Compression.Gzip if _whole(value) else Compression.NoCompression


Table: TypeAlias = "Mapping[str, tuple[str, Callable[[object], Any]]]"

# Name -> (keyword argument of the class, what reads the value). A word with a dot is a field of another object, or
# something that is put together below.
CHANNEL: Table = {
    "grpc.absolute_max_metadata_size": ("limits.max_header_list", _whole),
    "grpc.client_idle_timeout_ms": ("idle_timeout", _seconds_or_never),
    "grpc.default_authority": ("authority", _text),
    "grpc.default_compression_algorithm": ("compression", _algorithm),
    "grpc.enable_http_proxy": ("proxy.allowed", _flag),
    "grpc.enable_retries": ("service_config.retries", _flag),
    "grpc.http2.lookahead_bytes": ("limits.stream_window", _whole),
    "grpc.http2.max_frame_size": ("limits.max_frame_size", _whole),
    "grpc.http2.settings_timeout": ("limits.settings_timeout_s", _seconds),
    "grpc.http_proxy": ("proxy", _text),
    "grpc.inhibit_health_checking": ("service_config.unchecked", _flag),
    "grpc.initial_reconnect_backoff_ms": ("backoff.initial_s", _seconds),
    "grpc.keepalive_permit_without_calls": ("keepalive_without_calls", _flag),
    "grpc.keepalive_time_ms": ("keepalive", _seconds_or_never),
    "grpc.keepalive_timeout_ms": ("keepalive_timeout", _seconds_or_never),
    "grpc.lb_policy_name": ("balancer", _text),
    "grpc.max_metadata_size": ("limits.header_list_advertised", _whole),
    "grpc.max_receive_message_length": ("max_response_bytes", _size),
    "grpc.max_reconnect_backoff_ms": ("backoff.maximum_s", _seconds),
    "grpc.max_send_message_length": ("max_request_bytes", _size),
    "grpc.min_reconnect_backoff_ms": ("connect_timeout", _seconds),
    "grpc.primary_user_agent": ("user_agent.first", _text),
    "grpc.secondary_user_agent": ("user_agent.second", _text),
    "grpc.service_config": ("service_config", _text),
    "grpc.service_config_disable_resolution": ("service_config.own_only", _flag),
    "grpc.ssl_target_name_override": ("tls.server_name", _text),
}
SERVER: Table = {
    "grpc.absolute_max_metadata_size": ("limits.max_header_list", _whole),
    "grpc.default_compression_algorithm": ("compression", _algorithm),
    "grpc.default_compression_level": ("compression", _level),
    "grpc.http2.lookahead_bytes": ("limits.stream_window", _whole),
    "grpc.http2.max_frame_size": ("limits.max_frame_size", _whole),
    "grpc.http2.max_ping_strikes": ("limits.ping_strikes", _whole),
    "grpc.http2.min_ping_interval_without_data_ms": ("keepalive_min_interval", _seconds),
    "grpc.http2.min_recv_ping_interval_without_data_ms": ("keepalive_min_interval", _seconds),
    "grpc.http2.settings_timeout": ("limits.settings_timeout_s", _seconds),
    "grpc.keepalive_permit_without_calls": ("keepalive_without_calls", _flag),
    "grpc.keepalive_time_ms": ("keepalive", _seconds_or_never),
    "grpc.keepalive_timeout_ms": ("keepalive_timeout", _seconds_or_never),
    "grpc.max_allowed_incoming_connections": ("limits.max_connections", _whole),
    "grpc.max_concurrent_streams": ("max_concurrent_streams", _whole),
    "grpc.max_connection_age_grace_ms": ("max_connection_age_grace", _seconds_or_never),
    "grpc.max_connection_age_ms": ("max_connection_age", _seconds_or_never),
    "grpc.max_connection_idle_ms": ("max_connection_idle", _seconds_or_never),
    "grpc.max_metadata_size": ("limits.header_list_advertised", _whole),
    "grpc.max_receive_message_length": ("max_request_bytes", _size),
    "grpc.max_send_message_length": ("max_response_bytes", _size),
    "grpc.server_handshake_timeout_ms": ("limits.handshake_timeout_s", _seconds),
    "grpc.so_reuseport": ("reuse_port", _flag),
}

_BUFFERS = "how lbkit reads and writes its sockets is its own affair"
_PINGS = "lbkit sends PINGs for keepalive only, and no more of them than it asks for"
_NAMES = "say it in the target: dns:///name:port?refresh=30&srv=..."
_ALWAYS = "lbkit does that in any case"
_NEVER = "lbkit has nothing of the kind"

# Accepted without a word: name -> why it makes no difference.
NO_EFFECT: Mapping[str, str] = {
    "SingleThreadedUnaryStream": _NEVER,
    "grpc.compression_enabled_algorithms_bitset": "lbkit takes whatever it can decompress",
    "grpc.disable_client_authority_filter": _NEVER,
    "grpc.dns_ares_query_timeout": _NAMES,
    "grpc.dns_enable_srv_queries": _NAMES,
    "grpc.dns_min_time_between_resolutions_ms": _NAMES,
    "grpc.dscp": _NEVER,
    "grpc.enable_channelz": "lbkit.services.channelz shows every channel and server",
    "grpc.expand_wildcard_addrs": _ALWAYS,
    "grpc.experimental.enable_hedging": _ALWAYS,
    "grpc.experimental.http2.enable_preferred_frame_size": _BUFFERS,
    "grpc.experimental.tcp_max_read_chunk_size": _BUFFERS,
    "grpc.experimental.tcp_min_read_chunk_size": _BUFFERS,
    "grpc.experimental.tcp_read_chunk_size": _BUFFERS,
    "grpc.experimental.tcp_tx_zerocopy_enabled": _BUFFERS,
    "grpc.experimental.tcp_tx_zerocopy_max_simultaneous_sends": _BUFFERS,
    "grpc.experimental.tcp_tx_zerocopy_send_bytes_threshold": _BUFFERS,
    "grpc.happy_eyeballs_connection_attempt_delay_ms": "lbkit waits for 250 ms, as RFC 8305 recommends",
    "grpc.http2.bdp_probe": "lbkit widens windows as far as a path needs it",
    "grpc.http2.hpack_table_size.decoder": _BUFFERS,
    "grpc.http2.hpack_table_size.encoder": _BUFFERS,
    "grpc.http2.max_pings_without_data": _PINGS,
    "grpc.http2.min_sent_ping_interval_without_data_ms": _PINGS,
    "grpc.http2.min_time_between_pings_ms": _PINGS,
    "grpc.http2.ping_timeout_ms": _PINGS,
    "grpc.http2.true_binary": "lbkit sends what every peer takes",
    "grpc.http2.write_buffer_size": _BUFFERS,
    "grpc.max_channel_trace_event_memory_per_node": "the trace of a channel has a bound of its own",
    "grpc.max_connections_per_subchannel_cap": "a service config may ask for 10",
    "grpc.minimal_stack": _NEVER,
    "grpc.optimization_target": _NEVER,
    "grpc.per_message_compression": _ALWAYS,
    "grpc.per_message_decompression": _ALWAYS,
    "grpc.per_rpc_retry_buffer_size": "how much lbkit keeps for retries is fixed",
    "grpc.ssl_session_cache": _NEVER,
    "grpc.tcp_receive_buffer_size": _BUFFERS,
    "grpc.use_local_subchannel_pool": "no two channels of lbkit share connections",
}

# Fields of service configs that an option takes out: of each method, and of the whole.
_RETRIES = ("retryPolicy", "hedgingPolicy")
_CHECKS = "healthCheckConfig"

_LIMITS = "limits."


def channel_keywords(options: Options, *, stacklevel: int = 2) -> dict[str, Any]:
    """Return keyword arguments of ``lbkit.Channel``, and under ``server_name`` the name that overrides TLS's.

    What is not said is as grpcio has it: ``pick_first``.

    Args:
        options: as grpcio takes them; of several with one name the last counts.
        stacklevel: whose line a warning names, as for ``warnings.warn``.

    Raises:
        ValueError: an option has a wrong value, or is no pair; says which and what.
    """
    found = _read(options, CHANNEL, SERVER, stacklevel + 1)
    keywords: dict[str, Any] = {"balancer": "pick_first", **_plain(found)}
    if keywords.get("max_response_bytes", 0) is None:
        keywords["max_response_bytes"] = _MESSAGE_MOST
    if "backoff.initial_s" in found or "backoff.maximum_s" in found:
        usual = BackoffPolicy()
        initial = found.get("backoff.initial_s", usual.initial_s)
        maximum = found.get("backoff.maximum_s", max(usual.maximum_s, initial))
        keywords["backoff"] = BackoffPolicy(min(initial, maximum), maximum_s=maximum)
    agents = [found[part] for part in ("user_agent.first", "user_agent.second") if part in found]
    if agents:
        keywords["user_agent"] = " ".join(agents)
    if not found.get("proxy.allowed", True):
        keywords["proxy"] = False
    if found.get("service_config.own_only"):
        keywords["resolver_service_config"] = False
    if "service_config" in keywords:
        keywords["service_config"] = _without(
            keywords["service_config"],
            retries=not found.get("service_config.retries", True),
            checks=found.get("service_config.unchecked", False),
        )
    if "tls.server_name" in found:
        keywords["server_name"] = found["tls.server_name"]
    return keywords


def server_keywords(options: Options, *, stacklevel: int = 2) -> dict[str, Any]:
    """Return keyword arguments of ``lbkit.Server``; arguments and errors as for ``channel_keywords``.

    What is not said is as grpcio has it: any number of calls on a connection, and no compression.
    """
    found = _read(options, SERVER, CHANNEL, stacklevel + 1)
    keywords = {"max_concurrent_streams": NO_LIMIT, "compression": Compression.NoCompression, **_plain(found)}
    if keywords.get("max_request_bytes", 0) is None:
        keywords["max_request_bytes"] = _MESSAGE_MOST
    return keywords


def _read(options: Options, table: Table, other: Table, stacklevel: int) -> dict[str, Any]:
    """Read every option that the table has."""
    found: dict[str, Any] = {}
    for option in options or ():
        if not isinstance(option, tuple | list) or len(option) != 2 or not isinstance(option[0], str | bytes):
            raise ValueError(f"options= has {option!r}; write ('grpc.name', value)")
        name, value = option
        name = name.decode() if isinstance(name, bytes) else name
        if name in table:
            keyword, read = table[name]
            try:
                found[keyword] = read(value)
                if keyword.startswith(_LIMITS):
                    Limits(**{keyword.removeprefix(_LIMITS): found[keyword]})  # which has ranges
            except ValueError as error:
                raise ValueError(f"option {name!r} is {value!r}: {error}") from None
        elif name not in other and name not in NO_EFFECT:
            warnings.warn(
                f"lbkit does not know the option {name!r}; it has no effect.{did_you_mean(name, table)}",
                UnknownOptionWarning,
                stacklevel=stacklevel,
            )
    return found


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what both sides have in common: keywords that stand for themselves, limits and keepalive."""
    keywords = {name: value for name, value in found.items() if "." not in name}
    if keywords.get("keepalive_timeout", 0.0) is None:  # whoever waits for ever needs not ask
        del keywords["keepalive_timeout"]
        keywords["keepalive"] = None
    limits = {name.removeprefix(_LIMITS): value for name, value in found.items() if name.startswith(_LIMITS)}
    if limits:
        usual = Limits()
        most = limits.get("max_header_list")
        if most is None:  # as grpcio: a quarter more than what is announced, and not less than usual
            most = max(usual.max_header_list, limits.get("header_list_advertised", 0) * 5 // 4)
        limits["max_header_list"] = most
        limits["abusive_header_list"] = max(usual.abusive_header_list, 4 * most)
        keywords["limits"] = replace(usual, **limits)
    return keywords


def _without(text: str, *, retries: bool, checks: bool) -> str | dict[str, Any]:
    """Return a service config without what is switched off."""
    if not retries and not checks:
        return text
    import json  # few programs switch something off

    try:
        config = json.loads(text)
    except ValueError:
        return text  # the channel says what is wrong with it
    if not isinstance(config, dict):
        return text
    if checks:
        config.pop(_CHECKS, None)
    methods = config.get("methodConfig")
    if retries and isinstance(methods, list):
        config["methodConfig"] = [
            {key: value for key, value in method.items() if key not in _RETRIES}
            if isinstance(method, dict)
            else method
            for method in methods
        ]
    return config
