"""A call as its handler sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import GenericAlias
from typing import Any, ClassVar, NoReturn

from lbkit.errors import AbortError
from lbkit.metadata import Metadata, MetadataLike
from lbkit.status import StatusCode


class ServicerContext(ABC):
    """A call as its handler sees it; the second argument of every servicer method.

    Signatures are those of ``grpc.aio.ServicerContext``. Codes may be lbkit's or grpcio's. Plain functions, which run
    in threads, get a ``BlockingContext`` instead.
    """

    __slots__ = ()

    # ``ServicerContext[Request, Response]`` in annotations, as grpc.aio's may be written.
    __class_getitem__: ClassVar[Any] = classmethod(GenericAlias)

    @abstractmethod
    def invocation_metadata(self) -> Metadata:
        """Return what the client sent with the call."""

    @property
    @abstractmethod
    def method(self) -> str:
        """The full name of the method called, ``/package.Service/Method``."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What is streamed: ``unary_unary``, ``unary_stream``, ``stream_unary`` or ``stream_stream``."""

    @abstractmethod
    def peer(self) -> str:
        """Return where the client is: ``ipv4:127.0.0.1:5``, ``ipv6:[::1]:5`` or ``unix:``."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what is known of the connection and of the client, by the names that grpcio has for it."""
        return {}

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return the client's identities; None if it showed no certificate."""
        return None

    def peer_identity_key(self) -> str | None:
        """Return where in ``auth_context`` the identities are; None if the client showed no certificate."""
        return None

    @abstractmethod
    def set_compression(self, compression: Any) -> None:
        """Choose how responses are compressed: ``lbkit.Compression.Gzip``, its name, or ``"identity"`` for not at all.

        They stay as they are if the client does not take that.

        Raises:
            UnknownPluginError: no such compressor; says the nearest.
            RuntimeError: the response headers were sent before.
        """

    @abstractmethod
    def disable_next_message_compression(self) -> None:
        """Send the next response as it is."""

    @abstractmethod
    def time_remaining(self) -> float | None:
        """Return the seconds left until the client's deadline, at least 0; None without a deadline."""

    @abstractmethod
    async def abort(self, code: object, details: str = "", trailing_metadata: MetadataLike = ()) -> NoReturn:
        """End the call with a status other than OK, by raising AbortError. Do not catch that.

        Raises:
            ValueError: the code is OK.
        """
        raise AbortError(details)

    @abstractmethod
    async def abort_with_status(self, status: Any) -> NoReturn:
        """Do what ``abort`` does, with an object that has ``code``, ``details`` and ``trailing_metadata``.

        Such as ``grpc_status.rpc_status.to_status`` makes of a ``google.rpc.Status``.

        Raises:
            ValueError: the code is OK.
        """
        raise AbortError(status.details)

    @abstractmethod
    async def read(self) -> Any:
        """Wait for the next request of a stream; ``lbkit.EOF`` when the client has sent all.

        Raises:
            UsageError: the method has one request, or the call is over.
        """

    @abstractmethod
    async def write(self, message: Any) -> None:
        """Send a response of a stream; returns when there is room for the next one.

        Raises:
            UsageError: the method has one response, or the call is over.
        """

    @abstractmethod
    async def send_initial_metadata(self, initial_metadata: MetadataLike) -> None:
        """Send metadata ahead of the response.

        Raises:
            RuntimeError: it was sent before.
            MetadataError: it must not go on the wire.
        """

    @abstractmethod
    def set_trailing_metadata(self, trailing_metadata: MetadataLike) -> None:
        """Set what goes with the status.

        Raises:
            MetadataError: it must not go on the wire.
        """

    @abstractmethod
    def set_code(self, code: object) -> None:
        """Set the status code the call will end with."""

    @abstractmethod
    def set_details(self, details: str) -> None:
        """Set the text of the status."""

    @abstractmethod
    def code(self) -> StatusCode:
        """Return the code set so far; OK if none was."""

    @abstractmethod
    def details(self) -> str:
        """Return the text set so far."""

    @abstractmethod
    def trailing_metadata(self) -> Metadata:
        """Return the trailing metadata set so far."""

    @abstractmethod
    def cancelled(self) -> bool:
        """Whether the client gave up, or its deadline passed, before the call was over."""

    @abstractmethod
    def done(self) -> bool:
        """Whether the call is over."""

    @abstractmethod
    def add_done_callback(self, callback: Callable[[ServicerContext], object]) -> None:
        """Call ``callback(context)`` when the call is over; at once if it is."""
