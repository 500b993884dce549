"""What the command says beside its results: warnings, and no secrets."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

from lbkit.masking import masked


class _Texts(logging.Handler):
    """Hands on what is logged, without secrets."""

    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one on, as one text."""
        self._take(masked(self.format(record)))


def say(text: str) -> None:
    """Print a text on stdout. When nobody reads that any more, end the process there and then, as SIGPIPE would."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)


def to_stderr(text: str) -> None:
    """Print a text on stderr."""
    print(text, file=sys.stderr, flush=True)


def show_warnings(take: Callable[[str], None] = to_stderr) -> None:
    """Have all warnings, and what is worse, handed to ``take``. Called once, by commands that run for a while."""
    _show(take, logging.WARNING, "%(levelname)s %(name)s: %(message)s")


def show_log(*, quiet: bool) -> None:
    """Print what is logged on stderr; if ``quiet``, only warnings. Called once, by what runs as a service."""
    _show(to_stderr, logging.WARNING if quiet else logging.INFO, "%(message)s")


def _show(take: Callable[[str], None], level: int, form: str) -> None:
    handler = _Texts(take)
    handler.setFormatter(logging.Formatter(form))
    logging.basicConfig(handlers=[handler], level=level)
