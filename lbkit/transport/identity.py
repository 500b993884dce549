"""Who the other end of a connection is, in the words that grpcio has for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import ssl

_NAMES = "x509_subject_alternative_name"
_COMMON_NAME = "x509_common_name"
# What ``ssl`` calls the kinds of names, and what grpc lists them under.
_KINDS = {"DNS": "peer_dns", "URI": "peer_uri", "email": "peer_email", "IP Address": "peer_ip"}


class Identity(NamedTuple):
    """What is known of a peer.

    Attributes:
        properties: what ``context.auth_context()`` returns.
        key: which of them are the peer's identities; None if it showed no certificate.
    """

    properties: Mapping[str, list[bytes]]
    key: str | None


def identity_of(tls: ssl.SSLObject | None) -> Identity:
    """Return what a connection's TLS tells of the peer; None stands for a connection without."""
    if tls is None:
        return Identity(
            {"transport_security_type": [b"insecure"], "security_level": [b"TSI_SECURITY_NONE"]}, None
        )
    found = {
        "transport_security_type": [b"ssl"],
        "security_level": [b"TSI_PRIVACY_AND_INTEGRITY"],
        "ssl_tls_version": [(tls.version() or "").encode()],
    }
    decoded: dict[str, Any] = tls.getpeercert() or {}  # empty, too, if it was not checked
    if not decoded:
        return Identity(found, None)
    from ssl import DER_cert_to_PEM_cert

    common = [value.encode() for part in decoded["subject"] for key, value in part if key == "commonName"]
    if common:
        found[_COMMON_NAME] = common[:1]
    if certificate := tls.getpeercert(binary_form=True):
        found["x509_pem_cert"] = [DER_cert_to_PEM_cert(certificate).encode()]
    for kind, value in decoded.get("subjectAltName", ()):
        if isinstance(value, str) and kind in _KINDS:
            found.setdefault(_NAMES, []).append(value.encode())
            found.setdefault(_KINDS[kind], []).append(value.encode())
            if value.startswith("spiffe://"):
                found["peer_spiffe_id"] = [value.encode()]
    key = next((key for key in (_NAMES, _COMMON_NAME) if key in found), None)
    return Identity(found, key)
