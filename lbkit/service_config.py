"""The service config: what a service's owner says about calls to it, in JSON (gRFC A2, A6, A21, A24).

Pure. ``parse`` refuses a config as a whole if any field that lbkit knows is wrong in it, and ignores those that it
does not know (gRFC A21). Docs: https://github.com/grpc/grpc/blob/master/doc/service_config.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lbkit.balancer import BalancerFactory
from lbkit.frozen import Frozen
from lbkit.resolution import NOTHING, UNCONFIGURED, MethodConfig
from lbkit.retry import RetryThrottling

MAX_CONNECTIONS = 10  # of one subchannel, whatever a service config says (gRFC A105)


class PolicyChoice(NamedTuple):
    """A balancing policy and how it is configured."""

    name: str
    factory: BalancerFactory
    config: Mapping[str, Any] = NOTHING


class ServiceConfig(Frozen):
    """A service config that has been found good. Immutable; made by ``parse``, or without fields.

    Attributes:
        json: what it was made of.
        methods: by ``/service/method``, ``/service/``, or ``""`` for all others.
        policy: what balances; None leaves it to the channel.
        retry_throttling: for all calls of a channel; None for no throttling.
        health_check_service: what a backend must say about it that it is serving (gRFC A17); None for no checks.
        max_connections_per_subchannel: from 1 to ``MAX_CONNECTIONS`` (gRFC A105); None leaves it to the channel.
    """

    __slots__ = (
        "health_check_service",
        "json",
        "max_connections_per_subchannel",
        "methods",
        "policy",
        "retry_throttling",
    )

    json: Mapping[str, Any]
    methods: Mapping[str, MethodConfig]
    policy: PolicyChoice | None
    retry_throttling: RetryThrottling | None
    health_check_service: str | None
    max_connections_per_subchannel: int | None

    def __init__(
        self,
        json: Mapping[str, Any] = NOTHING,
        *,
        methods: Mapping[str, MethodConfig] = NOTHING,
        policy: PolicyChoice | None = None,
        retry_throttling: RetryThrottling | None = None,
        health_check_service: str | None = None,
        max_connections_per_subchannel: int | None = None,
    ) -> None:
        self._set("json", json)
        self._set("methods", methods)
        self._set("policy", policy)
        self._set("retry_throttling", retry_throttling)
        self._set("health_check_service", health_check_service)
        self._set("max_connections_per_subchannel", max_connections_per_subchannel)

    def method(self, path: str) -> MethodConfig:
        """Return what applies to a method: its own entry, or else its service's, or else the default; never a mix."""
        methods = self.methods
        service = path[: path.rfind("/") + 1]
        return methods.get(path) or methods.get(service) or methods.get("") or UNCONFIGURED

    def __repr__(self) -> str:
        # Only imported to be looked at: ``import lbkit`` does not pay for it.
        from json import dumps

        return f"ServiceConfig({dumps(dict(self.json), default=repr)})"


EMPTY = ServiceConfig()


def parse(config: str | Mapping[str, Any]) -> ServiceConfig:
    """Make a service config of JSON text, or of what that would be as Python objects.

    Called for ``Channel(service_config=)``, and for what resolvers give.

    Raises:
        ServiceConfigError: it is no JSON, or a field of it is wrong; says where and what, of every such field.
    """
    from lbkit.config_reading import read

    return read(config)
