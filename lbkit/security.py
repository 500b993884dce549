"""TLS settings of channels and servers: what ``lbkit.tls`` makes. No file is read here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from lbkit.frozen import Frozen

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

Pem: TypeAlias = "str | os.PathLike[str] | bytes"  # a path, or what would be in the file
Context: TypeAlias = "ssl.SSLContext | Callable[[], ssl.SSLContext]"

CLIENT_AUTH = (None, "request", "require")


class Tls(Frozen):
    """How connections are secured. Immutable; made by ``tls``, which has the meaning of each argument."""

    __slots__ = ("ca", "cert", "client_auth", "context", "key", "server_name")

    ca: Pem | None
    cert: Pem | None
    key: Pem | None
    server_name: str | None
    client_auth: str | None
    context: Context | None

    def __init__(
        self,
        *,
        ca: Pem | None = None,
        cert: Pem | None = None,
        key: Pem | None = None,
        server_name: str | None = None,
        client_auth: str | None = None,
        context: Context | None = None,
    ) -> None:
        for name, value in (("ca", ca), ("cert", cert), ("key", key)):
            _check_pem(name, value)
        if key is not None and cert is None:
            raise ValueError("tls(key=) without cert=: a key is of no use without its certificate")
        if server_name is not None and (not server_name or server_name.startswith(".")):
            raise ValueError(f"tls(server_name={server_name!r}): write the name in the server's certificate")
        if client_auth not in CLIENT_AUTH:
            raise ValueError(f"tls(client_auth={client_auth!r}): it must be 'require', 'request' or None")
        if context is not None:
            if not callable(context) and not hasattr(context, "wrap_bio"):
                raise TypeError(
                    f"tls(context={context!r}): it must be an ssl.SSLContext, or a function that returns one"
                )
            if not (ca is cert is client_auth is None):
                raise ValueError("tls(context=) says it all; leave out ca=, cert=, key= and client_auth=")
        set_ = self._set
        set_("ca", ca)
        set_("cert", cert)
        set_("key", key)
        set_("server_name", server_name)
        set_("client_auth", client_auth)
        set_("context", context)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tls):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__slots__))

    def __repr__(self) -> str:
        said = [
            f"{name}={_shown(getattr(self, name))}"
            for name in ("ca", "cert", "key", "server_name", "client_auth", "context")
            if getattr(self, name) is not None
        ]
        return f"tls({', '.join(said)})"


def tls(
    *,
    ca: Pem | None = None,
    cert: Pem | None = None,
    key: Pem | None = None,
    server_name: str | None = None,
    client_auth: str | None = None,
    context: Context | None = None,
) -> Tls:
    """Return TLS settings for ``Channel(tls=...)`` and ``server.bind(address, tls=...)``.

    Certificates and keys are paths, or PEM as bytes. Files are looked at for each connection and read again when
    they have changed, so certificates can be replaced while the program runs; one that cannot be used leaves the
    last good one in place, with a warning in the log. Connections are TLS 1.2 or later, with the ciphers that
    HTTP/2 allows (RFC 9113 9.2), and speak HTTP/2 by ALPN or not at all (RFC 9113 3.3).

    Args:
        ca: whom to trust. A client without trusts the system's authorities; a server needs it for ``client_auth``.
        cert: our certificate, followed by those in between it and the authority's. Servers need one.
        key: its private key, not encrypted; may be left out if ``cert`` has it, too.
        server_name: clients: the name that the server's certificate must have, and that is sent as SNI; by default
            the host in the channel's authority.
        client_auth: servers: ``"require"`` refuses clients without a good certificate, ``"request"`` only those with
            a bad one; None asks for none.
        context: instead of all but ``server_name``: an ``ssl.SSLContext``, or a function that is called for each
            connection and returns one. ALPN is set on it; the rest is yours.

    Raises:
        ValueError: the arguments contradict each other; says which.
        TypeError: one is of a type that it must not have.
    """
    return Tls(ca=ca, cert=cert, key=key, server_name=server_name, client_auth=client_auth, context=context)


def tls_of(value: object) -> Tls | None:
    """Return what ``tls=`` of a channel or a server stands for: True is ``tls()``, None and False no TLS.

    Raises:
        TypeError: it is something else.
    """
    if value is None or value is False:
        return None
    if value is True:
        return Tls()
    if not isinstance(value, Tls):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        cure = "use lbkit.tls(ca=..., cert=..., key=...)"
        if kind.startswith("grpc."):
            cure += ", or what lbkit.compat.credentials.tls_of makes of it"
        elif hasattr(value, "wrap_bio"):
            cure = "use lbkit.tls(context=...)"
        raise TypeError(f"tls= is a {kind}; {cure}")
    return value


def _check_pem(name: str, value: object) -> None:
    if value is None or isinstance(value, bytes | os.PathLike):
        return
    if not isinstance(value, str):
        raise TypeError(f"tls({name}=) is a {type(value).__name__}; use a path, or PEM as bytes")
    if "-----BEGIN" in value:  # not shown: it may be a key
        raise TypeError(f"tls({name}=) is PEM as text, and text is taken for a path; use bytes")


def _shown(value: object) -> str:
    """Return a setting as text; not what is in a certificate or a key."""
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)
