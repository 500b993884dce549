"""Contexts for connections: made of settings, and made anew when the files that they name have changed."""

from __future__ import annotations

import logging
import os
import ssl
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeAlias

from lbkit.security import Pem, Tls
from lbkit.transport.tls_errors import TlsError

ALPN = "h2"

# Forward secrecy and AEAD: what RFC 9113 9.2.2 leaves of TLS 1.2. TLS 1.3 has no others.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"

_log = logging.getLogger("lbkit.transport")

_Look: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class Contexts:
    """One side's contexts; ``current`` gives the one for a new connection.

    Args:
        tls: the settings.
        server: for which side.

    Raises:
        ValueError: a server without a certificate, or a contradiction about clients' certificates.
    """

    __slots__ = ("__weakref__", "_context", "_paths", "_said", "_seen", "_server", "tls")

    def __init__(self, tls: Tls, *, server: bool) -> None:
        if server and tls.context is None:
            if tls.cert is None:
                raise ValueError("tls() of a server needs cert= and key=")
            if tls.client_auth is not None and tls.ca is None:
                raise ValueError("tls(client_auth=) needs ca=: the authority of the clients' certificates")
            if tls.ca is not None and tls.client_auth is None:
                raise ValueError(
                    "tls(ca=) of a server without client_auth=: clients would not be asked for certificates; say"
                    " client_auth='require', or leave ca= out"
                )
        self.tls = tls
        self._server = server
        self._paths = [
            os.fspath(pem) for pem in (tls.ca, tls.cert, tls.key) if pem and not isinstance(pem, bytes)
        ]
        self._context: ssl.SSLContext | None = None  # the last good one
        self._seen: _Look | None = None  # the files that it was made of, or that it could not be made of
        self._said = ""  # the last warning

    def current(self) -> ssl.SSLContext:
        """Return the context for a new connection.

        Raises:
            TlsError: there is none, and there never was; says what is wrong with which file.
        """
        if self.tls.context is not None:
            return self._given()
        look = self._look()
        if look == self._seen and self._context is not None:
            return self._context
        # What is written to while it is read looks different next time, and is read again.
        try:
            self._context = _make(self.tls, server=self._server)
        except TlsError as error:
            if self._context is None:
                raise
            if str(error) != self._said:
                self._said = str(error)
                _log.warning("%s; the last good certificates stay in use", error)
            # Not tried again before the files change; unless it was the system's fault, as too many open files.
            self._seen = look if isinstance(error.__cause__, ssl.SSLError) else None
        else:
            self._seen, self._said = look, ""
        return self._context

    def _given(self) -> ssl.SSLContext:
        """Return the caller's own context, with ALPN."""
        context = self.tls.context
        if not isinstance(context, ssl.SSLContext) and context is not None:
            try:
                context = context()
            except Exception as error:  # whatever the application's function raises
                raise TlsError(f"TLS: tls(context=) raised {type(error).__name__}: {error}") from error
        if not isinstance(context, ssl.SSLContext):
            raise TlsError(f"TLS: tls(context=) returned a {type(context).__name__}, not an ssl.SSLContext")
        context.set_alpn_protocols([ALPN])
        return context

    def _look(self) -> _Look:
        return tuple([_identity(path) for path in self._paths])


_shared: weakref.WeakValueDictionary[Tls, Contexts] = weakref.WeakValueDictionary()


def shared_by_clients(tls: Tls) -> Contexts:
    """Return the contexts of all channels with these settings: the system's authorities take long to load."""
    contexts = _shared.get(tls)
    if contexts is None:
        contexts = _shared[tls] = Contexts(tls, server=False)
    return contexts


def _identity(path: str) -> tuple[int, int, int] | None:
    """Return what changes when a file does; None if there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116  # for each connection, and half the time of Path
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _make(tls: Tls, *, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION  # RFC 9113 9.2.1
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols([ALPN])
    if server:
        # A ticket would be written for each connection, and gRPC clients, which keep theirs, do not resume.
        context.num_tickets = 0
        if tls.client_auth is not None:
            context.verify_mode = ssl.CERT_REQUIRED if tls.client_auth == "require" else ssl.CERT_OPTIONAL
    if tls.ca is not None:
        with _loading(f"{_named('ca', tls.ca)}: no CA certificate in PEM"), _as_file("ca", tls.ca) as path:
            context.load_verify_locations(path)
    elif not server:
        context.load_default_certs()
    if tls.cert is not None:
        _load_pair(context, tls.cert, tls.key)
    return context


def _load_pair(context: ssl.SSLContext, cert: Pem, key: Pem | None) -> None:
    if key is None:
        what = f"{_named('cert', cert)}: no certificate with its private key in PEM"
        with _loading(what), _as_file("cert", cert) as path:
            context.load_cert_chain(path, password=_no_password)
        return
    what = f"{_named('cert', cert)} and {_named('key', key)}: no certificate, or no private key, in PEM"
    with _loading(what), _as_file("cert", cert) as path, _as_file("key", key) as key_path:
        context.load_cert_chain(path, key_path, _no_password)


@contextmanager
def _loading(what: str) -> Generator[None, None, None]:
    """Say what is wrong, if OpenSSL cannot load something."""
    try:
        yield
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(
                f"TLS: {what.partition(': ')[0]}: the key is not that of the certificate"
            ) from error
        reason = f" ({error.reason.lower().replace('_', ' ')})" if error.reason else ""
        raise TlsError(f"TLS: {what}{reason}") from error
    except ValueError as error:  # of _no_password
        raise TlsError(f"TLS: {what.partition(': ')[0]}: {error}") from error


def _named(which: str, pem: Pem) -> str:
    return f"{which}=<{len(pem)} bytes>" if isinstance(pem, bytes) else f"{which}={os.fspath(pem)!r}"


def _no_password() -> str:
    """Refuse, for else OpenSSL would ask on the terminal, and wait."""
    raise ValueError("the key is encrypted; decrypt it (openssl pkey -in KEY -out PLAIN), or use context=")


@contextmanager
def _as_file(which: str, pem: Pem) -> Generator[str, None, None]:
    """Give the path of a file with that in it; of bytes, one that is in memory only where the system has such.

    Raises:
        TlsError: it cannot be read; OpenSSL would not say which.
    """
    if not isinstance(pem, bytes):
        try:
            with open(pem, "rb"):  # noqa: PTH123  # it may be text or any PathLike
                pass
        except OSError as error:
            raise TlsError(f"TLS: {_named(which, pem)}: {(error.strerror or str(error)).lower()}") from error
        yield os.fspath(pem)
    elif hasattr(os, "memfd_create"):
        number = os.memfd_create("lbkit-pem")
        try:
            os.write(number, pem)
            yield f"/proc/self/fd/{number}"
        finally:
            os.close(number)
    else:
        import tempfile

        with tempfile.NamedTemporaryFile() as file:  # readable by its owner only
            file.write(pem)
            file.flush()
            yield file.name
