"""What a ``dns:`` target asks for."""

from __future__ import annotations

from typing import NamedTuple

from lbkit.errors import TargetError
from lbkit.target import Target
from lbkit_resolvers.dns.target import check_service, split_host, split_servers
from lbkit_resolvers.parameters import choice, seconds
from lbkit_resolvers.static import ip_version

PARAMETERS = frozenset({"refresh", "family", "search", "srv", "priority", "txt", "hold"})

SOONEST_S = 1.0  # however short a refresh is asked for
_VERSIONS = {"any": (4, 6), "4": (4,), "6": (6,)}


class Options(NamedTuple):
    """A target, understood.

    Attributes:
        host: what to look up; an IP literal is what it is.
        port: of the backends, where no SRV record says it.
        servers: the name servers to ask; empty for those of the system.
        refresh_s: seconds between two look-ups; None for only on demand, or as ``by_ttl`` says.
        by_ttl: whether the records say when to look again.
        versions: IP versions to ask for.
        search: whether the search domains of the system are tried.
        service: ``_grpc._tcp``; empty for no SRV look-up.
        every_priority: whether the SRV records of all priorities count.
        txt: whether the service config is looked up.
        hold_s: seconds that what is missing from an answer is kept.
    """

    host: str
    port: int
    servers: tuple[tuple[str, int], ...]
    refresh_s: float | None
    by_ttl: bool
    versions: tuple[int, ...]
    search: bool
    service: str
    every_priority: bool
    txt: bool
    hold_s: float

    @classmethod
    def of(cls, target: Target) -> Options:
        """Read a target.

        Raises:
            TargetError: it makes no sense; says where, and what to write.
        """
        given = target.parameters()

        def one_of(name: str, *known: str) -> str:
            return choice(target, name, given.get(name, known[0]), known)

        host, port = split_host(target)
        refresh = given.get("refresh", "30s")
        versions = _VERSIONS[one_of("family", *_VERSIONS)]
        version = ip_version(host)
        if version and version not in versions:
            raise TargetError(
                f"target {target.text!r} has an IPv{version} address, and family={given['family']}"
            )
        if "priority" in given and "srv" not in given:
            raise TargetError(
                f"target {target.text!r}: priority= is about SRV records; write srv=_grpc._tcp too"
            )
        return cls(
            host,
            port,
            split_servers(target) if target.authority else (),
            None if refresh in {"off", "ttl"} else seconds(target, "refresh", refresh, minimum=SOONEST_S),
            refresh == "ttl",
            versions,
            one_of("search", "off", "on") == "on",
            check_service(target, given["srv"]) if "srv" in given else "",
            one_of("priority", "best", "all") == "all",
            one_of("txt", "off", "on") == "on",
            seconds(target, "hold", given["hold"], minimum=0.0) if "hold" in given else 0.0,
        )
