"""How a ``dns:`` target is written."""

from __future__ import annotations

from lbkit.address import Address
from lbkit.errors import AddressError, TargetError
from lbkit.target import Target
from lbkit_resolvers.static import ip_version

DEFAULT_PORT = 443  # the gRPC naming document's, for plaintext too: grpc users move here with their targets


def split_host(target: Target) -> tuple[str, int]:
    """Return the host and the port to connect to. ``:80`` is ``localhost:80``, no port is 443.

    Raises:
        TargetError: there is no host, an empty port, or one of them is not valid.
    """
    text = target.path
    if not text:
        meant = (
            f"; the name comes behind a third slash: dns:///{target.authority}" if target.authority else ""
        )
        raise TargetError(f"target {target.text!r} names no host{meant or '; write dns:///host:port'}")
    if text.endswith(":") and not ip_version(text):
        raise TargetError(
            f"target {target.text!r} ends in a colon: write the port behind it, or leave it out for port {DEFAULT_PORT}"
        )
    host, port = _split(text, DEFAULT_PORT)
    try:
        address = Address.parse(
            f"[{host}]:{port}" if ip_version(host) == 6 else f"{host or 'localhost'}:{port}"
        )
    except AddressError as error:
        raise TargetError(f"target {target.text!r}: {error}") from None
    if not address.port:  # 0, or a path
        raise TargetError(f"target {target.text!r} needs a host and a port of 1 to 65535")
    labels = address.host.removesuffix(".").split(".")
    if not ip_version(address.host) and not all(0 < len(label) < 64 for label in labels):
        raise TargetError(
            f"target {target.text!r}: a part of {address.host!r} is empty or longer than 63 characters"
        )
    return address.host, address.port


def split_servers(target: Target) -> tuple[tuple[str, int], ...]:
    """Return the name servers of ``dns://server[:53][,server[:53]]/host``.

    Raises:
        TargetError: one of them is not an IP address.
    """
    return tuple(_server(target, text) for text in target.authority.split(","))


def _server(target: Target, text: str) -> tuple[str, int]:
    host, port = _split(text, 53)
    if not ip_version(host) or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise TargetError(
            f"target {target.text!r}: the name server {text!r} must be an IP address, with a port or "
            f"without; for the system's name servers write dns:///{target.path}"
        )
    return host, int(port)


def check_service(target: Target, text: str) -> str:
    """Return the service of ``srv=_grpc._tcp``.

    Raises:
        TargetError: it is not of that form, or the target has a port or an address, which come with the service.
    """
    parts = text.split(".")
    if len(parts) != 2 or not all(
        part.startswith("_") and 1 < len(part) < 64 and part.isascii() for part in parts
    ):
        raise TargetError(f"target {target.text!r}: srv={text} names no service; write srv=_grpc._tcp")
    if ip_version(split_host(target)[0]) or ":" in target.path:
        raise TargetError(
            f"target {target.text!r}: the ports come with srv={text}; write a name, and no port"
        )
    return text


def _split(text: str, default: int) -> tuple[str, str]:
    """Take a port off, and brackets; a literal IPv6 address may stand without them if it has no port."""
    if ip_version(text):
        return text, str(default)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default)
    if host.startswith("[") and host.endswith("]") and ip_version(host[1:-1]) == 6:
        host = host[1:-1]
    return host, port
