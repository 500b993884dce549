"""What resolvers give and balancers take: a whole answer, and the verdict on it.

The only vocabulary that the resolver and the balancer contracts share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from lbkit.address import Endpoint
from lbkit.callinfo import CallInfo
from lbkit.frozen import Frozen
from lbkit.retry import HedgingPolicy, RetryPolicy

NOTHING: Mapping[str, Any] = MappingProxyType({})


class MethodConfig(NamedTuple):
    """What applies to every call of a method; sizes in bytes, times in seconds, None where it says nothing.

    Of a time-out or a size here and one that the call or the channel gives, the smaller counts. About waiting for a
    backend a call has the last word.
    """

    timeout_s: float | None = None
    wait_for_ready: bool | None = None
    max_request_bytes: int | None = None
    max_response_bytes: int | None = None
    retry: RetryPolicy | None = None
    hedging: HedgingPolicy | None = None  # a method has one of the two at most


UNCONFIGURED = MethodConfig()  # of a method that no service config is about; told by identity


class CallConfig(NamedTuple):
    """A call selector's answer for one call.

    Attributes:
        method_config: time-out, sizes, wait-for-ready.
        attributes: handed to the picker as ``call.attributes``.
        on_commit: called once, when the call has been bound to a backend for good or has ended.
    """

    method_config: MethodConfig
    attributes: Mapping[str, object] = NOTHING
    on_commit: Callable[[], None] | None = None


class CallSelector(Protocol):
    """Decides per call what configuration applies (gRFC A31); xDS routing is one of these."""

    def select(self, call: CallInfo) -> CallConfig:
        """Return the configuration of one call: no await, no I/O. Called for every call, before the pick.

        Raises:
            RpcError: no configuration applies; the call ends with this status, or with INTERNAL where only a server may
                say so (gRFC A54). Anything else that it raises is its own mistake: INTERNAL.
        """
        ...


class Resolution(Frozen):
    """One whole answer of a resolver: a snapshot, never a difference.

    Attributes:
        endpoints: all backends. Empty is an answer too: there are none.
        service_config: the service config that came with the answer, as JSON text or parsed; None for none.
        attributes: anything a policy of the same author wants to know.
        selector: a call selector, or None for the static look-up in the service config.
        generation: numbers the snapshots of one channel; set by the channel, and no part of ``==``.
        source: where the answer comes from, for people to read (``etcd 10.0.0.5:2379, revision 42``); no part of
            ``==`` either.
    """

    __slots__ = ("attributes", "endpoints", "generation", "selector", "service_config", "source")

    endpoints: tuple[Endpoint, ...]
    service_config: str | Mapping[str, Any] | None
    attributes: Mapping[str, Any]
    selector: CallSelector | None
    generation: int
    source: str

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        service_config: str | Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] = NOTHING,
        selector: CallSelector | None = None,
        generation: int = 0,
        source: str = "",
    ) -> None:
        self._set("endpoints", endpoints)
        self._set("service_config", service_config)
        self._set("attributes", attributes)
        self._set("selector", selector)
        self._set("generation", generation)
        self._set("source", source)

    def numbered(self, generation: int) -> Resolution:
        """Return the same answer with another number."""
        return Resolution(
            self.endpoints, self.service_config, self.attributes, self.selector, generation, self.source
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Resolution):
            return NotImplemented
        return (
            self.endpoints == other.endpoints
            and self.service_config == other.service_config
            and self.attributes == other.attributes
            and self.selector == other.selector
        )

    __hash__ = None  # type: ignore[assignment]  # its mappings have none

    def __repr__(self) -> str:
        return f"Resolution({list(self.endpoints)!r}, generation={self.generation})"


class Verdict(NamedTuple):
    """What the balancer said to an update.

    A polling resolver treats a rejection like a failed look-up (raise, to be started again after a back-off);
    a watching resolver may ignore it, as nothing would change by asking again.
    """

    accepted: bool
    reason: str = ""


ACCEPTED = Verdict(accepted=True)


class Discovery(NamedTuple):
    """What a channel's resolver has said so far, for who watches over it. ``Channel.discovery()`` gives it.

    Attributes:
        resolution: the last good answer, which is in use; None if there was none.
        age_s: seconds since the resolver last gave it; 0 if there was none. One that is told of changes may rightly be
            silent for long.
        error: why there was no other one since; None if nothing failed since then.
    """

    resolution: Resolution | None
    age_s: float
    error: Exception | None
