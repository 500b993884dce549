"""What ``channel.unary_unary`` and its three siblings return: makes the calls of one method."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from lbkit.call.handles import StreamStreamCall, StreamUnaryCall, UnaryStreamCall
from lbkit.call.streaming import StreamingCall
from lbkit.call.unary import UnaryUnaryCall
from lbkit.credentials import CallCredentials
from lbkit.encoding.codecs import bind, message_class_of
from lbkit.encoding.compressors import chosen
from lbkit.metadata import EMPTY, MetadataLike

if TYPE_CHECKING:
    from lbkit.channel import Channel

Request = TypeVar("Request")
Response = TypeVar("Response")

Requests: TypeAlias = AsyncIterable[Request] | Iterable[Request]


class MultiCallable:
    """One method of one channel.

    Args:
        channel: whose.
        path: ``/package.Service/Method``.
        serialize: makes bytes of a request; None if requests are bytes.
        deserialize: makes a response of bytes; None to get the bytes.
        codec: does both instead, and is named in the content-type; None for what the two functions do.

    Raises:
        UnknownPluginError: no such codec; says the nearest.
        TypeError: the codec needs to know the class of responses, and ``deserialize`` does not tell.
    """

    def __init__(
        self,
        channel: Channel,
        path: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
        codec: str | None = None,
    ) -> None:
        self.channel = channel
        self.path = path
        subtype = ""
        if codec is not None:
            subtype, serialize, deserialize = bind(codec, message_class_of(deserialize))
        self.prefix = channel.request_prefix(path=path, subtype=subtype)
        self.serialize: Callable[[Any], bytes] = serialize or bytes  # raw bytes pass
        self.deserialize: Callable[[bytes], Any] = deserialize or bytes

    def _serialized(self, request: Any) -> bytes:
        payload = self.serialize(request)
        # Says what a serialiser returned that is no bytes at all.
        return payload if type(payload) is bytes else b"".join((payload,))

    def _enter(self) -> None:
        if get_running_loop() is not self.channel.bound_loop:
            self.channel.enter()


class UnaryUnaryMultiCallable(MultiCallable, Generic[Request, Response]):
    """Makes the calls of a unary method."""

    def __call__(
        self,
        request: Request,
        *,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = None,
    ) -> UnaryUnaryCall:
        """Start a call; ``await`` what is returned for the response.

        Args:
            request: the request message.
            timeout: seconds until the call ends with DEADLINE_EXCEEDED; None for no limit.
            metadata: sent with the call.
            credentials: make metadata for this call, beside what the channel's do; see ``lbkit.CallCredentials``.
            wait_for_ready: wait for a backend instead of failing while all are down.
            compression: how requests are compressed, instead of the channel's way: ``lbkit.Compression.Gzip`` or its
                name; ``"identity"`` for not at all.
            max_request_bytes: instead of the channel's limit for one message.
            max_response_bytes: instead of the channel's limit for one message.

        Raises:
            ChannelClosedError, ForeignLoopError, ForkedError: the channel cannot be used here and now.
            MetadataError: the metadata must not go on the wire.
            TypeError: the credentials are none.
            UnknownPluginError: no such compressor; says the nearest.
        """
        if get_running_loop() is not self.channel.bound_loop:
            self._enter()
        options = (
            timeout,
            metadata or EMPTY,
            wait_for_ready,
            max_request_bytes,
            max_response_bytes,
            self.channel.encoding if compression is None else chosen(compression),
            credentials,
        )
        return UnaryUnaryCall(self, self._serialized(request), options)


class UnaryStreamMultiCallable(MultiCallable, Generic[Request, Response]):
    """Makes the calls of a server-streaming method."""

    def __call__(
        self,
        request: Request,
        *,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = None,
    ) -> UnaryStreamCall[Response]:
        """Start a call; ``async for`` over what is returned gives the responses.

        Arguments and errors are those of ``UnaryUnaryMultiCallable.__call__``.
        """
        self._enter()
        options = (
            timeout,
            metadata or EMPTY,
            wait_for_ready,
            max_request_bytes,
            max_response_bytes,
            self.channel.encoding if compression is None else chosen(compression),
            credentials,
        )
        call = StreamingCall(self, options, self._serialized(request), one_response=False)
        return UnaryStreamCall(call, self._serialized)


class StreamUnaryMultiCallable(MultiCallable, Generic[Request, Response]):
    """Makes the calls of a client-streaming method."""

    def __call__(
        self,
        request_iterator: Requests[Request] | None = None,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        *,
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = None,
    ) -> StreamUnaryCall[Request, Response]:
        """Start a call; ``await`` what is returned for the response.

        Args:
            request_iterator: gives the requests; None to write them with ``write``. It runs on the event loop: one
                that is not asynchronous must not block.
            timeout: seconds until the call ends with DEADLINE_EXCEEDED; None for no limit.
            metadata: sent with the call.
            credentials: make metadata for this call, beside what the channel's do; see ``lbkit.CallCredentials``.
            wait_for_ready: wait for a backend instead of failing while all are down.
            compression: how requests are compressed, instead of the channel's way: ``lbkit.Compression.Gzip`` or its
                name; ``"identity"`` for not at all.
            max_request_bytes: instead of the channel's limit for one message.
            max_response_bytes: instead of the channel's limit for one message.

        Raises:
            ChannelClosedError, ForeignLoopError, ForkedError: the channel cannot be used here and now.
            MetadataError: the metadata must not go on the wire.
            TypeError: the credentials are none.
            UnknownPluginError: no such compressor; says the nearest.
        """
        self._enter()
        options = (
            timeout,
            metadata or EMPTY,
            wait_for_ready,
            max_request_bytes,
            max_response_bytes,
            self.channel.encoding if compression is None else chosen(compression),
            credentials,
        )
        call = StreamingCall(self, options, None, one_response=True)
        return StreamUnaryCall(call, self._serialized, request_iterator)


class StreamStreamMultiCallable(MultiCallable, Generic[Request, Response]):
    """Makes the calls of a bidirectional streaming method."""

    def __call__(
        self,
        request_iterator: Requests[Request] | None = None,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        *,
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = None,
    ) -> StreamStreamCall[Request, Response]:
        """Start a call; read what is returned, and write to it.

        Arguments and errors are those of ``StreamUnaryMultiCallable.__call__``.
        """
        self._enter()
        options = (
            timeout,
            metadata or EMPTY,
            wait_for_ready,
            max_request_bytes,
            max_response_bytes,
            self.channel.encoding if compression is None else chosen(compression),
            credentials,
        )
        call = StreamingCall(self, options, None, one_response=False)
        return StreamStreamCall(call, self._serialized, request_iterator)
