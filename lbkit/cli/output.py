"""What the command says beside its results: warnings, and no secrets."""

from __future__ import annotations

import logging
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


def to_stderr(text: str) -> None:
    """Print a text on stderr."""
    print(text, file=sys.stderr, flush=True)


def show_warnings(take: Callable[[str], None] = to_stderr) -> None:
    """Have all warnings, and what is worse, handed to ``take``. Called once, by commands that run for a while."""
    handler = _Texts(take)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
