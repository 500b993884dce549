"""What ``channel.unary_unary`` and its three siblings return: makes the blocking calls of one method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lbkit.call import MultiCallable as AsyncMultiCallable
from lbkit.metadata import MetadataLike
from lbkit.sync.handles import ResponseCall, ResponseIterator
from lbkit.sync.loop_thread import check_thread
from lbkit.sync.requests import Requests
from lbkit.sync.running import Feeding, Running, Streaming, blocking_wait

if TYPE_CHECKING:
    from lbkit.sync.channel import Channel

Request = TypeVar("Request")
Response = TypeVar("Response")


class MultiCallable:
    """One method of one channel.

    Args:
        channel: whose.
        core: the asynchronous multicallable. Its messages become bytes here, in the calling threads, and not on the
            loop, where one large message would hold up all calls.
    """

    def __init__(self, channel: Channel, core: AsyncMultiCallable) -> None:
        self._channel = channel
        self._method: Any = core
        self._to_bytes, core.serialize = core.serialize, bytes
        self._deserialize, core.deserialize = core.deserialize, bytes

    def _serialize(self, request: Any) -> bytes:
        payload = self._to_bytes(request)
        # Says what a serialiser returned that is no bytes at all.
        return payload if type(payload) is bytes else b"".join((payload,))

    def _wait(self, running: Running, timeout: float | None) -> Any:
        """Wait for the response of a call that begins now, and parse it. Nobody else waits for it."""
        # What Running.wait_for_end does, without what others need who come later.
        try:
            ended = running.lock.acquire(True, blocking_wait(timeout))
        except BaseException:  # KeyboardInterrupt
            running.thread.post(running.stop)
            raise
        if not ended:
            running.give_up()
        return running.parse(self._deserialize, running.payload())


class UnaryUnaryMultiCallable(MultiCallable, Generic[Request, Response]):
    """Makes the calls of a unary method."""

    def __call__(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> Response:
        """Make a call, and wait for the response.

        Args:
            request: the request message.
            timeout: seconds until the call ends with DEADLINE_EXCEEDED; None for no limit.
            metadata: sent with the call.
            credentials: as for a call on ``lbkit.Channel``; so are the next two.
            wait_for_ready: wait for a backend instead of failing while all are down.
            compression: how the request is compressed.
            limits: ``max_request_bytes`` and ``max_response_bytes``, instead of the channel's.

        Raises:
            RpcError: the call ended with a status other than OK.
            ChannelClosedError, ForkedError: the channel cannot be used any more, or not in this process.
            MetadataError: the metadata must not go on the wire.
            UsageError: this is the loop's own thread.
        """
        response: Response = self._wait(
            self._start(request, timeout, metadata, credentials, wait_for_ready, compression, limits), timeout
        )
        return response

    def with_call(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> tuple[Response, ResponseCall[Response]]:
        """Make a call, and wait; return the response, and the call to ask for metadata."""
        running = self._start(request, timeout, metadata, credentials, wait_for_ready, compression, limits)
        running.keep_deadline()
        response: Response = self._wait(running, timeout)
        return response, ResponseCall(running, self._deserialize, self._channel)

    def future(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> ResponseCall[Response]:
        """Start a call, and return it at once; ``result()`` waits for the response."""
        running = self._start(request, timeout, metadata, credentials, wait_for_ready, compression, limits)
        running.keep_deadline()
        return ResponseCall(running, self._deserialize, self._channel)

    def _start(
        self,
        request: Request,
        timeout: float | None,
        metadata: MetadataLike | None,
        credentials: Any,
        wait_for_ready: bool | None,
        compression: Any,
        limits: dict[str, int | None],
    ) -> Running:
        check_thread()
        options = _options(timeout, metadata, credentials, wait_for_ready, compression, limits)
        thread = self._channel.thread or self._channel.enter()
        running = Running(thread, self._method, self._serialize(request), options)
        thread.post(running.start)
        return running


class UnaryStreamMultiCallable(MultiCallable, Generic[Request, Response]):
    """Makes the calls of a server-streaming method."""

    def __call__(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> ResponseIterator[Response]:
        """Start a call, and return at once what to iterate over.

        Arguments as for ``UnaryUnaryMultiCallable.__call__``. What it raises because of the call, the iterator does.
        """
        check_thread()
        options = _options(timeout, metadata, credentials, wait_for_ready, compression, limits)
        thread = self._channel.thread or self._channel.enter()
        running = Streaming(thread, self._method, self._serialize(request), options)
        running.keep_deadline()
        thread.post(running.start)
        return ResponseIterator(running, self._deserialize, self._channel)


class StreamUnaryMultiCallable(MultiCallable, Generic[Request, Response]):
    """Makes the calls of a client-streaming method."""

    def __call__(
        self,
        request_iterator: Iterable[Request],
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> Response:
        """Make a call, and wait for the response.

        Args:
            request_iterator: gives the requests. It runs in a thread of the call's own, and may block; what holds it up
                cannot be interrupted, and keeps that thread, a daemon, after the end of the call.
            timeout: as for ``UnaryUnaryMultiCallable.__call__``, like all that follow, and the errors.
            metadata: sent with the call.
            credentials: of the call.
            wait_for_ready: wait for a backend.
            compression: how requests are compressed.
            limits: for one message.
        """
        response: Response = self._wait(
            self._start(
                request_iterator, timeout, metadata, credentials, wait_for_ready, compression, limits
            ),
            timeout,
        )
        return response

    def with_call(
        self,
        request_iterator: Iterable[Request],
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> tuple[Response, ResponseCall[Response]]:
        """Make a call, and wait; return the response, and the call to ask for metadata."""
        running = self._start(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression, limits
        )
        running.keep_deadline()
        response: Response = self._wait(running, timeout)
        return response, ResponseCall(running, self._deserialize, self._channel)

    def future(
        self,
        request_iterator: Iterable[Request],
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> ResponseCall[Response]:
        """Start a call, and return it at once; ``result()`` waits for the response."""
        running = self._start(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression, limits
        )
        running.keep_deadline()
        return ResponseCall(running, self._deserialize, self._channel)

    def _start(
        self,
        request_iterator: Iterable[Request],
        timeout: float | None,
        metadata: MetadataLike | None,
        credentials: Any,
        wait_for_ready: bool | None,
        compression: Any,
        limits: dict[str, int | None],
    ) -> Running:
        check_thread()
        options = _options(timeout, metadata, credentials, wait_for_ready, compression, limits)
        thread = self._channel.thread or self._channel.enter()
        requests = Requests(thread, request_iterator, self._serialize)
        running = Feeding(thread, self._method, requests, options)
        thread.post(running.start)
        return running


class StreamStreamMultiCallable(MultiCallable, Generic[Request, Response]):
    """Makes the calls of a bidirectional streaming method."""

    def __call__(
        self,
        request_iterator: Iterable[Request],
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        **limits: int | None,
    ) -> ResponseIterator[Response]:
        """Start a call, and return at once what to iterate over; arguments as for ``StreamUnaryMultiCallable.__call__``."""
        check_thread()
        options = _options(timeout, metadata, credentials, wait_for_ready, compression, limits)
        thread = self._channel.thread or self._channel.enter()
        requests = Requests(thread, request_iterator, self._serialize)
        running = Streaming(thread, self._method, requests, options, requests)
        running.keep_deadline()
        thread.post(running.start)
        return ResponseIterator(running, self._deserialize, self._channel)


def _options(
    timeout: float | None,
    metadata: MetadataLike | None,
    credentials: Any,
    wait_for_ready: bool | None,
    compression: Any,
    limits: dict[str, int | None],
) -> dict[str, Any]:
    """Return the keyword arguments of the asynchronous call."""
    return {
        "timeout": timeout,
        "metadata": metadata,
        "credentials": credentials,
        "wait_for_ready": wait_for_ready,
        "compression": compression,
        **limits,
    }
