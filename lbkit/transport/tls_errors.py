"""What goes wrong with TLS, in words that say what to do about it."""

from __future__ import annotations

import ssl
from typing import Any

_SHOWN = 40  # bytes of a stranger's first words that go into a message

# What an alert of the peer says about us (RFC 8446 6.2), by a part of OpenSSL's name for it.
_ALERTS = (
    ("CERTIFICATE_REQUIRED", "asks for a client certificate; pass cert= and key= to lbkit.tls"),
    ("UNKNOWN_CA", "does not trust the authority of our certificate"),
    ("CERTIFICATE_EXPIRED", "says that our certificate has expired"),
    ("CERTIFICATE_REVOKED", "says that our certificate was revoked"),
    ("BAD_CERTIFICATE", "refuses our certificate"),
    ("CERTIFICATE_UNKNOWN", "refuses our certificate"),
    ("UNSUPPORTED_CERTIFICATE", "refuses our certificate"),
    ("DECRYPT_ERROR", "could not verify our certificate's signature"),
    ("UNRECOGNIZED_NAME", "has no certificate for that name; see server_name= of lbkit.tls"),
    ("NO_APPLICATION_PROTOCOL", "does not speak HTTP/2 (ALPN h2) on this port"),
    ("PROTOCOL_VERSION", "has no version of TLS in common with us: lbkit speaks TLS 1.2 and 1.3"),
    ("HANDSHAKE_FAILURE", "has no cipher in common with us, or misses a client certificate"),
    ("INSUFFICIENT_SECURITY", "wants stronger ciphers or keys than ours"),
    ("ACCESS_DENIED", "denies us access"),
)

# OpenSSL's codes for what is wrong with a certificate (x509_vfy.h).
_EXPIRED, _NOT_YET, _SELF_SIGNED = 10, 9, 18
_NO_ISSUER = frozenset((2, 19, 20, 21))
_WRONG_NAME = frozenset((62, 64))


class TlsError(OSError):
    """TLS cannot be had, or was refused; the text says by whom, why, and what to do."""


def explain(
    error: BaseException, *, server: bool, name: str | None = None, certificate: dict[str, Any] | None = None
) -> str:
    """Say why a handshake failed.

    Args:
        error: what ``ssl`` raised.
        server: whether we are the server.
        name: what the certificate must be for.
        certificate: the peer's, as ``ssl`` decodes it, if it is known.
    """
    peer = "client" if server else "server"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error, peer, name, certificate or {})
    if isinstance(error, ssl.SSLError):
        reason = error.reason or _reason_in(str(error))
        if "ALERT" in reason or reason.startswith("SSLV3_") or reason == "TLSV1_UNRECOGNIZED_NAME":
            for part, text in _ALERTS:
                if part in reason:
                    return f"TLS: the {peer} {text} (alert {_plain(reason)})"
            return f"TLS: the {peer} ended the handshake: {_plain(reason)}"
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return "TLS: the client has no certificate, and client_auth= is 'require'"
        if reason in {"NO_SHARED_CIPHER", "UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW"}:
            return f"TLS: no version or cipher in common with the {peer} ({_plain(reason)}); HTTP/2 needs TLS 1.2 or later"
        return f"TLS: the handshake failed: {_plain(reason) if reason else error}"
    return f"TLS: the handshake failed: {type(error).__name__}: {error}"


def no_tls(begins: bytes, *, server: bool) -> str:
    """Say that the first bytes of a peer are not TLS."""
    if server:
        what = "a gRPC client without TLS" if begins.startswith(b"PRI ") else "a client that speaks no TLS"
        return f"TLS: {what}; it began with {begins[:_SHOWN]!r}"
    return (
        f"TLS: the server speaks no TLS on this port; it began with {begins[:_SHOWN]!r}. Use its port for TLS, or"
        " leave tls= out"
    )


def no_alpn(selected: str | None, *, server: bool) -> str:
    """Say that the peer speaks TLS but not HTTP/2."""
    which = "nothing" if selected is None else repr(selected)
    if server:
        return f"TLS: missing selected ALPN property: the client offers no 'h2' (selected: {which})"
    return (
        f"TLS: missing selected ALPN property: the server selected {which} and not 'h2', so this port does not speak"
        " gRPC; have it offer 'h2' by ALPN"
    )


def ended_early(*, server: bool, reason: str = "") -> str:
    """Say that the peer left in the middle of the handshake."""
    peer = "client" if server else "server"
    what = reason or f"the {peer} closed the connection"
    return f"TLS: {what} during the handshake" + ("" if server else "; it may speak no TLS on this port")


def names_of(certificate: dict[str, Any]) -> str:
    """Return the names that a certificate is for, as text; without any, its common name."""
    names = [
        str(value) for kind, value in certificate.get("subjectAltName", ()) if kind in {"DNS", "IP Address"}
    ]
    if not names:
        common = common_name(certificate)
        return (
            f"no DNS name or IP address at all (common name {common!r} does not count)"
            if common
            else "nobody"
        )
    shown = ", ".join(repr(each) for each in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def common_name(certificate: dict[str, Any]) -> str:
    """Return the common name of a certificate's subject; empty if it has none."""
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


def _explain_certificate(
    error: ssl.SSLCertVerificationError, peer: str, name: str | None, certificate: dict[str, Any]
) -> str:
    text = f"TLS: the {peer}'s certificate "
    code = error.verify_code
    issuer = common_name({"subject": certificate.get("issuer", ())})
    if code == _EXPIRED:
        since = certificate.get("notAfter")
        return text + ("has expired" if since is None else f"expired on {since}") + "; renew it there"
    if code == _NOT_YET:
        since = certificate.get("notBefore", "later")
        return text + f"is valid from {since}; see that the clocks of both machines are right"
    if code in _WRONG_NAME:
        known = f": it is for {names_of(certificate)}" if certificate else ""
        return text + f"is not for {name!r}{known}. Connect by such a name, or use lbkit.tls(server_name=...)"
    if code in _NO_ISSUER or code == _SELF_SIGNED:
        by = f" ({issuer!r})" if issuer else ""
        return text + f"is signed by nobody we trust{by}; pass that authority as ca= to lbkit.tls"
    return text + f"is refused: {error.verify_message}"


def _reason_in(text: str) -> str:
    """Return OpenSSL's name for what happened, where CPython's list does not have it: ``[SSL] the name (_ssl.c:1)``."""
    return text.rpartition("] ")[2].partition(" (_ssl")[0].upper().replace(" ", "_")


def _plain(reason: str) -> str:
    return reason.lower().replace("_", " ")
