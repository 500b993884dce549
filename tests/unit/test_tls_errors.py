"""The texts about what goes wrong with TLS: who, why, and what to do."""

from __future__ import annotations

import ssl

import pytest

from lbkit.transport.connection import describe_os_error
from lbkit.transport.tls_errors import TlsError, ended_early, explain, names_of, no_alpn, no_tls


def of(reason: str | None, text: str = "") -> ssl.SSLError:
    error = ssl.SSLError(1, text or f"[SSL: {reason}] something (_ssl.c:1000)")
    error.reason = reason  # type: ignore[assignment]
    return error


def refused(code: int, message: str = "") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    error.verify_message = message
    return error


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "asks for a client certificate"),
        ("TLSV1_ALERT_UNKNOWN_CA", "does not trust the authority"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "has expired"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "refuses our certificate"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "no version of TLS in common"),
        ("TLSV1_UNRECOGNIZED_NAME", "has no certificate for that name"),
        ("SSLV3_ALERT_ILLEGAL_PARAMETER", "the server ended the handshake: sslv3 alert illegal parameter"),
        ("NO_SHARED_CIPHER", "no version or cipher in common"),
        ("BAD_SIGNATURE", "the handshake failed: bad signature"),
    ],
)
def test_reasons_of_openssl(reason: str, text: str) -> None:
    assert text in explain(of(reason), server=False)


def test_reasons_that_cpython_does_not_know_are_read_from_the_text() -> None:
    error = of(None, "[SSL] tlsv1 alert no application protocol (_ssl.c:1006)")
    assert "does not speak HTTP/2 (ALPN h2) on this port" in explain(error, server=False)


def test_certificates() -> None:
    wrong = explain(refused(62), server=False, name="b", certificate={"subjectAltName": (("DNS", "a"),)})
    assert "is not for 'b': it is for 'a'. Connect by such a name" in wrong
    assert "is not for 'b'. Connect" in explain(refused(64), server=False, name="b")
    assert "has expired; renew it there" in explain(refused(10), server=False)
    assert "expired on then" in explain(refused(10), server=False, certificate={"notAfter": "then"})
    assert "the client's certificate is valid from later" in explain(refused(9), server=True)
    issuer = {"issuer": ((("commonName", "CA"),),)}
    assert "nobody we trust ('CA'); pass" in explain(refused(20), server=False, certificate=issuer)
    assert "nobody we trust; pass" in explain(refused(18), server=False)
    assert "is refused: odd" in explain(refused(99, "odd"), server=False)


def test_names_of_a_certificate() -> None:
    many = {"subjectAltName": tuple(("DNS", f"n{number}") for number in range(7))}
    assert names_of(many) == "'n0', 'n1', 'n2', 'n3', 'n4' and 2 more"
    assert names_of({"subject": ((("commonName", "old"),),)}) == (
        "no DNS name or IP address at all (common name 'old' does not count)"
    )
    assert names_of({"subject": ((("organizationName", "x"),),)}) == "nobody"


def test_other_ends() -> None:
    assert "a gRPC client without TLS" in no_tls(b"PRI * HTTP/2.0", server=True)
    assert "speaks no TLS on this port" in no_tls(b"HTTP/1.1 400", server=False)
    assert "selected 'http/1.1' and not 'h2'" in no_alpn("http/1.1", server=False)
    assert ended_early(server=True) == "TLS: the client closed the connection during the handshake"
    assert ended_early(server=False, reason="reset").startswith(
        "TLS: reset during the handshake; it may speak"
    )
    assert explain(ValueError("x"), server=False) == "TLS: the handshake failed: ValueError: x"


def test_tls_keeps_its_capitals() -> None:
    assert describe_os_error(TlsError("TLS: no")) == "TLS: no"
    assert describe_os_error(OSError("Odd")) == "odd"
