"""Every exception that lbkit raises on purpose.

- ``Error``
    - ``RpcError``: a call ended with a status other than OK
    - ``AbortError``: raised inside a handler by ``context.abort``; ends the handler, nothing else
    - ``ChannelError``: the channel cannot be used here and now
        - ``ChannelClosedError``: it was closed
        - ``ForeignLoopError``: it belongs to another event loop
        - ``ForkedError``: it was made before this process was forked
    - ``ConnectError``: one attempt to reach a backend failed
    - ``ResolverError``: a resolver has no answer that can be used
    - ``RegistrationError``: a server cannot be registered
    - ``TargetError``: a target cannot be understood (also a ValueError)
    - ``AddressError``: an address or endpoint is not valid (also a ValueError)
    - ``ServiceConfigError``: a service config is wrong; says where (also a ValueError)
    - ``MetadataError``: metadata cannot be sent (also a ValueError)
    - ``PluginError``: something about plug-ins
        - ``UnknownPluginError``: no such name; says the nearest one (also a LookupError)
        - ``DuplicatePluginError``: two owners claim one name
        - ``BrokenPluginError``: an installed plug-in fails to import
    - ``CompressionError``: a message cannot be decompressed
        - ``CorruptDataError``: it is not what its compressor made
        - ``OversizedDataError``: it is larger than the limit
    - ``UsageError``: a call was used in a way that its state or its kind does not allow
    - ``CrashLoopError``: worker processes cannot be kept running
    - ``NotSupportedError``: asked for something that lbkit does not do yet
"""

from __future__ import annotations

from collections.abc import Sequence

from lbkit.metadata import EMPTY, Metadata
from lbkit.status import Status, StatusCode

_LISTED = 10  # problems in the text of one error; the rest is counted


class Error(Exception):
    """The root: ``except lbkit.Error`` catches everything that lbkit raises on purpose."""


class Attempt:
    """One try of a call on one backend.

    Attributes:
        backend: the endpoint it went to, as text.
        started_s: seconds from the start of the call to the start of this attempt.
        kind: ``"first"``, ``"retry"``, ``"hedge"``, or ``"transparent retry"`` of one that no server had looked at.
        status: what it ended with; None while it runs.
    """

    __slots__ = ("backend", "kind", "started_s", "status")

    def __init__(
        self, backend: str, started_s: float, kind: str = "first", status: Status | None = None
    ) -> None:
        self.backend = backend
        self.started_s = started_s
        self.kind = kind
        self.status = status

    def __repr__(self) -> str:
        end = "running" if self.status is None else f"{self.status.code.name}: {self.status.details}"
        return f"{self.kind} on {self.backend} at +{self.started_s:.3f} s, {end}"


class RpcError(Error):
    """A call ended with a status other than OK.

    The accessors are methods, as on ``grpc.aio.AioRpcError``, which errors of calls are as well where grpcio is loaded
    (see ``lbkit.foreign``). What that does not tell: ``backend`` (where the last attempt went, or None if none was
    picked), ``attempts`` (every one) and ``elapsed_s``.
    """

    def __init__(
        self,
        code: StatusCode,
        details: str = "",
        *,
        initial_metadata: Metadata = EMPTY,
        trailing_metadata: Metadata = EMPTY,
        attempts: Sequence[Attempt] = (),
        elapsed_s: float = 0.0,
    ) -> None:
        super().__init__(code, details)
        self._code = code
        self._details = details
        self._initial_metadata = initial_metadata
        self._trailing_metadata = trailing_metadata
        self.attempts = tuple(attempts)
        self.elapsed_s = elapsed_s

    @property
    def backend(self) -> str | None:
        """The endpoint of the last attempt, or None if the call never got to one."""
        return self.attempts[-1].backend if self.attempts else None

    def code(self) -> StatusCode:
        """Return the status code."""
        return self._code

    def details(self) -> str:
        """Return the text that came with the code."""
        return self._details

    def initial_metadata(self) -> Metadata:
        """Return what the server sent before its answer; empty if nothing came."""
        return self._initial_metadata

    def trailing_metadata(self) -> Metadata:
        """Return what the server sent with the status; empty if nothing came."""
        return self._trailing_metadata

    def __str__(self) -> str:
        count = f"{len(self.attempts)} attempts, " if len(self.attempts) > 1 else ""
        where = f" [{count}{self.backend}, {self.elapsed_s:.3f} s]" if self.attempts else ""
        return f"{self._code.name}: {self._details}{where}"


class AbortError(Error):
    """Raised by ``ServicerContext.abort`` to leave the handler; never reaches a caller of lbkit."""


class ChannelError(Error):
    """A channel cannot be used here and now."""


class ChannelClosedError(ChannelError):
    """The channel was closed; make a new one."""


class ForeignLoopError(ChannelError):
    """The channel belongs to another event loop; make one channel per loop."""


class ForkedError(ChannelError):
    """The channel was made before this process was forked; make a new one in the child."""


class ConnectError(Error):
    """One attempt to reach a backend failed; the text says why, in words a person can act on."""


class ResolverError(Error):
    """A resolver has no answer that can be used; it backs off and tries again."""


class RegistrationError(Error):
    """A server cannot be registered, or is not any more; the text says why.

    Args:
        text: why, and what to do.
        wait_s: seconds after which it makes sense to try again, where that is longer than the registrar's back-off.
    """

    def __init__(self, text: str = "", *, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class TargetError(Error, ValueError):
    """A channel's target cannot be understood."""


class AddressError(Error, ValueError):
    """An address or endpoint is not valid."""


class ServiceConfigError(Error, ValueError):
    """A service config is wrong, and none of it is used.

    Attributes:
        problems: everything that is wrong, like ``methodConfig[1].retryPolicy.maxAttempts: 1 is less than 2``.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        listed = self.problems[:_LISTED]
        more = len(self.problems) - len(listed)
        return "; ".join((*listed, f"and {more} more")) if more else "; ".join(listed)


class MetadataError(Error, ValueError):
    """Metadata that must not go on the wire; raised at the call, before anything is sent."""


class PluginError(Error):
    """Something is wrong with a plug-in, or with asking for one."""


class UnknownPluginError(PluginError, LookupError):
    """No plug-in has that name; the text names the nearest and all known ones."""

    def __str__(self) -> str:
        return str(self.args[0])  # a LookupError would show the repr


class DuplicatePluginError(PluginError):
    """Two different plug-ins claim one name; the text names both owners."""


class BrokenPluginError(PluginError):
    """An installed plug-in cannot be imported or is not what its group asks for."""


class CompressionError(Error):
    """A message cannot be decompressed. Raised by compressors; calls end with a status for it."""


class CorruptDataError(CompressionError):
    """Data that its compressor did not make, or not all of it, or more: the call ends with INTERNAL."""


class OversizedDataError(CompressionError):
    """Decompressed, data would be larger than the limit: the call ends with RESOURCE_EXHAUSTED."""


class UsageError(Error):
    """A call was used in a way that its state or its kind does not allow; the text says what to do instead."""


class NotSupportedError(Error):
    """Asked for something that lbkit does not do (yet); the text says what to use instead."""


class CrashLoopError(Error):
    """Workers end as fast as they are started; the text says how the last one did."""
