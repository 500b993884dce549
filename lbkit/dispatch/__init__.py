"""Calls on the server: how each request gets to its handler, and the answer back."""

from lbkit.dispatch.dispatcher import Dispatcher

__all__ = ["Dispatcher"]
