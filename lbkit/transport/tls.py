"""TLS between a byte stream and a connection. The handshake is checked before a byte of HTTP/2 passes.

Not asyncio's own: that would keep a buffer of 256 KiB for each connection, know no context per connection on servers,
and run over sockets only. This one runs over whatever a connector connects (a proxy's tunnel, memory).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from lbkit.address import Address
from lbkit.security import Tls
from lbkit.transport.connection import describe_os_error, peer_name, scratch_of
from lbkit.transport.connector import Connector
from lbkit.transport.tls_context import ALPN, Contexts, shared_by_clients
from lbkit.transport.tls_errors import TlsError, ended_early, explain, no_alpn, no_tls

_RECORD_TYPES = frozenset((0x15, 0x16))  # alert and handshake: how TLS can begin (RFC 8446 5.1)
# Fatal, protocol_version: what OpenSSL answers to who speaks no TLS; plaintext clients show it to their users.
_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"

_log = logging.getLogger("lbkit.transport")


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The protocol of a byte stream, and the transport of the connection on top of it.

    The connection is there from the first byte on: what watches over connections (limits on their number, the
    time-out of the handshake, graceful and other stops) needs to know nothing of TLS. What it writes before the
    handshake is over is kept until then.

    Args:
        loop: the event loop.
        make: makes the connection, once there is a byte stream.
        context: for this connection; None refuses it.
        server: which side we are.
        name: clients: the name that the server's certificate must have.

    Raises:
        TlsError: OpenSSL cannot look for such a name.
    """

    __slots__ = (
        "_closing",
        "_context",
        "_decrypt",
        "_early",
        "_error",
        "_heard",
        "_incoming",
        "_loop",
        "_make",
        "_name",
        "_object",
        "_outgoing",
        "_protocol",
        "_raw",
        "_reading",
        "_scratch",
        "_server",
        "_up",
    )

    _decrypt: Callable[[int, memoryview[int]], int]
    _raw: asyncio.Transport
    _protocol: asyncio.BufferedProtocol

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[], asyncio.BufferedProtocol],
        context: ssl.SSLContext | None,
        *,
        server: bool,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._make = make
        self._context = context
        self._server = server
        self._name = name
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object: ssl.SSLObject | None = None
        if context is not None:
            try:
                self._object = context.wrap_bio(self._incoming, self._outgoing, server, name)
            except (ValueError, UnicodeError) as error:
                raise TlsError(
                    f"TLS: no certificate can be for {name!r}: {error}; use server_name="
                ) from error
        self._scratch = scratch_of(loop)
        self._early: list[bytes] = []  # written before the handshake was over
        self._heard = False  # a first byte has come
        self._up = False  # the handshake is over, and all is well
        self._reading = True
        self._closing = False
        self._error: Exception | None = None  # what the connection will be lost by

    # The byte stream's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._raw = cast("asyncio.Transport", transport)
        self._protocol = self._make()
        self._protocol.connection_made(self)
        if self._object is None:
            self.abort()
        elif not self._closing:  # the protocol may have had enough connections
            self._shake(self._object)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive into. The connection shares it, and gets it back when it has been read."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Decrypt what came, or go on with the handshake."""
        if self._object is None or (self._closing and self._error is not None):
            return  # only here so that the peer can read our alert: who closes on unread bytes, resets
        if self._up:
            self._incoming.write(self._scratch[:nbytes])
            self._read(self._object)
            return
        if not self._heard:
            self._heard = True
            if self._scratch[0] not in _RECORD_TYPES:
                if self._server:
                    self._raw.write(_ALERT)
                self._fail(no_tls(bytes(self._scratch[: min(nbytes, 64)]), server=self._server))
                return
        self._incoming.write(self._scratch[:nbytes])
        self._shake(self._object)

    def eof_received(self) -> None:
        """Let the byte stream close: TLS has no half-closed connections here, and HTTP/2 no need of them."""
        if self._closing:
            return
        if self._up:
            self._protocol.eof_received()
        else:
            self._error = TlsError(ended_early(server=self._server))

    def pause_writing(self) -> None:
        """Pass it on: nothing is kept here."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on, with what there is to say about TLS."""
        if self._error is None and exc is not None and not self._up and not self._closing:
            self._error = TlsError(ended_early(server=self._server, reason=describe_os_error(exc)))
        self._closing = True
        self._early.clear()
        if self._server and self._error is not None:
            _log.debug("%s: %s", peer_name(self._raw), self._error)
        self._protocol.connection_lost(self._error or exc)

    # The connection's side

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send; what comes after ``close`` is dropped."""
        if self._closing:
            return
        if not self._up:
            self._early.append(bytes(data))
            return
        try:
            self._object.write(data)  # type: ignore[union-attr]  # there is one, as the handshake is over
        except ssl.SSLError as error:
            self._fail(explain(error, server=self._server))
            return
        self._raw.write(self._outgoing.read())

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the kernel has not taken."""
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high water mark."""
        return self._raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set them."""
        self._raw.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        """Say no, as there are no half-closed connections."""
        return False

    def is_reading(self) -> bool:
        """Whether the connection takes what comes."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Leave what comes undecrypted, and in the kernel."""
        self._reading = False
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Take what has come meanwhile."""
        if not self._reading:
            self._reading = True
            self._raw.resume_reading()
            self._loop.call_soon(self._read_on)

    def is_closing(self) -> bool:
        """Whether ``close`` or ``abort`` was called, or the stream is gone."""
        return self._closing

    def close(self) -> None:
        """Send what was written, say goodbye, and close. The peer's goodbye is not waited for (RFC 8446 6.1)."""
        if self._closing:
            return
        self._closing = True
        if self._up and self._object is not None:
            with suppress(ssl.SSLError):  # it wants the peer's answer
                self._object.unwrap()
            self._send()
        self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._raw.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Know ``ssl_object``, ``sslcontext`` and ``tls_established``; the rest is the byte stream's to know."""
        if name == "tls_established":
            return self._up
        if name == "ssl_object":
            return self._object
        if name == "sslcontext":
            return self._context
        return self._raw.get_extra_info(name, default)

    # Inside

    def _shake(self, tls: ssl.SSLObject) -> None:
        """Go on with the handshake, as far as what has come allows."""
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except (ssl.SSLError, ValueError) as error:
            certificate = _unverified(tls) if isinstance(error, ssl.SSLCertVerificationError) else None
            self._fail(explain(error, server=self._server, name=self._name, certificate=certificate))
            return
        selected = tls.selected_alpn_protocol()
        if selected != ALPN:
            self._fail(no_alpn(selected, server=self._server))
            return
        self._decrypt = cast(Any, tls.read)  # the stubs know only what it does without a buffer
        self._up = True
        early, self._early = self._early, []
        for data in early:
            tls.write(data)
        self._send()
        if self._incoming.pending:
            self._read(tls)

    def _read(self, tls: ssl.SSLObject) -> None:
        """Decrypt what has come into the connection's buffers."""
        incoming, protocol, decrypt = self._incoming, self._protocol, self._decrypt
        ended = False
        try:
            while self._reading and not self._closing:
                buffer = cast("memoryview[int]", protocol.get_buffer(-1))
                size = len(buffer)
                got = decrypt(size, buffer)
                ended = not got
                try:
                    # A record is 16 KiB at most. To ask once more than there are costs an exception.
                    while not ended and got < size and (incoming.pending or tls.pending()):
                        more = decrypt(size - got, buffer[got:])
                        ended = not more
                        got += more
                except ssl.SSLWantReadError:  # a part of a record
                    pass
                if got:
                    protocol.buffer_updated(got)
                if ended or not (incoming.pending or tls.pending()):
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fail(explain(error, server=self._server))
            return
        if ended and not self._closing:  # the peer said goodbye
            protocol.eof_received()
            self.close()
        elif self._outgoing.pending and not self._closing:  # an answer to a new key
            self._send()

    def _read_on(self) -> None:
        if self._up and self._object is not None:
            self._read(self._object)

    def _send(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _fail(self, text: str) -> None:
        """Lose the connection by this. The peer is told by an alert."""
        self._error = self._error or TlsError(text)
        self._closing = True
        self._send()
        if self._server and not self._up and self._raw.can_write_eof():
            # A client may have sent more already. Closing on that would reset the connection, and the alert be
            # lost; so the client closes it, or the time-out of the handshake does.
            with suppress(OSError):  # it has, meanwhile
                self._raw.write_eof()
        else:
            self._raw.close()


class TlsConnector:
    """Connects as another connector does, and speaks TLS there.

    Args:
        connector: opens byte streams.
        tls: the settings.
        authority: the channel's; its host is what servers' certificates must be for, unless the settings say so.

    """

    def __init__(self, connector: Connector, tls: Tls, authority: str) -> None:
        self._connector = connector
        self._contexts = shared_by_clients(tls)
        self._name = tls.server_name or host_of(authority)

    async def connect(self, address: Address, protocol: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Connect, and begin the handshake; the protocol hears of how that ends.

        Raises:
            TlsError: the settings name files that cannot be used, and never could.
            OSError: there is no connection to be had.
        """
        context = self._contexts.current()
        loop = asyncio.get_running_loop()
        layer = TlsTransport(loop, protocol, context, server=False, name=self._name)
        await self._connector.connect(address, lambda: layer)


def accepting(
    loop: asyncio.AbstractEventLoop, make: Callable[[], asyncio.BufferedProtocol], contexts: Contexts
) -> Callable[[], asyncio.BufferedProtocol]:
    """Return what makes the protocol of each connection that a server accepts."""

    def accept() -> TlsTransport:
        context = None
        try:
            context = contexts.current()
        except TlsError as error:  # only of tls(context=): files were good once
            _log.error("a connection is refused: %s", error)
        return TlsTransport(loop, make, context, server=True)

    return accept


def host_of(authority: str) -> str:
    """Return an authority without its port, and an IPv6 address without brackets and zone."""
    host, colon, port = authority.rpartition(":")
    if not (colon and port.isdigit()):
        host = authority
    if host.startswith("["):
        host = host.strip("[]").partition("%")[0]
    return host


def _unverified(tls: ssl.SSLObject) -> dict[str, Any] | None:
    """Return a certificate that was refused, for words about it. CPython 3.11 has no public way to get at it."""
    try:
        chain = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
        return cast("dict[str, Any]", chain[0].get_info()) if chain else None
    except Exception:  # another Python: then the words are fewer
        return None
