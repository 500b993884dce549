"""What a Consul agent knows: services, their checks, and the index of every change. For ``fake_consul``; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lbkit.clock import Clock, TimerHandle

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
_FIRST_INDEX = 10  # what a new agent has gone through before its first service
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


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
        name = record.get("Name")
        if not isinstance(name, str) or not name:
            raise CatalogError(400, "Missing service name")
        weights = record.get("Weights") or {"Passing": 1, "Warning": 1}
        if weights.get("Passing", 0) < 1:
            raise CatalogError(400, "Invalid Weights: Passing must be greater than 0")
        made = Service(
            record.get("ID") or name,
            name,
            record.get("Address") or "",
            record.get("Port") or 0,
            list(record.get("Tags") or ()),
            record.get("Meta") or {},
            weights,
            record.get("TaggedAddresses") or {},
        )
        checks = [*(record.get("Checks") or ()), *([record["Check"]] if record.get("Check") else ())]
        for number, check in enumerate(checks):
            self._add_check(made, check, number)
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
        """Return what ``GET /v1/health/service/<name>`` is about."""
        return [
            service
            for service in self.services.values()
            if service.name == name
            and set(tags) <= set(service.tags)
            and not (passing and any(check.state != PASSING for check in service.checks))
        ]

    def index_of(self, name: str) -> int:
        """Return the index of the last change to a service; of any, if it was never known."""
        return self._indexes.get(name, self._index)

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
        service.index = self._indexes[service.name] = self._index
        self._changed()


def seconds_of(text: str) -> float:
    """Read a duration of Go's with one unit.

    Raises:
        CatalogError: it is none.
    """
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * _UNITS[unit]
    except (ValueError, KeyError):
        raise CatalogError(400, f"Invalid duration {text!r}") from None
