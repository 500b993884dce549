"""The registrar contract: how a plug-in tells a registry of a running server, and takes that back.

The third kind of plug-in. A registrar puts one record, keeps it alive, and removes it; when to do which, and
trying again after a failure, is the ``Registration``'s part.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, TypeVar

from lbkit.address import Address, Endpoint
from lbkit.backoff import BackoffPolicy
from lbkit.errors import RegistrationError, TargetError
from lbkit.frozen import Frozen
from lbkit.plugins import Registry, origin_of
from lbkit.target import Target, check_parameters

_OWN_FIELDS = frozenset({"secure", "weight", "zone"})  # records have them beside the metadata


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str) or not text.isprintable():  # who reads it would pass the record over
        raise RegistrationError(f"{what} must be text without control characters, not {text!r}")


class Instance(Frozen):
    """One running server, as a registry is told of it.

    Args:
        address: where clients reach it, ``host:port``. Empty, and port 0, stand for what a server has bound.
        id: tells it from others of the same service, and stays over a restart, so that the new one takes the place
            of what is left of the old one; the address if empty.
        weight: relative share for weighted policies; > 0.
        zone: locality, for zone-aware policies.
        metadata: anything else that clients may want to know, as text, such as ``{"version": "7"}``.
        secure: clients need TLS.

    Raises:
        AddressError: the address cannot be read, or the weight is not positive and finite.
        RegistrationError: the id, the zone or the metadata are no text that a record can hold; says which.
    """

    __slots__ = ("address", "id", "metadata", "secure", "weight", "zone")

    address: str
    id: str
    weight: float
    zone: str
    metadata: Mapping[str, str]
    secure: bool

    def __init__(
        self,
        address: str | Address = "",
        *,
        id: str = "",
        weight: float = 1.0,
        zone: str = "",
        metadata: Mapping[str, str] | None = None,
        secure: bool = False,
    ) -> None:
        Endpoint(address or "any:0", weight=weight)  # what is wrong is said here
        for name, text in (("id", id), ("zone", zone)):
            _check_text(name, text)
        for name, text in (metadata or {}).items():
            _check_text("a name in metadata", name)
            _check_text(f"metadata {name!r}", text)
            if name in _OWN_FIELDS:
                raise RegistrationError(
                    f"metadata {name!r}: an instance has a field for it; write {name}=..."
                )
        set_ = self._set
        set_("address", str(address))
        set_("id", id or str(address))
        set_("weight", float(weight))
        set_("zone", zone)
        set_("metadata", MappingProxyType(dict(metadata or {})))
        set_("secure", secure)

    @property
    def endpoint(self) -> Endpoint:
        """What resolvers make of it."""
        return Endpoint(self.address, weight=self.weight, zone=self.zone, metadata=self.metadata)

    def at(self, address: str, *, secure: bool = False) -> Instance:
        """Return the same instance, with the address that it turned out to have."""
        return Instance(
            address,
            id="" if self.id == self.address else self.id,
            weight=self.weight,
            zone=self.zone,
            metadata=self.metadata,
            secure=self.secure or secure,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Instance):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.id, self.address))

    def __repr__(self) -> str:
        return f"Instance({self.address!r}, id={self.id!r})"


class Registrar(ABC):
    """The record of one instance in one registry. The base of registrar plug-ins.

    ``Registration`` makes the object (do no I/O in ``__init__``; raise TargetError there if the target makes no
    sense) and calls ``register``, then ``keep``, in one task of the event loop. When either raises it reports the error,
    waits, and begins with ``register`` again. When the instance leaves, that task is cancelled, and ``deregister`` and
    ``close`` follow. None of them is ever called while another one runs, nor in a process that was forked meanwhile.

    Raise ``RegistrationError(text, wait_s=60.0)`` for what will not be better in a few seconds, such as a refused token.
    """

    # The query parameters it understands; None when it reads ``target.query`` in a form of its own.
    parameters: ClassVar[frozenset[str] | None] = frozenset()
    # How long to wait before the next try. Short: a server that nobody finds is of no use.
    backoff: BackoffPolicy = BackoffPolicy(initial_s=0.5, maximum_s=5.0)

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    async def register(self, instance: Instance) -> None:
        """Put the record, in place of any that has the same id; return when the registry has it.

        What another process has put since then stays: after a loss, an id that is taken is an error. Give up by
        yourself after a few seconds without an answer, and say who did not give any; after 15 it is cancelled.

        Raises:
            Exception: it was not possible; the text says why, and what to do.
        """

    @abstractmethod
    async def keep(self, instance: Instance) -> None:
        """Keep the record alive until cancelled. Returning means that there is no need to.

        Raises:
            Exception: the record is lost, or may be.
        """

    @abstractmethod
    async def deregister(self, instance: Instance) -> None:
        """Remove the record, if it still is this instance's; another process may have taken the id over.

        Also called when ``register`` was cancelled half-way, so that nothing may be there. It gets a few seconds;
        what it could not do the registry must do by itself, when the record expires.
        """

    async def close(self) -> None:  # noqa: B027 -- most have nothing to close
        """Close connections. Called once, as the last thing; by default there is nothing to close."""


RegistrarFactory: TypeAlias = Callable[[Target], Registrar]


def _factory(plugin: object) -> RegistrarFactory:
    if inspect.isclass(plugin) and issubclass(plugin, Registrar):
        return plugin
    raise TypeError(f"{plugin!r} must derive from lbkit.Registrar")


registry: Registry[RegistrarFactory] = Registry("registrar", "lbkit.registrars", _factory)

P = TypeVar("P", bound=Callable[..., Any])


def registrar(scheme: str) -> Callable[[P], P]:
    """Register a ``Registrar`` subclass for a scheme.

    Args:
        scheme: lower case; ``myscheme`` serves targets ``myscheme://...``.

    Raises:
        TypeError: what is decorated is none.
    """

    def register(plugin: P) -> P:
        registry.register(scheme, _factory(plugin), origin=origin_of(plugin))
        return plugin

    return register


def make_registrar(text: str) -> Registrar:
    """Parse a target and make its registrar. Does no I/O.

    Raises:
        TargetError: the target cannot be understood, or has a parameter that its registrar does not know.
        UnknownPluginError: no registrar has that scheme.
    """
    if "://" not in text:
        raise TargetError(
            f"target {text!r} names no registry; write scheme://where/name, like etcd://127.0.0.1:2379/greeter"
        )
    target = Target.parse(text, registry)
    made = registry.get(target.scheme)(target)
    if made.parameters is not None:
        check_parameters(target, made.parameters, "registrar")
    return made
