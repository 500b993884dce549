"""Objects that never change after they are made."""

from __future__ import annotations


class Frozen:
    """Refuses to be changed. ``__init__`` sets attributes with ``self._set``.

    Not a frozen dataclass: the code that ``dataclasses`` writes and compiles for each class would be a third of the
    time that ``import lbkit`` takes.
    """

    __slots__ = ()

    _set = object.__setattr__

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"{type(self).__name__} is immutable; make a new one instead of setting {name!r}"
        )
