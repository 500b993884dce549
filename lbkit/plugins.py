"""The registry behind every kind of plug-in: by decorator, by call, or by entry point.

Installed plug-ins are found through entry points, ours like anybody's, and imported when their name is first
used. Names are lower case.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from lbkit.errors import BrokenPluginError, DuplicatePluginError, UnknownPluginError
from lbkit.suggest import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Origin(NamedTuple):
    """Where a plug-in comes from: the module, and the name in it."""

    module: str
    qualname: str

    def __str__(self) -> str:
        return f"{self.module}:{self.qualname}"


def origin_of(plugin: object) -> Origin:
    """Name the class or function; an instance is named by its class."""
    named: Any = plugin if hasattr(plugin, "__qualname__") else type(plugin)
    return Origin(named.__module__, named.__qualname__)


class Registry(Generic[T]):
    """All plug-ins of one kind.

    Args:
        kind: what people call it, in the singular ("resolver"); goes into messages.
        group: the entry-point group ("lbkit.resolvers").
        adapt: turns what an entry point names (a class, a plain function) into the plug-in; raises TypeError
            when it cannot.
        entry_points: how to list a group; a parameter so that tests need not install distributions.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        adapt: Callable[[object], T],
        *,
        entry_points: Callable[[str], list[EntryPoint]] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self._adapt = adapt
        self._list = entry_points or _installed
        self._entry_points: dict[str, list[EntryPoint]] | None = None
        self._registered: dict[str, list[tuple[Origin, T]]] = {}

    def register(self, name: str, plugin: T, *, origin: Origin | None = None) -> None:
        """Make ``plugin`` known as ``name``.

        The same module and qualified name registered again replaces itself, so that notebooks and reloads
        work. A second owner is recorded and refused when the name is used, because at that point the message
        reaches whoever can act on it.

        Raises:
            ValueError: the name is not lower case letters, digits, ``_``, ``-``, ``+`` or ``.``.
        """
        if not name or name != name.lower() or not set(name) <= _NAME_CHARACTERS:
            raise ValueError(
                f"{self.kind} name {name!r}: use lower-case letters, digits, '_', '-', '+' or '.'"
            )
        owner = origin or origin_of(plugin)
        others = [entry for entry in self._registered.get(name, ()) if entry[0] != owner]
        self._registered[name] = [*others, (owner, plugin)]

    def get(self, name: str) -> T:
        """Return the plug-in called ``name``, importing it if an entry point names it.

        Raises:
            UnknownPluginError: nobody has that name; says the nearest and all known names.
            DuplicatePluginError: two owners claim it; names both.
            BrokenPluginError: its entry point cannot be loaded; says why.
        """
        registered = self._registered.get(name, [])
        owners = self._claims(name)
        if len(owners) > 1:
            raise DuplicatePluginError(
                f"{self.kind} {name!r} is claimed by {' and '.join(map(str, owners))}; rename or remove one"
            )
        if registered:
            return registered[0][1]
        if installed := self._by_name().get(name):
            return self._load(name, installed[0])
        raise UnknownPluginError(self._unknown(name))

    def origins(self, name: str) -> dict[Origin, str]:
        """Return who claims ``name``, with the distribution and version that brought it; empty if none did."""
        return {
            origin: f"{entry.dist.name} {entry.dist.version}" if entry is not None and entry.dist else ""
            for origin, entry in self._claims(name).items()
        }

    def _claims(self, name: str) -> dict[Origin, EntryPoint | None]:
        """Return who claims ``name``, without what has to be read from disk for it."""
        found: dict[Origin, EntryPoint | None] = {
            origin: None for origin, _ in self._registered.get(name, ())
        }
        for entry in self._by_name().get(name, ()):
            origin = Origin(entry.module, entry.attr)
            if found and origin not in found:
                defined = _defined_at(entry)
                if defined is not None and defined in found:  # the entry point names a re-export
                    origin = defined
            found[origin] = entry
        return found

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted({*self._registered, *self._by_name()})

    def __contains__(self, name: object) -> bool:
        return name in self._registered or name in self._by_name()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _by_name(self) -> dict[str, list[EntryPoint]]:
        if self._entry_points is None:  # looked up on first use: importlib.metadata is slow to import
            found: dict[str, list[EntryPoint]] = {}
            for entry in self._list(self.group):
                same = found.setdefault(entry.name, [])
                if all(entry.value != other.value for other in same):
                    same.append(entry)
            self._entry_points = found
        return self._entry_points

    def _load(self, name: str, entry: EntryPoint) -> T:
        try:
            loaded = entry.load()  # a module that uses the decorator registers itself here
            if name not in self._registered:
                self.register(name, self._adapt(loaded), origin=Origin(entry.module, entry.attr))
        except Exception as error:  # whatever a stranger's module raises when imported
            raise BrokenPluginError(
                f"{self.kind} {name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        return self.get(name)

    def _unknown(self, name: str) -> str:
        known = self.names()
        if not known:
            return (
                f"no {self.kind} {name!r}: no entry points of group {self.group!r} are visible; in a frozen "
                f"application register plug-ins explicitly, with the lbkit.{self.kind} decorator"
            )
        return f"no {self.kind} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}"


_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyz0123456789_-+.")


def _defined_at(entry: EntryPoint) -> Origin | None:
    """Say where an installed plug-in really is: an entry point may name a re-export of what a decorator saw."""
    try:
        return origin_of(entry.load())
    except Exception:  # whatever a stranger's module raises: it is broken, so it is nobody's
        return None


def _installed(group: str) -> list[EntryPoint]:
    # Imported here and not at the top: it costs more than the rest of lbkit's import together, and programs
    # that register their plug-ins explicitly never need it.
    metadata = importlib.import_module("importlib.metadata")
    return list(metadata.entry_points(group=group))
