"""What all four kinds of call have in common on the client: what the application says, limits, and the deadline."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from lbkit.ambient import serving
from lbkit.call.attempts import Attempts, restrict
from lbkit.call.hedging import Hedges
from lbkit.call.inherited import inherit
from lbkit.call.packing import await_response
from lbkit.call.record import CANCELLED, CallRecord, wake
from lbkit.call.retrying import Retries
from lbkit.encoding.compressors import Encoding, known
from lbkit.errors import RpcError
from lbkit.http2.frames import ErrorCode
from lbkit.http2.hpack import Field
from lbkit.http2.stream import NULL_SINK
from lbkit.metadata import MetadataLike
from lbkit.resolution import UNCONFIGURED, CallConfig, MethodConfig
from lbkit.status import Status, StatusCode
from lbkit.transport.offload import Offload
from lbkit.wire.metadata import encode_metadata
from lbkit.wire.packing import encoding_in
from lbkit.wire.status import OK
from lbkit.wire.timeout import encode_timeout

if TYPE_CHECKING:
    from lbkit.ambient import Served
    from lbkit.call.multicallable import MultiCallable
    from lbkit.deadline import Bucket

_log = logging.getLogger("lbkit.call")

# What an application says with a call: time-out, metadata, wait-for-ready, the limits for a request and for a
# response message, compression, credentials. A plain tuple: one is made for every call.
CallOptions: TypeAlias = tuple[float | None, MetadataLike, bool | None, int | None, int | None, Any, Any]


class Call(Attempts):
    """One running call. It starts when it is made."""

    __slots__ = ()

    bucket: Bucket | None  # set by Deadlines
    _response: Any

    def __init__(self, method: MultiCallable, options: CallOptions, size: int) -> None:
        """Start a call. Made by multicallables, not by applications.

        Args:
            method: which method.
            options: what the application said.
            size: of the request, in bytes; 0 for a stream of them.

        Raises:
            MetadataError: the metadata must not go on the wire.
        """
        CallRecord.__init__(self)
        timeout, metadata, wait_for_ready, request_limit, response_limit, compression, credentials = options
        channel = method.channel
        self._method = method
        self._channel = channel
        self._metadata = metadata
        self._fields = encode_metadata(metadata) if metadata else []
        self._sent = self._began = channel.last_call_at = channel.clock.time()
        channel.calls_started += 1
        refusal = None
        try:
            self._config = channel.select(self)
        except Exception as error:  # a stranger's call selector: its mistake ends this call, nothing else
            self._config = CallConfig(UNCONFIGURED)
            refusal = self._unselected(error)
        config = self._config.method_config
        if config is UNCONFIGURED:  # nothing but the call and the channel to ask, as a rule
            self._wait_for_ready = wait_for_ready
            self._request_limit = channel.max_request_bytes if request_limit is None else request_limit
            self._response_limit = channel.response_limit if response_limit is None else response_limit
        else:
            self._wait_for_ready = config.wait_for_ready if wait_for_ready is None else wait_for_ready
            self._limit(config, request_limit, response_limit)
            if config.timeout_s is not None and (timeout is None or config.timeout_s < timeout):
                timeout = config.timeout_s
        if timeout == inf:
            timeout = None
        served = serving.get()
        if served is not None:
            timeout, refusal = inherit(self, served, timeout, refusal)
        self._deadline = None if timeout is None else self._began + timeout
        if self._request_limit is not None and size > self._request_limit:
            refusal = refusal or self.too_large(size)
        if timeout is not None and timeout <= 0:
            text = f"the timeout was {timeout} s to begin with"
            refusal = refusal or Status(StatusCode.DEADLINE_EXCEEDED, text)
        if refusal is not None:
            self._finish(refusal)
            return
        if timeout is not None:
            self._fields.insert(0, (b"grpc-timeout", encode_timeout(timeout)))
            channel.deadlines.add(self, self._began + timeout)
        if compression is not None:
            self._fields.append(compression.field)
        if credentials is not None or channel.call_credentials is not None:
            from lbkit.call.authorizing import authorize

            if not authorize(self, channel, credentials):
                return
        if compression is not None:
            self._compress(compression)
            return
        if config is not UNCONFIGURED:
            self._plan_attempts(config)
        self.attempt()

    def begin(self) -> None:
        """Make the first attempt of a call that has waited for its credentials."""
        name = encoding_in(tuple(self._fields))
        encoding = None if name is None else known(name.decode())
        if encoding is None:
            self._set_off()
        else:
            self._compress(encoding)

    def configure(self) -> None:
        """Take the configuration that applies, now that it is known. For a call that began before it was.

        Called by the channel when its resolver has answered, or failed, for the first time. Nothing was sent yet.
        """
        if self._status is not None:
            return
        channel = self._channel
        try:
            self._config = channel.select(self)
        except Exception as error:  # as in __init__
            self._finish(self._unselected(error))
            self._leave_queues()
            return
        config = self._config.method_config
        if self._wait_for_ready is None:
            self._wait_for_ready = config.wait_for_ready
        if (most := config.max_request_bytes) is not None:
            self._request_limit = smaller(most, self._request_limit)
        if (most := config.max_response_bytes) is not None:
            unsaid = channel.max_response_bytes is None and self._response_limit == channel.response_limit
            self._response_limit = most if unsaid else min(most, self._response_limit)
        if config.timeout_s is not None:
            self._hurry(config.timeout_s)
        if self._request_limit is not None and (size := self._largest_request()) > self._request_limit:
            self._finish(self.too_large(size))
            self._leave_queues()
            return
        if self in channel._queued:  # else it has not set off yet, and does this then
            self._plan_attempts(config)

    # For the kinds of call

    @abstractmethod
    def _largest_request(self) -> int:
        """Return the size of the largest request so far."""

    @abstractmethod
    def _compress(self, encoding: Encoding) -> None:
        """Compress the request, if there is one already, and then set off."""

    @abstractmethod
    def packed(self, request: bytes) -> None:
        """Set off with the request, which is compressed now."""

    def _over(self) -> None:
        """Let go of everything, and wake who waits: the call has its status."""

    def _discard(self) -> None:
        """Throw away what the application has not read: it is not interested, or too late."""

    # For the application

    def cancel(self) -> bool:
        """End the call with CANCELLED, here and on the server. False if it is over already."""
        if self._status is not None:
            return False
        self._abandon(ErrorCode.CANCEL)
        self._discard()
        self._finish(CANCELLED)
        self._leave_queues()
        return True

    # The deadline's client

    def expired(self) -> None:
        """End the call with DEADLINE_EXCEEDED."""
        if self._status is None:
            self._abandon(ErrorCode.CANCEL)
            self._discard()
            self._finish(self._too_late())
            self._leave_queues()

    # The served call's client

    def bind_to(self, served: Served, bites: bool) -> None:
        """Take note of the call that this one is made for, and whether the deadline is of that one."""
        self._served = served, bites
        served.adopt(self)

    def served_ended(self, status: Status) -> None:
        """End the call: the one that it was made for was cancelled. Called in any thread."""
        loop = self._channel.loop
        if asyncio.get_running_loop() is not loop:
            with suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(self.served_ended, status)
        elif self._status is None:
            self._discard()
            self.break_off(status)

    # For credentials and ``packing``

    def add_fields(self, fields: list[Field]) -> None:
        """Send these, too. Called before the first attempt."""
        self._fields += fields

    @property
    def offload(self) -> Offload:
        """Where large messages are compressed and decompressed."""
        return self._channel.offload

    def _wait_for_response(self, status: Status, response: asyncio.Future[bytes]) -> None:
        await_response(self, status, response)

    def unpacked(self, status: Status, response: bytes) -> None:
        """End the call: the response is decompressed now, and came with this status."""
        found, self._response = self.parse(response)
        self._finish(status if found is OK else found)

    def _set_off(self) -> None:
        self._plan_attempts(self._config.method_config)
        self.attempt()

    # Inside

    def _unselected(self, error: Exception) -> Status:
        """Return the status for a call whose selector raised: its own word if it is an RpcError (gRFC A31)."""
        if isinstance(error, RpcError):
            return restrict(Status(error.code(), error.details()), "the call selector")
        _log.error("the call selector of %s raised", self._channel.target, exc_info=error)
        return Status(StatusCode.INTERNAL, f"the call selector raised {type(error).__name__}: {error}")

    def _limit(self, config: MethodConfig, request_limit: int | None, response_limit: int | None) -> None:
        """Set the limits of messages: of what the config says and what the call or the channel does, the smaller."""
        channel = self._channel
        if request_limit is None:
            request_limit = channel.max_request_bytes
        most = config.max_request_bytes
        self._request_limit = request_limit if most is None else smaller(most, request_limit)
        if response_limit is None:
            response_limit = channel.max_response_bytes
        most = config.max_response_bytes
        if most is not None:
            self._response_limit = smaller(most, response_limit)
        else:
            self._response_limit = channel.response_limit if response_limit is None else response_limit

    def _plan_attempts(self, config: MethodConfig) -> None:
        """Have somebody decide on further attempts, if the method has a policy for them."""
        if config.retry is not None:
            self._retries = Retries(self, config.retry)
            self._retries.start()
        elif config.hedging is not None:
            self._retries = Hedges(self, config.hedging)
            self._retries.start()

    def _hurry(self, timeout_s: float) -> None:
        """Set a deadline, unless there is an earlier one."""
        deadline = self._channel.clock.time() + timeout_s
        if self._deadline is not None:
            if self._deadline <= deadline:
                return
            del self._fields[0]
        if self.bucket is not None:
            self.bucket.pop(self, None)
        self._deadline = deadline
        if self._served is not None:
            self._served = self._served[0], False
        self._fields.insert(0, (b"grpc-timeout", encode_timeout(timeout_s)))
        self._channel.deadlines.add(self, deadline)

    def spoil(self, status: Status) -> None:
        """Have a call fail of which the server said that all went well: what it sent is of no use."""
        self._finish(status)
        self._status = status
        self._took = self._channel.clock.time() - self._began

    def too_large(self, size: int) -> Status:
        """Return the status for a request above the limit."""
        text = f"request of {size} bytes is larger than the limit of {self._request_limit}"
        return Status(StatusCode.RESOURCE_EXHAUSTED, text)

    def parse(self, payload: bytes) -> tuple[Status, Any]:
        """Parse a response message; the status says what came of it."""
        try:
            return OK, self._method.deserialize(payload)
        except Exception as error:  # whatever a deserialiser raises
            text = f"the response cannot be parsed: {type(error).__name__}: {error}"
            return Status(StatusCode.INTERNAL, text), None

    def _finish(self, status: Status) -> None:
        if self._status is not None or (self._retries is not None and self._retries.ended(self, status)):
            return
        self._status = status
        channel = self._channel
        if status.code is StatusCode.OK:
            channel.calls_succeeded += 1
        else:
            channel.calls_failed += 1
        if status is not OK:
            self._took = channel.clock.time() - self._began
        elif channel.retry_throttle is not None:
            channel.retry_throttle.succeeded()
        if self.bucket is not None:
            self.bucket.pop(self, None)
            self.bucket = None
        if self._stream is not None:
            self._stream.sink = NULL_SINK
        if self._picked is not None:
            self._release(status)
        if self._served is not None:
            self._served[0].forget(self)
            self._served = None
        if self._config.on_commit is not None:
            try:
                self._config.on_commit()
            except Exception:  # as for on_done: it must not lose the call, nor the connection it came on
                _log.exception("on_commit of a call selector on %s raised", self._channel.target)
        self._over()
        if self._future is not None:
            wake(self._future)
        if self._head_future is not None:
            wake(self._head_future)
        if self._callbacks is not None:
            for callback in self._callbacks:
                self._channel.loop.call_soon(callback, self)


def smaller(most: int, other: int | None) -> int:
    """Return the smaller of two limits, of which one may be missing."""
    return most if other is None or most < other else other
