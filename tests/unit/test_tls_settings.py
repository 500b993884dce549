"""What ``lbkit.tls`` takes, what it shows, and how contexts are made of it."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

import lbkit
from lbkit.compat.credentials import call_credentials_of, ssl_server_credentials, tls_of_server
from lbkit.compat.credentials import tls_of as tls_of_grpcio
from lbkit.security import tls_of
from lbkit.transport.tls import host_of
from lbkit.transport.tls_context import Contexts, shared_by_clients
from lbkit.transport.tls_errors import TlsError
from tests.support.certificates import certificates

KEY = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"


def test_settings_are_shown_without_secrets() -> None:
    settings = lbkit.tls(cert="/etc/tls.crt", key=KEY, server_name="a.example")
    assert repr(settings) == f"tls(cert='/etc/tls.crt', key=<{len(KEY)} bytes>, server_name='a.example')"


def test_settings_are_values() -> None:
    one, same, other = lbkit.tls(ca="a"), lbkit.tls(ca="a"), lbkit.tls(ca="b")
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "a"
    with pytest.raises(AttributeError, match="immutable"):
        one.ca = "b"


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"key": "k"}, ValueError, "without cert="),
        ({"server_name": ""}, ValueError, "server_name"),
        ({"server_name": ".example"}, ValueError, "server_name"),
        ({"client_auth": "yes"}, ValueError, "'require', 'request' or None"),
        ({"ca": KEY.decode()}, TypeError, "use bytes"),
        ({"ca": 7}, TypeError, "a path, or PEM as bytes"),
        ({"context": "x"}, TypeError, "a function that returns one"),
        ({"context": ssl.create_default_context, "ca": "x"}, ValueError, "leave out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        lbkit.tls(**settings)
    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (lbkit.tls(ca="x"), "a server needs cert="),
        (lbkit.tls(cert="x", client_auth="require"), "needs ca="),
        (lbkit.tls(cert="x", ca="x"), "say client_auth='require'"),
    ],
)
def test_settings_that_are_no_servers_are_refused(settings: lbkit.Tls, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        lbkit.Server().bind("127.0.0.1:0", tls=settings)


def test_what_stands_for_settings() -> None:
    assert tls_of(None) is tls_of(False) is None
    assert tls_of(True) == lbkit.tls()
    settings = lbkit.tls(ca="x")
    assert tls_of(settings) is settings
    with pytest.raises(TypeError, match=r"tls= is a builtins\.str; use lbkit\.tls\(ca="):
        tls_of("/etc/ca.pem")


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("a.example:443", "a.example"),
        ("a.example", "a.example"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]:1", "::1"),
        ("[fe80::1%eth0]:1", "fe80::1"),
        ("[::1]", "::1"),
    ],
)
def test_host_of_an_authority(authority: str, host: str) -> None:
    assert host_of(authority) == host


# Contexts


def test_a_context_keeps_to_what_http2_asks_for() -> None:
    context = Contexts(lbkit.tls(ca=certificates().ca), server=False).current()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert all(
        each["aead"] and "RSA " not in each["description"].split("Kx=")[1][:4]
        for each in context.get_ciphers()
    )


def test_a_context_is_made_once_for_the_same_files(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificates().ca.read_bytes())
    contexts = Contexts(lbkit.tls(ca=ca), server=False)
    first = contexts.current()
    assert contexts.current() is first
    other = tmp_path / "new"
    other.write_bytes(ca.read_bytes())
    other.rename(ca)
    second = contexts.current()
    assert second is not first
    assert contexts.current() is second


def test_a_context_that_was_never_good_is_tried_each_time(tmp_path: Path) -> None:
    contexts = Contexts(lbkit.tls(ca=tmp_path / "ca.pem"), server=False)
    for _ in range(2):
        with pytest.raises(TlsError, match="no such file or directory"):
            contexts.current()
    (tmp_path / "ca.pem").write_bytes(certificates().ca.read_bytes())
    contexts.current()


def test_files_that_openssl_cannot_use_are_named(tmp_path: Path) -> None:
    known = certificates()
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("nothing\n")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"cert": garbage, "key": known.key}, "garbage.pem' and key="),
        ({"cert": known.cert, "key": garbage}, "no certificate, or no private key, in PEM"),
        ({"cert": known.cert}, "no certificate with its private key in PEM"),
        ({"cert": known.cert, "key": known.client_key}, "the key is not that of the certificate"),
        ({"cert": b"nothing", "key": b"nothing"}, r"cert=<7 bytes> and key=<7 bytes>"),
        ({"cert": tmp_path, "key": known.key}, "is a directory"),
    ]
    for settings, text in cases:
        with pytest.raises(TlsError, match=text):
            Contexts(lbkit.tls(**settings), server=True).current()


def test_an_encrypted_key_is_refused_without_a_prompt(tmp_path: Path) -> None:
    key = tmp_path / "locked.key"
    where = ["-in", str(certificates().key), "-out", str(key)]
    subprocess.run(
        ["openssl", "pkey", "-aes256", "-passout", "pass:x", *where], check=True, capture_output=True
    )
    with pytest.raises(TlsError, match="the key is encrypted; decrypt it"):
        Contexts(lbkit.tls(cert=certificates().cert, key=key), server=True).current()


def test_pem_as_bytes_where_the_system_has_no_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    known = certificates()
    settings = lbkit.tls(cert=known.cert.read_bytes(), key=known.key.read_bytes())
    Contexts(settings, server=True).current()


def test_a_failure_of_the_system_does_not_keep_new_files_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificates().ca.read_bytes())
    contexts = Contexts(lbkit.tls(ca=ca), server=False)
    first = contexts.current()
    os.utime(ca, ns=(1, 1))
    ca.chmod(0o600)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", full)
        assert contexts.current() is first
    assert contexts.current() is not first


def test_channels_with_the_same_settings_share_a_context() -> None:
    one, same = (
        shared_by_clients(lbkit.tls(ca=certificates().ca)),
        shared_by_clients(lbkit.tls(ca=certificates().ca)),
    )
    assert one is same
    assert shared_by_clients(lbkit.tls(ca=certificates().cert)) is not one


# Of those who come from grpcio


def test_server_credentials_of_grpcios_form() -> None:
    assert ssl_server_credentials([(KEY, b"cert")], b"ca") == lbkit.tls(key=KEY, cert=b"cert")
    required = lbkit.tls(key=KEY, cert=b"cert", ca=b"ca", client_auth="require")
    assert ssl_server_credentials([(KEY, b"cert")], b"ca", True) == required
    assert tls_of_server(required) is required
    assert tls_of_grpcio(required) is required
    with pytest.raises(ValueError, match="2 pairs"):
        ssl_server_credentials([(KEY, b"cert")] * 2)
    with pytest.raises(ValueError, match="root_certificates="):
        ssl_server_credentials([(KEY, b"cert")], None, True)


def test_functions_are_call_credentials_as_they_are() -> None:
    def ours(context: lbkit.CredentialsContext) -> Any:
        return ()

    assert call_credentials_of(ours) is ours
