"""How to get in: what a pod is told, and kubeconfigs."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbkit_resolvers.kubernetes.config import Access, System, load
from lbkit_resolvers.kubernetes.failures import Failure
from tests.support.certificates import certificates

POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """The folder with what a pod is told."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("first\n")
    (folder / "namespace").write_text("shop")
    (folder / "ca.crt").write_bytes(certificates().ca.read_bytes())
    return folder


def test_pod_is_told_everything(pod: Path) -> None:
    access = load(System(POD, str(pod)))
    assert access.server == "https://10.96.0.1:443"
    assert access.namespace == "shop"
    assert access.token() == "Bearer first"
    assert access.tls is not None
    assert access.tls.verify_mode is ssl.CERT_REQUIRED
    assert len(access.tls.get_ca_certs()) == 1


def test_ipv6_address_of_the_server_is_put_in_brackets(pod: Path) -> None:
    assert load(System({"KUBERNETES_SERVICE_HOST": "fd00::1"}, str(pod))).server == "https://[fd00::1]:443"


def test_token_that_is_replaced_is_read_again(pod: Path) -> None:
    access = load(System(POD, str(pod)))
    assert access.token() == "Bearer first"
    (pod / "new").write_text("second")
    (pod / "new").replace(pod / "token")
    assert access.token() == "Bearer second"


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_pod_without_its_service_account_says_so(pod: Path, missing: str) -> None:
    (pod / missing).unlink()
    with pytest.raises(Failure, match=rf"{missing} cannot be read .* \(automountServiceAccountToken\)"):
        load(System(POD, str(pod)))


def test_pod_without_a_namespace_is_in_the_default_one(pod: Path) -> None:
    (pod / "namespace").unlink()
    assert load(System(POD, str(pod))).namespace == "default"


def test_token_with_control_characters_is_not_sent(pod: Path) -> None:
    (pod / "token").write_text("a\r\nx-injected: 1")
    with pytest.raises(Failure, match="the token holds characters that no token has"):
        load(System(POD, str(pod)))


# Kubeconfigs


def config(
    server: str = "https://api:6443", *, cluster: Any = None, user: Any = None, **more: Any
) -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "current-context": "main",
        **more,
    }


def written(folder: Path, document: Any, name: str = "config") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def loaded(folder: Path, document: Any, context: str = "") -> Access:
    return load(System({}), str(written(folder, document)), context)


def test_kubeconfig_is_found_where_kubectl_finds_it(tmp_path: Path) -> None:
    written(tmp_path, config("https://home"), ".kube/config")
    one = written(tmp_path, config("https://one"), "one")
    assert load(System({"HOME": str(tmp_path)})).server == "https://home"
    assert load(System({"HOME": str(tmp_path), "KUBECONFIG": str(one)})).server == "https://one"
    assert load(System({"HOME": str(tmp_path)}), str(one)).server == "https://one"


def test_pod_comes_before_kubeconfigs_unless_one_is_asked_for(pod: Path, tmp_path: Path) -> None:
    path = written(tmp_path, config("https://one"))
    system = System({**POD, "KUBECONFIG": str(path)}, str(pod))
    assert load(system).server == "https://10.96.0.1:443"
    assert load(system, str(path)).server == "https://one"
    assert load(system, "", "main").server == "https://one"


def test_several_files_are_merged_and_the_first_wins(tmp_path: Path) -> None:
    one = written(tmp_path, config("https://one", **{"current-context": ""}), "one")
    extra = {"name": "other", "context": {"cluster": "d", "user": "u"}}
    two = config("https://two", contexts=[extra], **{"current-context": "other"})
    two["clusters"].append({"name": "d", "cluster": {"server": "https://d"}})
    listed = os.pathsep.join([str(tmp_path / "missing"), str(one), str(written(tmp_path, two, "two"))])
    system = System({"KUBECONFIG": listed})
    assert (load(system).server, load(system).namespace) == ("https://d", "default")
    assert load(system, context="main").server == "https://one"


def test_token_of_a_kubeconfig(tmp_path: Path) -> None:
    assert loaded(tmp_path, config(user={"token": "abc"})).token() == "Bearer abc"
    (tmp_path / "token").write_text("from-a-file")
    access = loaded(tmp_path, config(user={"token": "abc", "tokenFile": "token"}))
    assert access.token() == "Bearer from-a-file"
    assert loaded(tmp_path, config(user={"username": "ann", "password": "pw"})).token() == "Basic YW5uOnB3"
    assert loaded(tmp_path, config()).token() == ""


def test_token_is_not_sent_without_tls(tmp_path: Path) -> None:
    access = loaded(tmp_path, config("http://127.0.0.1:8001/", user={"token": "abc"}))
    assert (access.server, access.tls, access.token()) == ("http://127.0.0.1:8001", None, "")


def test_authorities_come_from_data_a_file_or_the_system(tmp_path: Path) -> None:
    pem = certificates().ca.read_bytes()
    (tmp_path / "ca.pem").write_bytes(pem)
    data = {"certificate-authority-data": base64.b64encode(pem).decode()}
    for cluster in (
        data,
        {"certificate-authority": "ca.pem"},
        {"certificate-authority": str(tmp_path / "ca.pem")},
    ):
        tls = loaded(tmp_path, config(cluster=cluster)).tls
        assert tls is not None
        assert len(tls.get_ca_certs()) == 1
        assert tls.check_hostname
    assert loaded(tmp_path, config()).tls is not None


def test_insecure_means_what_it_says(tmp_path: Path) -> None:
    tls = loaded(tmp_path, config(cluster={"insecure-skip-tls-verify": True})).tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_NONE, False)


def test_client_certificate_comes_from_data_or_files(tmp_path: Path) -> None:
    cert, key = certificates().client_cert, certificates().client_key
    files = {"client-certificate": str(cert), "client-key": str(key)}
    data = {
        f"{name}-data": base64.b64encode(Path(path).read_bytes()).decode() for name, path in files.items()
    }
    for user in (files, data):
        assert loaded(tmp_path, config(user=user)).tls is not None


def test_server_name_and_proxy(tmp_path: Path) -> None:
    access = loaded(
        tmp_path, config(cluster={"tls-server-name": "api.test", "proxy-url": "http://proxy:3128"})
    )
    assert (access.server_name, access.proxy) == ("api.test", "http://proxy:3128")


def test_plugin_gives_a_token_once(tmp_path: Path) -> None:
    plugin = tmp_path / "bin" / "login"
    plugin.parent.mkdir()
    plugin.write_text(
        f'#!/bin/sh\necho run >> {tmp_path}/runs\necho "$KUBERNETES_EXEC_INFO" > {tmp_path}/info\n'
        'echo "{\\"kind\\": \\"ExecCredential\\", \\"status\\": {\\"token\\": \\"$PREFIX-$1\\"}}"\n'
    )
    plugin.chmod(0o755)
    spec = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./bin/login",
        "args": ["shop"],
        "env": [{"name": "PREFIX", "value": "tok"}],
        "provideClusterInfo": True,
    }
    access = loaded(tmp_path, config(user={"exec": spec}))
    assert [access.token(), access.token()] == ["Bearer tok-shop"] * 2
    assert (tmp_path / "runs").read_text() == "run\n"
    info = json.loads((tmp_path / "info").read_text())
    assert info["apiVersion"] == "client.authentication.k8s.io/v1"
    assert info["spec"] == {"interactive": False, "cluster": {"server": "https://api:6443"}}


@pytest.mark.parametrize(
    ("command", "args", "why"),
    [
        ("sh", ["-c", "echo not logged in >&2; exit 3"], "sh ended with status 3: not logged in"),
        ("sh", ["-c", "echo hello"], "sh gave no ExecCredential with a token"),
        ("sh", ["-c", "echo '{\"status\": {}}'"], "sh gave no ExecCredential with a token"),
        ("no-such-program", [], "no-such-program gives no credentials: "),
    ],
)
def test_plugin_that_gives_none_says_why(tmp_path: Path, command: str, args: list[str], why: str) -> None:
    access = loaded(tmp_path, config(user={"exec": {"command": command, "args": args}}))
    with pytest.raises(Failure) as caught:
        access.token()
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("]", "cannot be read: "),
        ("- a", "is no kubeconfig"),
        ("", "is no kubeconfig"),
        (
            config(**{"current-context": "mian"}),
            "there is no context 'mian'. Did you mean 'main'? Known: main",
        ),
        ({}, "there is no context ''. Known: none"),
        (config(clusters=[]), "there is no cluster 'c'. Known: none"),
        (config(users=["x", {"name": "y"}]), "there is no user 'u'. Known: none"),
        (config("api:6443"), "server 'api:6443' is no URL; write https://host:port"),
        (config("https://"), "is no URL"),
        (config("https://[::1"), "Invalid IPv6 URL"),
        (config(cluster={"certificate-authority-data": "%"}), "certificate-authority-data is no base64"),
        (config(cluster={"certificate-authority-data": "aGk="}), "config: "),
        (config(cluster={"certificate-authority": "missing.pem"}), "missing.pem"),
        (config(user={"client-certificate": "missing.pem"}), "missing.pem"),
        (config(user={"client-certificate-data": "aGk=", "client-key-data": "aGk="}), "config: "),
        (config(user={"auth-provider": {}}), "'auth-provider', which lbkit does not know; use a token"),
        (config(user={"as": "root"}), "'as', which lbkit does not know"),
        (config(user={"exec": {}}), "its exec plug-in has no command"),
        (config(user={"exec": {"command": "x", "interactiveMode": "Always"}}), "wants to ask a person"),
    ],
)
def test_bad_kubeconfig_says_what_is_wrong(tmp_path: Path, document: Any, why: str) -> None:
    with pytest.raises(Failure) as caught:
        loaded(tmp_path, document)
    assert why in str(caught.value)
    assert str(tmp_path / "config") in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SPEC = {"command": "true", "args": ["a"], "env": [{"name": "A", "value": "b"}], "provideClusterInfo": True}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_anything_instead_of_any_part_gives_access_or_a_failure(data: st.DataObject) -> None:
    document = config(cluster={"insecure-skip-tls-verify": True}, user={"exec": copy.deepcopy(SPEC)})
    node: Any = document
    while True:
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else list(range(len(node)))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(JSON)
            break
        node = node[key]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Failure):
        loaded(Path(folder), document)


def test_certificates_without_extensions_that_go_does_not_ask_for_are_good(tmp_path: Path) -> None:
    tls = loaded(tmp_path, config()).tls
    assert tls is not None
    assert not tls.verify_flags & ssl.VERIFY_X509_STRICT


def test_without_anything_the_cure_is_said(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        load(System({"HOME": str(tmp_path)}))
    assert f"neither KUBERNETES_SERVICE_HOST, as a pod has it, nor {tmp_path}/.kube/config" in str(
        caught.value
    )
    assert "?kubeconfig=/path/to/config" in str(caught.value)


def test_missing_yaml_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(Failure, match=r"pip install 'lbkit\[kubernetes\]'"):
        loaded(tmp_path, config())
