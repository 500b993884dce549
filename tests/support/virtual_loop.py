"""The event loop in virtual time that ``lbkit.testing`` gives to everybody."""

from __future__ import annotations

from lbkit.testing.loop import VirtualLoop, run_virtual

__all__ = ["VirtualLoop", "run_virtual"]
