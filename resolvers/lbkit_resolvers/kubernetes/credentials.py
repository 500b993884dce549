"""Who we are to an API server: tokens that rotate, plug-ins of kubeconfigs, certificates. Blocks: run it in a thread."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbkit_resolvers.kubernetes.failures import Failure
from lbkit_resolvers.records import shown

_PLUGIN_S = 30.0  # that a plug-in gets
_CLUSTER_KEYS = (
    "server",
    "tls-server-name",
    "insecure-skip-tls-verify",
    "certificate-authority-data",
    "proxy-url",
)


class Token(ABC):
    """Gives the ``Authorization`` header of a request."""

    @abstractmethod
    def __call__(self) -> str:
        """Return the header; empty for none.

        Raises:
            Failure, OSError: it cannot be had.
        """


class FixedToken(Token):
    """A token that stands in a kubeconfig; empty for none."""

    def __init__(self, token: str) -> None:
        self._header = _bearer(token)

    def __call__(self) -> str:
        """Return it."""
        return self._header


class BasicAuth(Token):
    """A name and a password, as for proxies in front of an API server (RFC 7617)."""

    def __init__(self, user: str, password: str) -> None:
        self._header = "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    def __call__(self) -> str:
        """Return them."""
        return self._header


class TokenFile(Token):
    """A token in a file that is replaced before it expires: the kubelet does so every hour."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> str:
        """Read it: requests are rare, and the file is small."""
        return _bearer(self._path.read_text("utf-8").strip())


class ExecPlugin(Token):
    """A program that prints an ``ExecCredential`` with a token (client.authentication.k8s.io), as cloud providers have."""

    def __init__(self, spec: Mapping[str, Any], folder: Path, cluster: Mapping[str, Any]) -> None:
        command = str(spec.get("command") or "")
        if not command or spec.get("interactiveMode") == "Always":
            raise ValueError("its exec plug-in has no command, or wants to ask a person")
        self._command = [
            str(folder / command) if "/" in command else command,
            *map(str, spec.get("args") or []),
        ]
        about: dict[str, Any] = {"interactive": False}
        if spec.get("provideClusterInfo"):
            about["cluster"] = {key: cluster[key] for key in _CLUSTER_KEYS if key in cluster}
        info = {"apiVersion": spec.get("apiVersion"), "kind": "ExecCredential", "spec": about}
        extra = {str(each["name"]): str(each["value"]) for each in spec.get("env") or []}
        self._environment = {**os.environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        self._header = ""

    def __call__(self) -> str:
        """Run it, once: when its token is not accepted any more, all of the kubeconfig is read again."""
        if not self._header:
            self._header = self._run()
        return self._header

    def _run(self) -> str:
        name = self._command[0]
        try:
            done = subprocess.run(  # noqa: S603 -- what the user's own kubeconfig names
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PLUGIN_S,
                check=True,
            )
            token = json.loads(done.stdout)["status"]["token"]
        except subprocess.CalledProcessError as error:
            said = shown(error.stderr.strip(), 300)
            raise Failure(f"{name} ended with status {error.returncode}: {said}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(f"{name} gives no credentials: {error}") from None
        except (ValueError, LookupError, TypeError):
            raise Failure(f"{name} gave no ExecCredential with a token in its status") from None
        return _bearer(str(token))


def _bearer(token: str) -> str:
    if not token.isascii() or not token.isprintable():
        raise Failure("the token holds characters that no token has")
    return f"Bearer {token}" if token else ""


NO_TOKEN = FixedToken("")


def tls_context(
    *,
    ca_file: Path | None = None,
    ca_data: bytes = b"",
    insecure: bool = False,
    cert: bytes = b"",
    key: bytes = b"",
) -> ssl.SSLContext:
    """Make the TLS settings of connections to an API server.

    Args:
        ca_file: whom to trust; without it, the system's authorities.
        ca_data: the same as PEM; wins over the file.
        insecure: trust anybody.
        cert: our certificate as PEM; empty for none.
        key: its key as PEM.

    Raises:
        OSError, ValueError: a file cannot be read, or is not what it should be.
    """
    if ca_data:
        context = ssl.create_default_context(cadata=ca_data.decode("ascii"))
    else:
        if ca_file:
            ca_file.stat()  # ssl's own error does not say which file
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    # Python 3.13 asks for extensions that the certificates of many clusters lack, and that Go does not ask for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert or key:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="lbkit-") as folder:  # ssl reads certificates from files only
            pair = Path(folder, "pair.pem")
            pair.touch(0o600)
            pair.write_bytes(cert + b"\n" + key)
            context.load_cert_chain(pair)
    return context
