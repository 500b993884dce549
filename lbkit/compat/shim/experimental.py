"""Stands in for ``grpc.experimental``, which the static methods of generated service classes call."""

from __future__ import annotations

from typing import NoReturn

from lbkit.errors import NotSupportedError


def unary_unary(
    _request: object, _target: object, method: str, *_args: object, **_kwargs: object
) -> NoReturn:
    """Refuse: a call without a channel.

    Raises:
        NotSupportedError: always.
    """
    raise NotSupportedError(
        f"{method}: a call without a channel needs grpcio; make a stub on an lbkit.Channel"
    )


unary_stream = stream_unary = stream_stream = unary_unary
