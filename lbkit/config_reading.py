"""Reads service configs: every rule of gRFC A6, A21, A24 and A105, each mistake with its place.

Imported where there is something to read: ``import lbkit`` does not pay for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from lbkit.balancer import BalancerFactory, check_config
from lbkit.balancer import registry as balancers
from lbkit.errors import PluginError, ServiceConfigError
from lbkit.json_fields import (
    Fields,
    Unfit,
    above_0,
    codes,
    duration,
    items,
    longer_than_0,
    show,
    some_codes,
    text,
    truth,
    whole,
)
from lbkit.options import ANYTHING
from lbkit.resolution import NOTHING, MethodConfig
from lbkit.retry import MAX_ATTEMPTS, HedgingPolicy, RetryPolicy, RetryThrottling
from lbkit.service_config import MAX_CONNECTIONS, PolicyChoice, ServiceConfig

_bytes = whole(0, 2**32 - 1)
_attempts = whole(2, 2**31 - 1)
_tokens = above_0(1000)
_factor = above_0()


def read(config: str | Mapping[str, Any]) -> ServiceConfig:
    """Do what ``lbkit.service_config.parse`` says.

    Raises:
        ServiceConfigError: it is no JSON, or a field of it is wrong.
    """
    problems: list[str] = []
    try:
        value = _load(config) if isinstance(config, str) else config
        found = _read(value, problems)
    except RecursionError:
        raise ServiceConfigError(("the service config is nested too deeply",)) from None
    if problems:
        raise ServiceConfigError(tuple(problems))
    return found


def _load(config: str) -> Any:
    try:
        return json.loads(config, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        what = f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
    except ValueError as error:  # from one of the hooks, or a number of too many digits
        what = f"not JSON: {error}"
    raise ServiceConfigError((f"the service config is {what}",))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the field {twice!r} twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"there is no {name} in JSON")


def _read(value: object, problems: list[str]) -> ServiceConfig:
    fields = Fields(value, "", problems)
    health, scaling = fields.inner("healthCheckConfig"), fields.inner("connectionScaling")
    connections = scaling.read("maxConnectionsPerSubchannel", _connections, None) if scaling else None
    return ServiceConfig(
        value if isinstance(value, Mapping) else NOTHING,
        methods=_methods(fields),
        policy=_policy(fields),
        retry_throttling=_throttling(fields.inner("retryThrottling")),
        health_check_service=health.read("serviceName", text, None) if health else None,
        max_connections_per_subchannel=connections,
    )


def _connections(value: object) -> int:
    # 0 is none said, as in gRPC core; too many are all there can be.
    return min(max(_bytes(value), 1), MAX_CONNECTIONS)


# Methods


def _methods(fields: Fields) -> dict[str, MethodConfig]:
    methods: dict[str, MethodConfig] = {}
    for entry in fields.objects("methodConfig"):
        config = _method(entry)
        for name in entry.objects("name"):
            service, method = name.read("service", text, ""), name.read("method", text, "")
            path = f"/{service}/{method}" if service else ""
            if method and not service:
                name.complain("", f"method {show(method)} without a service")
            elif path in methods:
                name.complain("", f"{path or 'the default'} is configured twice")
            methods[path] = config
    return methods


def _method(fields: Fields) -> MethodConfig:
    retry, hedging = fields.inner("retryPolicy"), fields.inner("hedgingPolicy")
    if retry and hedging:
        fields.complain("", "retryPolicy and hedgingPolicy exclude each other")
    return MethodConfig(
        timeout_s=fields.read("timeout", duration, None),
        wait_for_ready=fields.read("waitForReady", truth, None),
        max_request_bytes=fields.read("maxRequestMessageBytes", _bytes, None),
        max_response_bytes=fields.read("maxResponseMessageBytes", _bytes, None),
        retry=_retry(retry) if retry else None,
        hedging=_hedging(hedging) if hedging else None,
    )


def _retry(fields: Fields) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=min(fields.need("maxAttempts", _attempts, MAX_ATTEMPTS), MAX_ATTEMPTS),
        initial_backoff_s=fields.need("initialBackoff", longer_than_0, 0.0),
        max_backoff_s=fields.need("maxBackoff", longer_than_0, 0.0),
        backoff_multiplier=fields.need("backoffMultiplier", _factor, 0.0),
        codes=fields.need("retryableStatusCodes", some_codes, frozenset()),
    )


def _hedging(fields: Fields) -> HedgingPolicy:
    return HedgingPolicy(
        max_attempts=min(fields.need("maxAttempts", _attempts, MAX_ATTEMPTS), MAX_ATTEMPTS),
        delay_s=fields.read("hedgingDelay", duration, 0.0),
        non_fatal_codes=fields.read("nonFatalStatusCodes", codes, frozenset()),
    )


def _throttling(fields: Fields | None) -> RetryThrottling | None:
    if fields is None:
        return None
    tokens = fields.need("maxTokens", _thousandths(_tokens), 0.0)
    return RetryThrottling(tokens, fields.need("tokenRatio", _thousandths(_factor), 0.0))


def _thousandths(read: Callable[[object], float]) -> Callable[[object], float]:
    """Return what reads a number and drops all but three of its decimals (gRFC A6)."""

    def cut(value: object) -> float:
        number = read(value)
        # A large one has no such decimals, and its thousandfold may be infinite; 0.007 * 1000 is above 7.
        rest = number if number > 2**40 else int(number * 1000 + 1e-6) / 1000
        if not rest:
            raise Unfit(f"{show(value)} is not above 0, as only three decimals count")
        return rest

    return cut


# Balancing


def _policy(fields: Fields) -> PolicyChoice | None:
    """Return the first policy of ``loadBalancingConfig`` that there is here, or what the older field names."""
    old = fields.read("loadBalancingPolicy", _by_name, None)
    entries = fields.read("loadBalancingConfig", items, None)
    if entries is None:
        return old
    unknown: list[str] = []
    for place, entry in enumerate(entries):
        at = f"loadBalancingConfig[{place}]"
        if not isinstance(entry, Mapping) or len(entry) != 1:
            fields.complain(at, f"{show(entry)} is not an object with one field, a policy's name")
            return None
        ((name, config),) = entry.items()
        if not isinstance(config, Mapping):
            fields.complain(f"{at}.{name}", f"{show(config)} is not an object")
            return None
        if name in balancers:
            try:
                return _choice(name, config)
            except Unfit as error:
                fields.complain(at, str(error))
                return None
        unknown.append(show(name))
    what = f"none of these policies is known: {', '.join(unknown)}" if unknown else "no policy is named"
    fields.complain("loadBalancingConfig", f"{what}. Known: {', '.join(balancers)}")
    return None


def _by_name(value: object) -> PolicyChoice:
    name = text(value).lower()  # it was an enumeration once, in capitals
    return PolicyChoice(name, _factory(name))


def _choice(name: str, config: Mapping[str, Any]) -> PolicyChoice:
    factory = _factory(name)
    options = getattr(factory, "options", ANYTHING)
    if options is not ANYTHING:  # what somebody else's policy of that name can do is ignored (gRFC A21)
        config = {key: value for key, value in config.items() if key in options}
    try:
        check_config(factory, config)
    except Exception as error:  # a stranger's options: whatever they raise
        raise Unfit(str(error) or repr(error)) from None
    return PolicyChoice(name, factory, config)


def _factory(name: str) -> BalancerFactory:
    try:
        return balancers.get(name)
    except PluginError as error:
        raise Unfit(str(error)) from None
