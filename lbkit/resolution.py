"""What resolvers give and balancers take: a whole answer, and the verdict on it.

The only vocabulary that the resolver and the balancer contracts share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from lbkit.address import Endpoint
from lbkit.callinfo import CallInfo


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """What applies to every call of a method unless the call says less; sizes in bytes, times in seconds."""

    timeout_s: float | None = None
    wait_for_ready: bool = False
    max_request_bytes: int | None = None
    max_response_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CallConfig:
    """A call selector's answer for one call.

    Attributes:
        method_config: time-out, sizes, wait-for-ready.
        attributes: handed to the picker as ``call.attributes``.
        on_commit: called once, when the call has been bound to a backend for good or has ended.
    """

    method_config: MethodConfig
    attributes: Mapping[str, object] = field(default_factory=dict)
    on_commit: Callable[[], None] | None = None


class CallSelector(Protocol):
    """Decides per call what configuration applies (gRFC A31); xDS routing is one of these."""

    def select(self, call: CallInfo) -> CallConfig:
        """Return the configuration of one call: no await, no I/O. Called for every call, before the pick."""
        ...


@dataclass(frozen=True, slots=True)
class Resolution:
    """One whole answer of a resolver: a snapshot, never a difference.

    Attributes:
        endpoints: all backends. Empty is an answer too: there are none.
        service_config: the service config that came with the answer, parsed JSON, or None for none.
        attributes: anything a policy of the same author wants to know.
        selector: a call selector, or None for the static look-up in the service config.
        generation: numbers the snapshots of one channel; set by the channel, and no part of ``==``.
    """

    endpoints: tuple[Endpoint, ...]
    service_config: Mapping[str, Any] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    selector: CallSelector | None = None
    generation: int = field(default=0, compare=False)


class Verdict(NamedTuple):
    """What the balancer said to an update.

    A polling resolver treats a rejection like a failed look-up (raise, to be started again after a back-off);
    a watching resolver may ignore it, as nothing would change by asking again.
    """

    accepted: bool
    reason: str = ""


ACCEPTED = Verdict(accepted=True)
