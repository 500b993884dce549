"""The classes by which programs that come from grpcio catch errors."""

from __future__ import annotations

import sys
from functools import reduce
from typing import Any

from lbkit.errors import RpcError


def error_class(path: str) -> type[Exception]:
    """Return grpcio's class where grpcio is loaded, which errors of calls are instances of there, or else ``RpcError``.

    Its constructor is grpcio's, then, and who imports grpcio catches what is raised with it.

    Args:
        path: where it is in ``grpc``, as ``aio.AioRpcError``.
    """
    theirs: Any = reduce(lambda found, name: getattr(found, name, None), path.split("."), _grpc())
    return theirs if isinstance(theirs, type) and issubclass(theirs, Exception) else RpcError


def _grpc() -> Any:
    return sys.modules.get("grpc")
