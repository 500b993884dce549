"""What call selectors and pickers are told about a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lbkit.metadata import Metadata


class CallInfo(Protocol):
    """One call as selectors and pickers see it. Read only; do not keep it after returning."""

    @property
    def method(self) -> str:
        """The full method name, ``/package.Service/Method``."""
        ...

    @property
    def metadata(self) -> Metadata:
        """What the application sends with the call."""
        ...

    @property
    def attributes(self) -> Mapping[str, object]:
        """What the call selector attached: a cluster name, a hash; empty without a selector."""
        ...
