"""Calls that are made for a call being served: they end with it (see ``lbkit.ambient``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbkit.status import Status, StatusCode

if TYPE_CHECKING:
    from lbkit.ambient import Child


class Parent:
    """The part of a server's call that keeps the calls made for it."""

    __slots__ = ("_children",)

    _children: set[Child] | None  # made for the first of them

    def adopt(self, child: Child) -> None:
        """Have a call end when this one is cancelled."""
        if self._children is None:
            self._children = set()
        self._children.add(child)

    def forget(self, child: Child) -> None:
        """Take note that such a call is over."""
        if self._children is not None:
            self._children.discard(child)

    def _end_children(self, code: StatusCode) -> None:
        """End the calls that were made for this one: nobody waits for what comes of them."""
        passed = code is StatusCode.DEADLINE_EXCEEDED
        what = (
            "the deadline of the call being served passed"
            if passed
            else "the call being served was cancelled"
        )
        for child in list(self._children or ()):
            child.served_ended(Status(code, what))
