"""How a ``kubernetes:`` target is written."""

from __future__ import annotations

from typing import NamedTuple

from lbkit.errors import TargetError
from lbkit.target import Target

_NAME = set("abcdefghijklmnopqrstuvwxyz0123456789-")  # of a DNS label, as Kubernetes has it
_FORMS = "kubernetes:///service.namespace:port or kubernetes://namespace/service:port"


class Service(NamedTuple):
    """Which backends are meant.

    Attributes:
        name: of the Service, which its EndpointSlices bear as a label.
        namespace: empty for that of the pod, or of the kubeconfig's context.
        port: a number, a port's name, or empty for the first TCP port.
        host: the Service as the target has it, with its namespace if that is known.
    """

    name: str
    namespace: str
    port: str
    host: str

    @property
    def authority(self) -> str:
        """What servers get as ``:authority``: a port's name cannot stand there."""
        return f"{self.host}:{self.port}" if self.port.isdigit() else self.host


def service_of(target: Target) -> Service:
    """Read the forms that kuberesolver reads, and the whole name that cluster DNS has.

    ``kubernetes:///svc``, ``kubernetes:///svc.ns:port``, ``kubernetes:///svc.ns.svc.cluster.local:port``,
    ``kubernetes://ns/svc:port``, ``kubernetes://svc.ns:port/``.

    Raises:
        TargetError: there is no service, a name or port that cannot be one, or two namespaces.
    """
    text, given = (target.path, target.authority) if target.path else (target.authority, "")
    host, colon, port = text.partition(":")
    name, _, rest = host.partition(".")
    namespace, _, domain = rest.partition(".")
    if not name:
        raise TargetError(f"target {target.text!r} names no service; write {_FORMS}")
    if domain and domain.partition(".")[0] != "svc":
        raise TargetError(
            f"target {target.text!r}: {host!r} is no name of a service; write {_FORMS}, or all of "
            "service.namespace.svc.cluster.local"
        )
    if given and namespace and namespace != given:
        raise TargetError(f"target {target.text!r} names two namespaces, {given!r} and {namespace!r}")
    namespace = given or namespace
    for what, label in (("service", name), ("namespace", namespace)):
        if label and not _is_label(label):
            raise TargetError(
                f"target {target.text!r}: {label!r} cannot be the name of a {what}: up to 63 of a-z, 0-9 and '-', "
                f"no '-' at its ends; write {_FORMS}"
            )
    if colon:
        _check_port(target, port)
    return Service(name, namespace, port, host if "." in host or not namespace else f"{name}.{namespace}")


def _check_port(target: Target, port: str) -> None:
    if port.isascii() and port.isdigit():
        if len(port) > 5 or not 0 < int(port) < 65536:
            raise TargetError(f"target {target.text!r}: port {port} is not between 1 and 65535")
    elif not _is_label(port):
        raise TargetError(
            f"target {target.text!r}: {port!r} is neither a port nor a port's name; leave out the colon for the "
            "service's first port"
        )


def _is_label(text: str) -> bool:
    return 0 < len(text) < 64 and set(text) <= _NAME and text[0] != "-" != text[-1]
