"""Which HTTP/2 engine connections use: our own, or h2's as the reference."""

from __future__ import annotations

import os
from collections.abc import Callable

from lbkit.http2.engine import NativeEngine
from lbkit.http2.interface import Engine, EngineParts
from lbkit.suggest import did_you_mean

VARIABLE = "LBKIT_HTTP2_ENGINE"
NATIVE = "native"
H2 = "h2"


EngineFactory = Callable[[EngineParts], Engine]


def engine_factory(name: str | None = None) -> EngineFactory:
    """Return what makes engines of a name; without one, of the name in ``LBKIT_HTTP2_ENGINE``, else the native.

    Raises:
        ValueError: there is no engine of that name.
        ImportError: the package that it needs is not installed; says how to get it.
    """
    name = name or os.environ.get(VARIABLE) or NATIVE
    if name == NATIVE:
        return NativeEngine
    if name == H2:
        try:
            from lbkit.http2.reference.engine import H2Engine
        except ModuleNotFoundError as error:
            raise ImportError(f"engine {H2!r} needs the h2 package: pip install 'lbkit[h2]'") from error
        return H2Engine
    raise ValueError(f"no HTTP/2 engine {name!r}.{did_you_mean(name, (NATIVE, H2))}")
