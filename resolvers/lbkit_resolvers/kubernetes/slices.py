"""What a Service's EndpointSlices (discovery.k8s.io/v1) say together. Pure.

A Service has many: of at most 100 endpoints each, and one set per address family. An endpoint may stand in two of
them for a moment, when it is moved.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

from lbkit.address import Address, Endpoint
from lbkit.suggest import did_you_mean
from lbkit_resolvers.records import MAX_ENDPOINTS, RecordError, endpoint_of, shown

_FAMILIES = (("IPv4", socket.AF_INET), ("IPv6", socket.AF_INET6))
_NOTHING: Mapping[str, Any] = {}


class Answer(NamedTuple):
    """What all slices say.

    Attributes:
        endpoints: in an order that depends on nothing but them.
        problems: what was passed over: by slice and number, the reason.
        unusable: why the endpoints must not be published: there are none, and only because nothing can be read.
    """

    endpoints: tuple[Endpoint, ...]
    problems: Mapping[str, str]
    unusable: str


class _Backend(NamedTuple):
    """One endpoint of one slice."""

    key: object  # the pod's uid; without one, the addresses
    endpoint: Endpoint
    attributes: Mapping[str, Any]


class _Slice(NamedTuple):
    backends: tuple[_Backend, ...] = ()
    problems: Mapping[str, str] = _NOTHING


class Slices:
    """All slices of one Service, by their names.

    Args:
        port: a number, a port's name, or empty for the first TCP port of each slice.
    """

    def __init__(self, port: str) -> None:
        self._port = port
        self._slices: dict[str, _Slice] = {}

    def put(self, name: str, about: Mapping[str, Any]) -> None:
        """Take a slice that is new or has changed."""
        self._slices[name] = self._read(name, about)

    def remove(self, name: str) -> None:
        """Forget a slice that was deleted."""
        self._slices.pop(name, None)

    def replacing(self, items: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[None]:
        """Take a whole list, a slice with each step: behind the last one, what is not in it is gone."""
        new: dict[str, _Slice] = {}
        for name, about in items:
            new[name] = self._read(name, about)
            yield
        self._slices = new

    def __len__(self) -> int:
        return len(self._slices)

    def answer(self) -> Answer:
        """Join them: each pod is one endpoint, and each address belongs to one."""
        problems: dict[str, str] = {}
        pods: dict[object, _Backend] = {}
        several: dict[object, list[_Backend]] = {}
        for name in sorted(self._slices):
            found = self._slices[name]
            problems.update(found.problems)
            for backend in found.backends:
                first = pods.setdefault(backend.key, backend)
                if first is not backend:
                    several.setdefault(backend.key, [first]).append(backend)
        joined = {key: backend.endpoint for key, backend in pods.items()}
        joined.update((key, _joined(backends)) for key, backends in several.items())
        endpoints = _distinct([*joined.values()])
        unusable = ""
        if not endpoints and problems:
            where, why = next(iter(problems.items()))
            unusable = f"nothing in {len(self._slices)} EndpointSlices can be used: {shown(where)}: {why}"
        if len(endpoints) > MAX_ENDPOINTS:
            problems["endpoints"] = f"there are {len(endpoints)}; lbkit takes the first {MAX_ENDPOINTS}"
            del endpoints[MAX_ENDPOINTS:]
        return Answer(tuple(endpoints), problems, unusable)

    def _read(self, name: str, about: Mapping[str, Any]) -> _Slice:
        """Read one slice; one that makes no sense at all keeps what it said before."""
        try:
            family = _family_of(about)
            endpoints = _list_of(about, "endpoints")
            wanted = [(n, each) for n, each in enumerate(endpoints[:MAX_ENDPOINTS]) if _wanted(each)]
            port = self._port_of(_list_of(about, "ports")) if wanted else 0
        except RecordError as error:
            before = self._slices.get(name, _Slice())
            return _Slice(before.backends, {name: str(error)})
        backends: list[_Backend] = []
        problems: dict[str, str] = {}
        for number, each in wanted:
            try:
                backends.append(_backend(each, family, port))
            except RecordError as error:
                problems[f"{name}, endpoint {number}"] = str(error)
        return _Slice(tuple(backends), problems)

    def _port_of(self, ports: list[Any]) -> int:
        """Return the port that is wanted; slices of one Service may have different ones under one name.

        Raises:
            RecordError: there is none; says which there are.
        """
        if self._port.isdigit():
            return int(self._port)
        by_name: dict[str, Any] = {}
        for each in ports:
            if isinstance(each, dict) and each.get("protocol") in (None, "TCP"):
                by_name.setdefault(str(each.get("name") or ""), each.get("port"))
        if not by_name:
            raise RecordError("it has no TCP port; write the port's number into the target")
        if self._port and self._port not in by_name:
            raise RecordError(
                f"it has no port named {self._port!r}.{did_you_mean(self._port, by_name)} "
                f"Known: {shown(', '.join(sorted(by_name)))}"
            )
        number = by_name[self._port] if self._port else next(iter(by_name.values()))
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 65536:
            raise RecordError(f"its port must be 1 to 65535, not {shown(repr(number))}")
        return number


def _family_of(about: Mapping[str, Any]) -> int:
    kind = about.get("addressType")
    if kind == "FQDN":
        raise RecordError("it holds names, no addresses; use a dns:/// target for them")
    for name, family in _FAMILIES:
        if kind == name:
            return family
    raise RecordError(f"addressType must be IPv4 or IPv6, not {shown(repr(kind))}")


def _is_address(text: object, family: int) -> bool:
    """Whether this is an address of the family: as strict as ``ipaddress``, in a tenth of the time."""
    try:
        socket.inet_pton(family, text)  # type: ignore[arg-type]  # what is no text is no address either
    except (OSError, ValueError, TypeError):
        return False
    return True


def _list_of(about: Mapping[str, Any], key: str) -> list[Any]:
    found = about.get(key)
    if found is None:  # how Go writes an empty one
        return []
    if not isinstance(found, list):
        raise RecordError(f"{key} must be a list, not {shown(repr(found))}")
    return found


def _wanted(each: Any) -> bool:
    """Whether it may get calls: it is ready, or stops and still serves. What cannot be read is looked at later."""
    if not isinstance(each, dict):
        return True
    ready, serving, terminating = _conditions(each)
    return ready or (serving and terminating)


def _conditions(each: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Return ready, serving and terminating; unknown is ready, as ready, and no (the API's own reading)."""
    conditions = each.get("conditions")
    if not isinstance(conditions, dict):
        conditions = _NOTHING
    ready = conditions.get("ready") is not False
    serving = conditions.get("serving")
    return ready, ready if serving is None else serving is True, conditions.get("terminating") is True


def _backend(each: Any, family: int, port: int) -> _Backend:
    """Read one endpoint.

    Raises:
        RecordError: it makes no sense; says why.
    """
    if not isinstance(each, dict):
        raise RecordError(f"an endpoint must be an object, not {shown(repr(each))}")
    addresses = _list_of(each, "addresses")
    if not addresses:
        raise RecordError("it has no address")
    for address in addresses[:MAX_ENDPOINTS]:
        if not _is_address(address, family):
            kind = next(name for name, known in _FAMILIES if known == family)
            raise RecordError(f"{shown(str(address))} is no {kind} address")
    attributes = _attributes(each)
    # Kubernetes calls the addresses of an endpoint fungible: any one reaches it.
    several = [Address(address, port) for address in addresses[:MAX_ENDPOINTS]]
    pod = _object(each, "targetRef")
    uid = pod.get("uid")
    key = uid if isinstance(uid, str) and uid else tuple(several)
    draining = _conditions(each)[2]
    if len(several) == 1:
        return _Backend(key, endpoint_of(several[0], attributes, draining=draining), attributes)
    return _Backend(key, endpoint_of([*map(str, several)], attributes, draining=draining), attributes)


def _attributes(each: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known about an endpoint, under the API's names; the pod is what ``targetRef`` names."""
    found = {key: each[key] for key in ("zone", "nodeName", "hostname") if isinstance(each.get(key), str)}
    name = _object(each, "targetRef").get("name")
    if isinstance(name, str):
        found["pod"] = name
    zones = _object(each, "hints").get("forZones")
    if isinstance(zones, list):
        names = [zone.get("name") for zone in zones if isinstance(zone, dict)]
        found["forZones"] = ",".join(name for name in names if isinstance(name, str))
    return found


def _object(each: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = each.get(key)
    return found if isinstance(found, dict) else _NOTHING


def _joined(backends: list[_Backend]) -> Endpoint:
    """Make one endpoint of a pod that stands in several slices: of both families, or twice while it is moved."""
    addresses = dict.fromkeys(address for each in backends for address in each.endpoint.addresses)
    # Of each family in the order of the slices.
    ordered = sorted(addresses, key=lambda address: ":" in address.host)
    draining = all(each.endpoint.draining for each in backends)
    return endpoint_of([*map(str, ordered)], backends[0].attributes, draining=draining)


def _distinct(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Leave out addresses that somebody else has: the ready one, when a new pod got an old one's address."""
    endpoints.sort(key=attrgetter("draining", "addresses"))
    if len({address for endpoint in endpoints for address in endpoint.addresses}) == sum(
        len(endpoint.addresses) for endpoint in endpoints
    ):
        return endpoints
    taken: set[Address] = set()
    distinct: list[Endpoint] = []
    for endpoint in endpoints:
        free = [address for address in endpoint.addresses if address not in taken]
        if not free:
            continue
        if len(free) < len(endpoint.addresses):
            attributes = {**endpoint.metadata, **({"zone": endpoint.zone} if endpoint.zone else {})}
            endpoint = endpoint_of([*map(str, free)], attributes, draining=endpoint.draining)
        taken.update(free)
        distinct.append(endpoint)
    return distinct
