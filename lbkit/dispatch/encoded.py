"""Calls with a codec or a compressor of their own: what they are served and answered with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbkit.encoding.codecs import PROTO, bind, message_class_of
from lbkit.encoding.compressors import Encoding, accepted, chosen, known
from lbkit.errors import PluginError
from lbkit.http2.hpack import Prefix
from lbkit.service import Handler
from lbkit.status import StatusCode
from lbkit.transport.packer import MessagePacker
from lbkit.wire.faults import WireFault
from lbkit.wire.packing import accepts
from lbkit.wire.requests import RequestHead, content_type

if TYPE_CHECKING:
    from lbkit.dispatch.call import ServerCall

# What stands for ``Server(compression=None)``: as the request was.
AS_REQUESTED = "as requested"


class Answers:
    """What all answers of a server have in common.

    Args:
        compression: what ``Server(compression=)`` was given.

    Attributes:
        head: the response headers of most calls.
        encoding: how responses are compressed where a handler does not say; None: not, or as their requests were.

    Raises:
        UnknownPluginError, TypeError: as ``chosen``.
    """

    def __init__(self, compression: object) -> None:
        self.encoding = None if compression is None else chosen(compression)
        self._as_requested = compression is None
        self._accepted = accepted()
        self.head = self._head("")
        self._heads: dict[str, Prefix] = {}  # by subtype; as many as there are codecs

    def head_for(self, subtype: str) -> Prefix:
        """Return the response headers for requests with a subtype: its own."""
        if subtype not in self._heads:
            self._heads[subtype] = self._head(subtype)
        return self._heads[subtype]

    def packer(self, call: ServerCall, head: RequestHead) -> MessagePacker | None:
        """Return what compresses the responses of a call; None if they stay as they are."""
        encoding = self.encoding
        if encoding is None and self._as_requested and head.encoding is not None:
            encoding = known(head.encoding.decode())
        return packer_of(call, head, encoding)

    def _head(self, subtype: str) -> Prefix:
        return Prefix(
            (
                (b":status", b"200"),
                (b"content-type", content_type(subtype)),
                (b"grpc-accept-encoding", self._accepted),
            )
        )


def packer_of(call: ServerCall, head: RequestHead, encoding: Encoding | None) -> MessagePacker | None:
    """Return what compresses the responses of a call; None if the client does not take that."""
    if encoding is None or not accepts(head.fields, encoding):
        return None
    connection = call.connection
    return MessagePacker(connection.loop, connection.setup.offload, encoding)


def in_codec(handler: Handler, subtype: str) -> Handler:
    """Return a handler for requests of this subtype.

    Raises:
        WireFault: UNIMPLEMENTED, the handler's messages cannot be had in it; INTERNAL, the codec is broken.
    """
    if subtype == PROTO:
        return handler
    message_class = handler.request_class or message_class_of(handler.deserialize)
    if message_class is None:
        text = f"{handler.path} is not served as {subtype}: the class of its requests is not known here"
        raise WireFault(StatusCode.UNIMPLEMENTED, text)
    try:
        _, encode, decode = bind(subtype, message_class)
    except PluginError as error:
        raise WireFault(StatusCode.INTERNAL, str(error)) from error
    return handler._replace(serialize=encode, deserialize=decode)
