"""How an ``etcd:`` target is written. The resolver and the registrar read the same ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from lbkit.address import Address
from lbkit.errors import AddressError, TargetError
from lbkit.security import Tls
from lbkit.target import Target
from lbkit_resolvers.etcd.codecs import CODECS, DEFAULT_CODEC, Codec
from lbkit_resolvers.parameters import choice

PORT = 2379
PARAMETERS = frozenset({"codec", "namespace", "tls", "ca", "cert", "key", "server-name"})


@dataclass(frozen=True, slots=True)
class EtcdTarget:
    """An ``etcd:`` target, understood.

    Attributes:
        hosts: the members, as ``host:port``; one at least.
        name: of the service; keys begin with ``codec.prefix(name)``.
        codec: the record format, with its namespace.
        user: who asks; empty for nobody.
        password: of that user.
        tls: how connections are secured; None for not at all.
    """

    hosts: tuple[str, ...]
    name: str
    codec: Codec
    user: str = ""
    password: str = field(default="", repr=False)
    tls: Tls | None = None

    @classmethod
    def read(
        cls, target: Target, *, tls: Tls | None = None, user: str = "", password: str = ""
    ) -> EtcdTarget:
        """Read ``etcd://[user:password@]host[:2379],host.../name?codec=etcd``; without a host it is 127.0.0.1.

        Parameters: ``codec`` (etcd, gozero, kratos), ``namespace`` (goes in front of the name), ``tls`` (on, off),
        ``ca``, ``cert``, ``key`` (paths of PEM files; they turn TLS on), ``server-name`` (in the members' certificates).
        Others are whoever's who asks, and looked at there.

        Args:
            target: what to read.
            tls: instead of what the target says of TLS.
            user: the same for the user, whose name stands in the target only if it may be seen.
            password: of that user.

        Raises:
            TargetError: there is no name, a host makes no sense, no codec is called that, or the parameters for TLS
                contradict each other.
        """
        given = target.parameters()
        name = target.path.removesuffix("/")
        if not name or not name.isprintable():
            where = f"etcd://{_hosts_part(target)}/greeter"
            raise TargetError(f"target {str(target)!r} has no name to look for; write one, like {where}")
        codec = CODECS[choice(target, "codec", given.get("codec", DEFAULT_CODEC), tuple(CODECS))]
        namespace = given.get("namespace")
        if namespace is not None and not namespace.isprintable():
            raise TargetError(f"target {str(target)!r}: the namespace holds control characters")
        if not user:
            user, password = _credentials(target)
        return cls(
            hosts=_hosts(target),
            name=name,
            codec=codec(namespace),
            user=user,
            password=password,
            tls=tls or _tls(target, given),
        )

    @property
    def prefix(self) -> bytes:
        """What the keys of the service begin with."""
        return self.codec.prefix(self.name)


def _hosts_part(target: Target) -> str:
    return target.authority.rpartition("@")[2]


def _credentials(target: Target) -> tuple[str, str]:
    """Return user and password of the target; both are empty if it has none."""
    from urllib.parse import unquote  # 3 ms to import, and few targets have a password

    before, at, _ = target.authority.rpartition("@")
    user, colon, password = before.partition(":")
    if at and not (user and colon):
        raise TargetError(f"target {str(target)!r}: write user:password@, each with % escapes where needed")
    return unquote(user), unquote(password)


def _hosts(target: Target) -> tuple[str, ...]:
    hosts: dict[str, None] = {}
    for text in (_hosts_part(target) or f"127.0.0.1:{PORT}").split(","):
        bare = text.endswith("]") or ":" not in text
        try:
            address = Address.parse(f"{text}:{PORT}" if bare else text)
        except AddressError as error:
            raise TargetError(f"target {str(target)!r}: {error}") from None
        if not address.port:  # 0, or a path
            raise TargetError(f"target {str(target)!r}: {text!r} is no host with a port of 1 to 65535")
        hosts[str(address)] = None
    return tuple(hosts)


def _tls(target: Target, given: dict[str, str]) -> Tls | None:
    files = [name for name in ("ca", "cert", "key") if name in given]
    said = choice(target, "tls", given.get("tls", "on" if files else "off"), ("on", "off"))
    if said == "off":
        if spare := [*files, *({"server-name"} & given.keys())]:
            raise TargetError(
                f"target {str(target)!r}: {spare[0]}= is of no use without TLS; write tls=on, or leave it out"
            )
        return None
    try:
        return Tls(
            ca=given.get("ca"),
            cert=given.get("cert"),
            key=given.get("key"),
            server_name=given.get("server-name"),
        )
    except ValueError as error:
        raise TargetError(f"target {str(target)!r}: {error}") from None
