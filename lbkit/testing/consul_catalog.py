"""What a Consul agent knows: services, their checks, and the index of every change. For ``fake_consul``; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lbkit.clock import Clock, TimerHandle

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
_FIRST_INDEX = 10  # what a new agent has gone through before its first service
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ms|s|m|h)")
_TYPES: Mapping[str, type] = {
    "ID": str,
    "Name": str,
    "Address": str,
    "Port": int,
    "Tags": list,
    "Meta": dict,
    "Weights": dict,
    "TaggedAddresses": dict,
    "Check": dict,
    "Checks": list,
}
_DURATIONS = ("TTL", "Interval", "Timeout", "DeregisterCriticalServiceAfter")
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_META_PAIRS, _META_BYTES = 64, 512  # at most, and of a value
_LARGEST_WEIGHT = 65535


class CatalogError(Exception):
    """The agent refuses; the text is what it says.

    Attributes:
        status: the HTTP status that it says it with.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Check:
    """One check of a service: a TTL that must be renewed, or a state that stays."""

    id: str
    name: str
    state: str
    ttl_s: float = 0.0
    timer: TimerHandle | None = None


@dataclass(slots=True)
class Service:
    """One instance of a service."""

    id: str
    name: str
    address: str
    port: int
    tags: list[str]
    meta: Mapping[str, str]
    weights: Mapping[str, int]
    tagged: Mapping[str, Any]
    index: int = 0
    checks: list[Check] = field(default_factory=list)

    @property
    def record(self) -> dict[str, Any]:
        """As the agent tells of it."""
        return {
            "ID": self.id,
            "Service": self.name,
            "Tags": self.tags,
            "Address": self.address,
            "Port": self.port,
            "Meta": dict(self.meta),
            "Weights": dict(self.weights),
            "TaggedAddresses": dict(self.tagged),
            "EnableTagOverride": False,
        }


class Catalog:
    """The services of one agent.

    Args:
        clock: for TTLs.
        changed: called after every change.
    """

    def __init__(self, clock: Clock, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self.services: dict[str, Service] = {}
        self._indexes: dict[str, int] = {}  # of services that are known, or were
        self._index = _FIRST_INDEX

    def register(self, record: Mapping[str, Any]) -> None:
        """Take what ``PUT /v1/agent/service/register`` brings.

        Raises:
            CatalogError: it is not valid.
        """
        _check_types(record)
        name = record.get("Name")
        if not name:
            raise CatalogError(400, "Missing service name")
        address = record.get("Address") or ""
        if address in {"0.0.0.0", "::"}:  # noqa: S104 -- to be compared with
            raise CatalogError(400, "Invalid service address")
        made = Service(
            record.get("ID") or name,
            name,
            address,
            record.get("Port") or 0,
            list(record.get("Tags") or ()),
            _meta(record.get("Meta") or {}),
            _weights(record.get("Weights") or {"Passing": 1, "Warning": 1}),
            record.get("TaggedAddresses") or {},
        )
        for number, given in enumerate(_checks(record)):
            self._add_check(made, given, number)
        if (before := self.services.get(made.id)) is not None:
            self._forget(before)
        self.services[made.id] = made
        for check in made.checks:
            self._renew(made, check)
        self._touch(made)

    def deregister(self, id: str) -> None:
        """Remove an instance, if there is one."""
        if (service := self.services.pop(id, None)) is not None:
            self._forget(service)
            self._touch(service)

    def set_check(self, id: str, state: str) -> None:
        """Take what ``PUT /v1/agent/check/pass/<id>`` says.

        Raises:
            CatalogError: there is no such check.
        """
        for service in self.services.values():
            for check in service.checks:
                if check.id == id:
                    self._set(service, check, state)
                    self._renew(service, check)
                    return
        raise CatalogError(
            404, f'Unknown check ID "{id}". Ensure that the check ID is passed, not the check name.'
        )

    def service(self, id: str) -> Service:
        """Return what ``GET /v1/agent/service/<id>`` is about.

        Raises:
            CatalogError: there is none.
        """
        if id not in self.services:
            raise CatalogError(404, f"unknown service ID: {id}")
        return self.services[id]

    def instances(self, name: str, tags: Sequence[str], *, passing: bool) -> list[Service]:
        """Return what ``GET /v1/health/service/<name>`` is about. Neither names nor tags have capital letters there."""
        wanted = {tag.lower() for tag in tags}
        return [
            service
            for service in self.services.values()
            if service.name.lower() == name.lower()
            and wanted <= {tag.lower() for tag in service.tags}
            and not (passing and any(check.state != PASSING for check in service.checks))
        ]

    def index_of(self, name: str) -> int:
        """Return the index of the last change to a service; of any, if it was never known."""
        return self._indexes.get(name.lower(), self._index)

    def start_over(self) -> None:
        """Forget everything, the indexes too, as a new agent in dev mode."""
        for service in self.services.values():
            self._forget(service)
        self.services.clear()
        self._indexes.clear()
        self._index = _FIRST_INDEX
        self._changed()

    def _add_check(self, service: Service, check: Mapping[str, Any], number: int) -> None:
        ending = f":{number + 1}" if number else ""
        made = Check(
            check.get("CheckID") or f"service:{service.id}{ending}",
            check.get("Name") or f"Service '{service.name}' check",
            check.get("Status") or CRITICAL,
        )
        if check.get("TTL"):
            made.ttl_s = seconds_of(check["TTL"])
        service.checks.append(made)

    def _renew(self, service: Service, check: Check) -> None:
        if check.timer is not None:
            check.timer.cancel()
        if check.ttl_s:
            expires = self._clock.time() + check.ttl_s
            check.timer = self._clock.call_at(expires, self._set, service, check, CRITICAL)

    def _set(self, service: Service, check: Check, state: str) -> None:
        if check.state != state:
            check.state = state
            self._touch(service)

    def _forget(self, service: Service) -> None:
        for check in service.checks:
            if check.timer is not None:
                check.timer.cancel()
                check.timer = None

    def _touch(self, service: Service) -> None:
        self._index += 1
        service.index = self._indexes[service.name.lower()] = self._index
        self._changed()


def _check_types(record: Mapping[str, Any]) -> None:
    for name, kind in _TYPES.items():
        value = record.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise CatalogError(400, f"Request decode failed: {name} is no {kind.__name__}")
    if not all(isinstance(tag, str) for tag in record.get("Tags") or ()):
        raise CatalogError(400, "Request decode failed: Tags holds what is no text")


def _meta(meta: Mapping[str, Any]) -> Mapping[str, str]:
    if not all(isinstance(value, str) for value in meta.values()):
        raise CatalogError(400, "Request decode failed: Meta holds what is no text")
    if len(meta) > _META_PAIRS:
        raise CatalogError(400, f"Invalid Service Meta: more than {_META_PAIRS} key/value pairs")
    for key, value in meta.items():
        if not _META_KEY.fullmatch(key) or len(value.encode()) > _META_BYTES:
            raise CatalogError(400, f"Invalid Service Meta: Couldn't load metadata pair ('{key}', '{value}')")
    return meta


def _weights(weights: Mapping[str, Any]) -> Mapping[str, int]:
    given = {"Passing": weights.get("Passing", 0), "Warning": weights.get("Warning", 0)}
    if not all(type(weight) is int for weight in given.values()):
        raise CatalogError(400, "Request decode failed: Weights holds what is no number")
    if given["Passing"] < 1 or given["Warning"] < 0 or max(given.values()) > _LARGEST_WEIGHT:
        raise CatalogError(
            400, f"Invalid Weights: they must be between 0 and {_LARGEST_WEIGHT}, Passing above 0"
        )
    return given


def _checks(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    checks = [*(record.get("Checks") or ()), *([record["Check"]] if record.get("Check") else ())]
    for check in checks:
        if not isinstance(check, dict):
            raise CatalogError(400, "Request decode failed: Checks holds what is no object")
        if check.get("Status") not in {None, "", PASSING, WARNING, CRITICAL}:
            raise CatalogError(400, "Status for checks must 'passing', 'warning', 'critical'")
        for name in _DURATIONS:
            seconds_of(check.get(name) or "0")
    return checks


def seconds_of(text: str) -> float:
    """Read a duration of Go's, as ``1m30s``; ``0`` needs no unit.

    Raises:
        CatalogError: it is none.
    """
    unsigned = text.removeprefix("-")
    parts = _PART.findall(unsigned)
    if unsigned != "0" and (not parts or "".join(number + unit for number, unit in parts) != unsigned):
        raise CatalogError(400, f"Invalid duration {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts) * (1 if unsigned == text else -1)
