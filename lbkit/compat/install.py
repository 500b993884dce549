"""Puts the stand-in for grpcio where generated code looks for grpcio."""

from __future__ import annotations

import importlib.util
import sys


def install_grpc_shim() -> bool:
    """Let generated ``_pb2_grpc`` modules be imported where grpcio is not installed. Call it before they are.

    ``import grpc`` then gives a small stand-in: what generated stubs and servicers use, the names that handlers and
    callers are written with (``StatusCode``, ``RpcError``, ``aio.ServicerContext``), and nothing that makes calls.
    Where grpcio can be imported nothing is done. Neither is at a second time.

    Returns:
        Whether ``import grpc`` gives the stand-in.
    """
    from lbkit.compat import shim

    loaded = sys.modules.get("grpc")
    if loaded is None and not _can_be_imported():
        for name in ("_utilities", "aio", "experimental"):
            sys.modules[f"grpc.{name}"] = getattr(shim, name)
        sys.modules["grpc"] = loaded = shim
    return loaded is shim


def _can_be_imported() -> bool:
    """Whether grpcio is there. A folder ``grpc`` without code, of .proto files say, is not."""
    try:
        spec = importlib.util.find_spec("grpc")
    except ImportError:
        return False
    return spec is not None and spec.origin is not None
