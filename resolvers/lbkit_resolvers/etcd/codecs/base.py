"""What the record formats have in common."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from lbkit.address import Endpoint
from lbkit.registrar import Instance
from lbkit_resolvers.records import RecordError, shown


class Codec(ABC):
    """One record format. Used by the resolver to read, and by the registrar to write.

    Args:
        namespace: goes in front of every name; None for what the format has by default.
    """

    default_namespace: ClassVar[str] = ""

    def __init__(self, namespace: str | None = None) -> None:
        chosen = self.default_namespace if namespace is None else namespace
        self.namespace = chosen.removesuffix("/")

    def prefix(self, name: str) -> bytes:
        """Return what the keys of a service begin with. Ends with ``/``: ``foo`` is no part of ``foobar``."""
        return (f"{self.namespace}/{name}/" if self.namespace else f"{name}/").encode()

    def key(self, name: str, instance: Instance, lease: int) -> bytes:
        """Return the key of an instance's record.

        Args:
            name: of the service.
            instance: what is registered; its id is the last part of the key, as a rule.
            lease: the number of the lease that the record hangs on.
        """
        return self.prefix(name) + instance.id.encode()

    @abstractmethod
    def decode(self, key: bytes, value: bytes, name: str = "") -> Endpoint:
        """Read a record.

        Args:
            key: where it is.
            value: what it says.
            name: the service that is looked for; empty for whichever it is of.

        Raises:
            RecordError: it makes no sense; says why.
        """

    @abstractmethod
    def encode(self, name: str, instance: Instance) -> bytes:
        """Write a record: what ``decode`` reads, and the readers of the system that has this format."""


def read_object(value: bytes) -> dict[str, Any]:
    """Return a value that must be a JSON object.

    Raises:
        RecordError: it is none; shows how it begins.
    """
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        # No JSON, no UTF-8, a number or a nesting that nobody writes by hand.
        raise RecordError(f"no JSON: {shown(value)}") from None
    if not isinstance(found, dict):
        raise RecordError(f"no JSON object: {shown(value)}")
    return found


def write_object(content: dict[str, Any]) -> bytes:
    """Return an object as Go's ``encoding/json`` writes it: without blanks, in the given order, as UTF-8."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
