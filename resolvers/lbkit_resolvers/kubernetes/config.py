"""Where the API server is, and how to get in: what a pod is told, or a kubeconfig.

Everything here blocks: run it in a thread.
"""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from lbkit.suggest import did_you_mean
from lbkit_resolvers.kubernetes.credentials import (
    NO_TOKEN,
    BasicAuth,
    ExecPlugin,
    FixedToken,
    Token,
    TokenFile,
    tls_context,
)
from lbkit_resolvers.kubernetes.failures import Failure

if TYPE_CHECKING:
    import ssl

_POD = "/var/run/secrets/kubernetes.io/serviceaccount"  # where the kubelet puts what a pod is told


class System(NamedTuple):
    """What this process was given.

    Attributes:
        environment: instead of ``os.environ``.
        pod: the folder with a pod's token, namespace and ca.crt.
    """

    environment: Mapping[str, str] = os.environ
    pod: str = _POD


class Access(NamedTuple):
    """One way to an API server.

    Attributes:
        server: its URL, without a slash at the end.
        namespace: the one that is meant when a target names none.
        token: gives the Authorization header.
        tls: for connections to it; None without TLS.
        server_name: whom its certificate must name; empty for the host of the URL.
        proxy: the URL of an HTTP proxy to go through; empty for none.
    """

    server: str
    namespace: str
    token: Token
    tls: ssl.SSLContext | None
    server_name: str = ""
    proxy: str = ""


def load(system: System, kubeconfig: str = "", context: str = "") -> Access:
    """Find the way: the kubeconfig that was asked for, else the pod's, else ``$KUBECONFIG`` or ``~/.kube/config``.

    Args:
        system: what this process was given.
        kubeconfig: the file to read; empty for the usual ones.
        context: which of its contexts; empty for its current one.

    Raises:
        Failure: nothing was found, or what was found makes no sense.
    """
    environment = system.environment
    if not kubeconfig and not context and "KUBERNETES_SERVICE_HOST" in environment:
        return _in_cluster(environment, Path(system.pod))
    listed = (
        kubeconfig
        or environment.get("KUBECONFIG")
        or str(Path(environment.get("HOME") or str(Path.home())) / ".kube" / "config")
    )
    paths = [Path(kubeconfig)] if kubeconfig else [Path(each) for each in listed.split(os.pathsep) if each]
    return _from_files(paths, context)


def _in_cluster(environment: Mapping[str, str], pod: Path) -> Access:
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    token = TokenFile(pod / "token")
    try:
        token()
        file = pod / "namespace"
        namespace = file.read_text("utf-8").strip() if file.exists() else ""
        context = tls_context(ca_file=pod / "ca.crt")
    except OSError as error:
        raise Failure(
            f"this is a pod, but {error.filename or pod} cannot be read ({error.strerror or error}): does it mount its "
            "service account (automountServiceAccountToken)?"
        ) from None
    return Access(server, namespace or "default", token, context)


def _from_files(paths: list[Path], wanted: str) -> Access:
    found = [path for path in paths if path.exists()]
    if not found:
        raise Failure(
            f"there is neither KUBERNETES_SERVICE_HOST, as a pod has it, nor {' nor '.join(map(str, paths))}; name a "
            "kubeconfig: ?kubeconfig=/path/to/config"
        )
    where = ", ".join(map(str, found))
    try:
        return _merged(found, where, wanted)
    except (OSError, ValueError, LookupError, TypeError) as error:  # ssl.SSLError is an OSError
        raise Failure(f"kubeconfig {where}: {error}") from None


def _merged(found: list[Path], where: str, wanted: str) -> Access:
    clusters: dict[str, dict[str, Any]] = {}
    users: dict[str, dict[str, Any]] = {}
    contexts: dict[str, dict[str, Any]] = {}
    current = ""
    for path in found:  # of two of one name, the first counts, as for kubectl
        document = _parse(path)
        for key, into in (("clusters", clusters), ("users", users), ("contexts", contexts)):
            for item in document.get(key) or []:
                if isinstance(item, dict) and isinstance(about := item.get(key[:-1]), dict):
                    into.setdefault(str(item.get("name")), {**about, "folder": path.parent})
        current = current or document.get("current-context") or ""
    context = _named(contexts, wanted or current, "context", where)
    cluster = _named(clusters, context.get("cluster"), "cluster", where)
    user = (
        _named(users, context.get("user"), "user", where)
        if context.get("user")
        else {"folder": found[0].parent}
    )
    return _access(context, cluster, user)


def _parse(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise Failure("a kubeconfig needs PyYAML: pip install 'lbkit[kubernetes]'") from None
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Failure(f"kubeconfig {path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise Failure(f"kubeconfig {path} is no kubeconfig")
    return document


def _named(known: dict[str, dict[str, Any]], name: Any, what: str, where: str) -> dict[str, Any]:
    if name not in known:
        raise Failure(
            f"kubeconfig {where}: there is no {what} {name!r}.{did_you_mean(str(name), known)} "
            f"Known: {', '.join(sorted(known)) or 'none'}"
        )
    return known[name]


def _access(context: dict[str, Any], cluster: dict[str, Any], user: dict[str, Any]) -> Access:
    server = str(cluster.get("server") or "").rstrip("/")
    namespace = str(context.get("namespace") or "default")
    proxy = str(cluster.get("proxy-url") or "")
    if server.startswith("http://"):  # without TLS nobody is told who we are, as by kubectl
        return Access(server, namespace, NO_TOKEN, None, proxy=proxy)
    if not server.startswith("https://") or not urlsplit(server).hostname:
        raise ValueError(f"server {server!r} is no URL; write https://host:port")
    tls = tls_context(
        ca_file=_path(cluster, "certificate-authority"),
        ca_data=_data(cluster, "certificate-authority-data"),
        insecure=cluster.get("insecure-skip-tls-verify") is True,
        cert=_data(user, "client-certificate-data") or _content(user, "client-certificate"),
        key=_data(user, "client-key-data") or _content(user, "client-key"),
    )
    name = str(cluster.get("tls-server-name") or "")
    return Access(server, namespace, _token(cluster, user), tls, name, proxy)


def _token(cluster: dict[str, Any], user: dict[str, Any]) -> Token:
    """Return what the user of a kubeconfig has to say for itself, beside a certificate."""
    for key in ("auth-provider", "as"):
        if key in user:
            raise ValueError(
                f"its user has {key!r}, which lbkit does not know; use a token, a certificate or exec"
            )
    if path := _path(user, "tokenFile"):
        return TokenFile(path)
    if user.get("token"):
        return FixedToken(str(user["token"]))
    if isinstance(user.get("exec"), dict):
        return ExecPlugin(user["exec"], user["folder"], cluster)
    if user.get("username"):
        return BasicAuth(str(user["username"]), str(user.get("password") or ""))
    return NO_TOKEN


def _path(about: dict[str, Any], key: str) -> Path | None:
    """Return a path; a relative one starts at its kubeconfig."""
    return about["folder"] / str(about[key]) if about.get(key) else None


def _content(about: dict[str, Any], key: str) -> bytes:
    path = _path(about, key)
    return path.read_bytes() if path else b""


def _data(about: dict[str, Any], key: str) -> bytes:
    try:
        return b64decode(str(about.get(key) or ""), validate=True)
    except ValueError:
        raise ValueError(f"{key} is no base64") from None
