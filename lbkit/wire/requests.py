"""Request headers of a gRPC call: built by the client, read by the server (PROTOCOL-HTTP2, "Requests")."""

from __future__ import annotations

from lbkit.encoding.codecs import RAW, subtype_of
from lbkit.encoding.codecs import registry as codecs
from lbkit.encoding.compressors import accepted, known
from lbkit.http2.hpack import Prefix
from lbkit.metadata import Metadata
from lbkit.status import StatusCode
from lbkit.wire.faults import WireFault
from lbkit.wire.metadata import Field, decode_metadata
from lbkit.wire.timeout import decode_timeout

_TYPE = b"application/grpc"
_IDENTITY = b"identity"


def request_prefix(
    *, path: str, authority: str, scheme: str, user_agent: str, accept: bytes = _IDENTITY, subtype: str = ""
) -> Prefix:
    """Return the headers that all calls of a method have in common, in the order of the specification.

    Args:
        path: ``/package.Service/Method``.
        authority: the virtual host.
        scheme: ``http`` or ``https``.
        user_agent: what sends it.
        accept: the encodings that responses may have.
        subtype: of the content-type, behind ``application/grpc+``; empty for protobuf.
    """
    return Prefix(
        (
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", content_type(subtype)),
            (b"user-agent", user_agent.encode()),
            (b"grpc-accept-encoding", accept),
        )
    )


class RequestHead:
    """What a server needs to know of a request's headers before it runs the handler.

    Attributes:
        path: ``/package.Service/Method``, as bytes.
        timeout_s: the caller's time-out in seconds, or None.
        encoding: what requests are compressed with, which is known here; None if they are not.
        subtype: of the content-type, behind ``application/grpc+``: the codec's name; empty for protobuf.
        fields: everything that came.
    """

    __slots__ = ("_metadata", "encoding", "fields", "path", "subtype", "timeout_s")

    def __init__(self, fields: tuple[Field, ...]) -> None:
        """Read the fields of a request that passed HTTP/2's own checks.

        Raises:
            RequestRefused: not a gRPC request, or not one that can be served; carries what to answer with.
            WireFault: INTERNAL, a ``-bin`` value is not base64.
        """
        self.fields = fields
        self.path = b""
        self.timeout_s: float | None = None
        self.encoding: bytes | None = None
        self.subtype = ""
        self._metadata: Metadata | None = None
        method = kind = b""
        timeout: bytes | None = None
        encoding = _IDENTITY
        binary = False
        hosts = 0
        for name, value in fields:
            # Ordered by how early a client may stop the comparison; seven of these come with every call.
            if name == b":path":
                self.path = value
            elif name == b":method":
                method = value
            elif name == b"content-type":
                kind = value
            elif name == b"grpc-timeout":
                timeout = value
            elif name == b"grpc-encoding":
                encoding = value
            elif name == b"host":
                hosts += 1
            elif name[-4:] == b"-bin":
                binary = True
        if method != b"POST":
            text = f"method {method.decode('latin-1')!r}; gRPC uses POST"
            allow = ((b"allow", b"POST"),)  # RFC 9110 15.5.6
            raise RequestRefused(405, StatusCode.INTERNAL, text, allow, method=method, content_type=kind)
        if kind != _TYPE:
            subtype = subtype_of(kind)
            if subtype is None:
                text = f"content-type {kind.decode('latin-1')!r} is not one of {', '.join(content_types())}"
                raise RequestRefused(415, StatusCode.UNKNOWN, text, method=method, content_type=kind)
            self.subtype = subtype
        if hosts > 1:  # one is passed over: whatever it says, :authority counts (gRFC A41)
            text = f"{hosts} host headers"
            raise RequestRefused(400, StatusCode.INTERNAL, text, method=method, content_type=kind)
        if timeout is not None:
            try:
                self.timeout_s = decode_timeout(timeout)
            except WireFault as fault:
                raise RequestRefused(
                    400, fault.code, fault.details, method=method, content_type=kind
                ) from None
        if encoding != _IDENTITY:
            if known(encoding.decode("latin-1")) is None:
                text = f"grpc-encoding {encoding.decode('latin-1')!r} is not known here"
                said = ((b"grpc-accept-encoding", accepted()),)
                raise RequestRefused(
                    200, StatusCode.UNIMPLEMENTED, text, said, method=method, content_type=kind
                )
            self.encoding = encoding
        if binary:
            self._metadata = decode_metadata(fields)  # now, as it may be refused

    def metadata(self) -> Metadata:
        """Return what the application gets to see; decoded when it is first asked for."""
        if self._metadata is None:
            self._metadata = decode_metadata(self.fields)
        return self._metadata


def is_grpc(content_type: bytes) -> bool:
    """Whether a content-type is gRPC's, with a codec that is known here or none."""
    return content_type == _TYPE or subtype_of(content_type) is not None


def content_type(subtype: str) -> bytes:
    """Return the content-type for a codec's subtype; empty for protobuf."""
    return b"%b+%b" % (_TYPE, subtype.encode()) if subtype else _TYPE


def content_types() -> list[str]:
    """Return every content-type that can be served here, for people to read."""
    return ["application/grpc", *(f"application/grpc+{name}" for name in codecs if name != RAW)]


class RequestRefused(WireFault):
    """Not a gRPC request, or not one that can be served: answered with headers of its own.

    Attributes:
        http_status: 400, 405 or 415; 200 where only the gRPC status says that something is wrong.
        fields: what the answer says beside the status.
        from_grpc: whether the content-type says that a gRPC client sent it, which reads no web pages.
        to_head: whether the answer must have no content (RFC 9110 9.3.2).
    """

    def __init__(
        self,
        http_status: int,
        code: StatusCode,
        details: str,
        fields: tuple[Field, ...] = (),
        *,
        method: bytes,
        content_type: bytes,
    ) -> None:
        super().__init__(code, details)
        self.http_status = http_status
        self.fields = fields
        self.from_grpc = content_type.startswith(_TYPE)
        self.to_head = method == b"HEAD"
