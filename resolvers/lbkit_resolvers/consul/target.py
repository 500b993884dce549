"""How a ``consul:`` target is written, and what of it may be shown."""

from __future__ import annotations

from typing import NamedTuple

from lbkit.errors import TargetError
from lbkit.target import Target, check_parameters
from lbkit_resolvers.parameters import choice, seconds
from lbkit_resolvers.records import MAX_ENDPOINTS

DEFAULT_PORT = 8500

# What says how to talk to the agent; with a client of the user's own, all but the token is that client's.
_TRANSPORT = frozenset({"tls", "ca", "cert", "key", "insecure"})
_COMMON = _TRANSPORT | {"token", "timeout"}
OF_RESOLVERS = _COMMON | {
    "tag",
    "healthy",
    "wait",
    "near",
    "limit",
    "max-backoff",
    "dc",
    "allow-stale",
    "require-consistent",
    "max-age",
    "empty-guard",
}
OF_REGISTRARS = _COMMON | {"ttl", "deregister-after", "tag", "format"}

_SECRET = "***"  # noqa: S105 -- what stands for one


class AgentAddress(NamedTuple):
    """Where the agent is, and how to be let in.

    Attributes:
        host, port: of its HTTP API.
        user, password: of basic authentication, for agents behind a proxy; empty for none.
        token: of Consul's ACL; empty for what ``CONSUL_HTTP_TOKEN`` or the user's client says.
        tls: ask over HTTPS.
        verify: check its certificate; or the file of the authorities to check it with.
        cert: the files of the client's own certificate and key, or None.
        timeout_s: how long an answer may be overdue.
    """

    host: str
    port: int
    user: str
    password: str
    token: str
    tls: bool
    verify: bool | str
    cert: tuple[str, str] | None
    timeout_s: float


class Query(NamedTuple):
    """What the resolver asks for.

    Attributes:
        tags: that an instance must have, all of them.
        healthy: ``"true"`` for those whose checks all pass, ``"warning"`` for those that warn too, ``"false"`` for all.
        wait_s: how long a blocking query blocks.
        near: the node to sort by distance from; empty for none.
        limit: how many endpoints at most; 0 for all.
        max_backoff_s: between two tries, at most.
        dc: the datacenter; empty for the agent's.
        consistency: ``"stale"``, ``""`` or ``"consistent"``, as the parameter of the HTTP API is named.
        max_age_s: how old a stale answer may be.
        guard_s: how long a doubtful empty answer is held back.
    """

    tags: tuple[str, ...]
    healthy: str
    wait_s: float
    near: str
    limit: int
    max_backoff_s: float
    dc: str
    consistency: str
    max_age_s: float
    guard_s: float


class Record(NamedTuple):
    """How the registrar registers.

    Attributes:
        ttl_s: without a heartbeat for so long, the instance is critical.
        deregister_after_s: and if it stays so, it is removed.
        tags: of the service.
        kratos: also as go-kratos writes and reads it.
    """

    ttl_s: float
    deregister_after_s: float
    tags: tuple[str, ...]
    kratos: bool


def readable(target: Target | str, known: frozenset[str], kind: str) -> Target:
    """Return the target, taken apart, with a text that may be shown, its parameters checked.

    Neither the password is in the text, nor the token, nor the value of a parameter that nobody knows, which may be a
    mistyped ``token``.

    Raises:
        TargetError: it has an unknown parameter, names no service, or is no valid query.
    """
    from urllib.parse import unquote

    if isinstance(target, str):
        target = Target.parse(target, {"consul"})
    fields: list[str] = []
    for field in target.query.split("&") if target.query else ():
        name, equals, _ = field.partition("=")
        public = unquote(name) in known and unquote(name) != "token"
        fields.append(field if public else f"{name}{equals}{_SECRET}")
    text, question, _ = str(target).partition("?")
    shown = target._replace(text=f"{text}{question}{'&'.join(fields)}")
    check_parameters(shown, known, kind)
    if not target.path or not target.path.isprintable():
        raise TargetError(
            f"target {shown.text!r} names no service; write consul://host:{DEFAULT_PORT}/service"
        )
    return shown


def public(target: Target) -> Target:
    """Return what ``readable`` gave without the secrets themselves, to be kept and shown."""
    return target._replace(authority=target.authority.rpartition("@")[2], query=target.text.partition("?")[2])


def agent_address(target: Target, *, own_client: bool) -> AgentAddress:
    """Read where the agent is. ``target`` is what ``readable`` gave.

    Args:
        target: the target.
        own_client: the user gave a client, which knows where and how.

    Raises:
        TargetError: a part of it makes no sense; says what to write.
    """
    from urllib.parse import unquote

    given = target.parameters()
    if own_client and (target.authority or given.keys() & _TRANSPORT):
        raise TargetError(
            f"target {target.text!r}: with client= that says where the agent is and how to reach it; "
            f"write consul:///{target.path}, without {', '.join(sorted(_TRANSPORT))}"
        )
    login, at, place = target.authority.rpartition("@")
    user, _, password = login.partition(":")
    if at and not user:
        raise TargetError(f"target {target.text!r} has no user before the @; write user:password@host")
    host, port = _place(target, place)
    tls = _flag(target, given, "tls", default=False)
    insecure = _flag(target, given, "insecure", default=False)
    for name in sorted(given.keys() & _TRANSPORT - {"tls"}):
        if not tls and given[name] != "false":
            raise TargetError(f"target {target.text!r}: {name}= says how to use TLS; add tls=true")
    if insecure and given.keys() & {"ca", "cert"}:
        raise TargetError(
            f"target {target.text!r}: insecure=true checks no certificate and sends none; leave out ca= and cert=, or it"
        )
    if "key" in given and "cert" not in given:
        raise TargetError(f"target {target.text!r} has key= without cert=")
    if not given.get("token", "").isprintable():
        raise TargetError(
            f"target {target.text!r}: token= holds control characters, as a line break at its end (%0A); leave them out"
        )
    cert = (given["cert"], given.get("key", given["cert"])) if "cert" in given else None
    return AgentAddress(
        host,
        port,
        unquote(user),
        unquote(password),
        given.get("token", ""),
        tls,
        not insecure and given.get("ca", True),
        cert,
        seconds(target, "timeout", given.get("timeout", "10s"), minimum=0.1),
    )


def query_of(target: Target) -> Query:
    """Read what to ask for. ``target`` is what ``readable`` gave.

    Raises:
        TargetError: a parameter makes no sense; says what to write.
    """
    given = target.parameters()
    stale = _flag(target, given, "allow-stale", default=True)
    consistent = _flag(target, given, "require-consistent", default=False)
    if consistent and stale and "allow-stale" in given:
        raise TargetError(f"target {target.text!r} has allow-stale and require-consistent; choose one")
    wait_s = seconds(target, "wait", given.get("wait", "60s"), minimum=0.1)
    if wait_s > 600:
        raise TargetError(
            f"target {target.text!r}: wait={given['wait']} is more than the 10 m that Consul waits"
        )
    limit = given.get("limit", "0")
    if not (limit.isascii() and limit.isdigit()) or int(limit[:6]) > MAX_ENDPOINTS:
        raise TargetError(f"target {target.text!r}: limit={limit} is no number from 0 to {MAX_ENDPOINTS}")
    return Query(
        tags_of(target, given),
        choice(target, "healthy", given.get("healthy", "true"), ("true", "warning", "false")),
        wait_s,
        given.get("near", ""),
        int(limit),
        seconds(target, "max-backoff", given.get("max-backoff", "2s"), minimum=0.1),
        given.get("dc", ""),
        "consistent" if consistent else "stale" if stale else "",
        seconds(target, "max-age", given.get("max-age", "10s"), minimum=0.0),
        seconds(target, "empty-guard", given.get("empty-guard", "30s"), minimum=0.0),
    )


def record_of(target: Target) -> Record:
    """Read how to register. ``target`` is what ``readable`` gave.

    Raises:
        TargetError: a parameter makes no sense; says what to write.
    """
    given = target.parameters()
    return Record(
        seconds(target, "ttl", given.get("ttl", "20s"), minimum=1.0),
        # Consul takes less for a minute.
        seconds(target, "deregister-after", given.get("deregister-after", "10m"), minimum=60.0),
        tags_of(target, given),
        choice(target, "format", given.get("format", "plain"), ("plain", "kratos")) == "kratos",
    )


def tags_of(target: Target, given: dict[str, str]) -> tuple[str, ...]:
    """Read ``tag=a,b``.

    Raises:
        TargetError: one of them is empty.
    """
    tags = tuple(given["tag"].split(",")) if "tag" in given else ()
    if not all(tags):
        raise TargetError(f"target {target.text!r}: tag={given['tag']} has an empty tag; write tag=a,b")
    return tags


def _flag(target: Target, given: dict[str, str], name: str, *, default: bool) -> bool:
    return choice(target, name, given.get(name, str(default).lower()), ("true", "false")) == "true"


def _place(target: Target, text: str) -> tuple[str, int]:
    """Take ``host:port`` apart; without a host it is the agent of this machine, as everywhere with Consul."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    literal = host.startswith("[") and host.endswith("]")
    good = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536
    if not good or (":" in host and not literal) or (text and not host):
        raise TargetError(
            f"target {target.text!r}: {text!r} is no address of an agent; write consul://host:{DEFAULT_PORT}/service"
        )
    return host or "127.0.0.1", int(port)
