"""Credentials of a single call: metadata, made for each call, that only secured channels send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeAlias

from lbkit.metadata import MetadataLike, Pair, pairs


class CredentialsContext(NamedTuple):
    """What credentials are told of the call that they are for; the names are those of ``grpc.AuthMetadataContext``.

    Attributes:
        service_url: ``https://authority/package.Service``: what a token may be limited to.
        method_name: the method, without its service.
    """

    service_url: str
    method_name: str


# A function of that context that returns the metadata to send, at once or as an awaitable. It runs on the event loop
# and must not block. It refuses the call by raising: an RpcError gives the status, anything else is UNAUTHENTICATED.
CallCredentials: TypeAlias = "Callable[[CredentialsContext], MetadataLike | Awaitable[MetadataLike]]"


def access_token(token: str) -> CallCredentials:
    """Return credentials that send ``authorization: Bearer <token>``."""
    metadata = (("authorization", f"Bearer {token}"),)
    return lambda _: metadata


def composite_credentials(*credentials: CallCredentials) -> CallCredentials:
    """Return credentials that send what each of these does, in that order."""

    async def combined(context: CredentialsContext) -> list[Pair]:
        found: list[Pair] = []
        for each in credentials:
            metadata = each(context)
            found += pairs(await metadata if isinstance(metadata, Awaitable) else metadata)
        return found

    return combined
