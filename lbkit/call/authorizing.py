"""Calls with credentials: nothing is sent before the credentials have said what goes with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from lbkit.call.attempts import restrict
from lbkit.credentials import CallCredentials, CredentialsContext
from lbkit.errors import MetadataError, RpcError
from lbkit.status import Status, StatusCode
from lbkit.wire.metadata import encode_metadata

if TYPE_CHECKING:
    from lbkit.call.base import Call
    from lbkit.channel import Channel

_INSECURE = Status(
    StatusCode.UNAUTHENTICATED,
    "credentials on a channel without TLS: nothing was sent; make the channel with tls=lbkit.tls(...)",
)

_log = logging.getLogger("lbkit.call")


def authorize(call: Call, channel: Channel, credentials: Any) -> bool:
    """Ask the channel's credentials and the call's for metadata.

    Args:
        call: about to begin.
        channel: the call's.
        credentials: the call's own, or None.

    Returns:
        Whether the call has all it needs. If not, it is over, or begins later.

    Raises:
        TypeError: the call's credentials are no such thing; says what is.
    """
    asked = [
        checked_credentials(each) for each in (channel.call_credentials, credentials) if each is not None
    ]
    if not channel.secure:
        call.fail(_INSECURE)
        return False
    service, _, method = call.method.rpartition("/")
    context = CredentialsContext(f"https://{channel.authority.removesuffix(':443')}{service}", method)
    while asked:
        try:
            metadata = asked[0](context)
            if isinstance(metadata, Awaitable):
                _finish_later(call, channel, context, metadata, asked[1:])
                return False
            call.add_fields(encode_metadata(metadata))
        except Exception as error:  # whatever the application's function raises
            call.fail(_refusal(error))
            return False
        del asked[0]
    return True


def checked_credentials(credentials: Any) -> CallCredentials:
    """Return credentials in the form in which they are asked; grpcio's are translated.

    Raises:
        TypeError: they are something else.
    """
    if callable(credentials):
        return credentials  # type: ignore[no-any-return]  # its answer is checked
    from lbkit.foreign_credentials import call_credentials_of  # of those who use grpcio's

    return call_credentials_of(credentials)


def _finish_later(
    call: Call,
    channel: Channel,
    context: CredentialsContext,
    first: Awaitable[Any],
    rest: list[CallCredentials],
) -> None:
    """Have a task ask on; it is cancelled if the call ends before it does, for whatever reason."""

    async def ask() -> None:
        try:
            fields = encode_metadata(await first)
            for each in rest:
                metadata = each(context)
                fields += encode_metadata(await metadata if isinstance(metadata, Awaitable) else metadata)
        except asyncio.CancelledError:
            if call.done():
                raise
            # What the credentials waited for was cancelled, and not this call.
            call.fail(Status(StatusCode.UNAUTHENTICATED, "the call's credentials were cancelled"))
        except Exception as error:  # whatever the application's function raises
            call.fail(_refusal(error))
        else:
            if not call.done():
                call.add_fields(fields)
                call.begin()

    task = channel.loop.create_task(ask())
    channel.authorizing[call] = task
    call.add_done_callback(lambda _: task.cancel())
    task.add_done_callback(lambda _: channel.authorizing.pop(call, None))


def _refusal(error: Exception) -> Status:
    """Return the status of a call whose credentials raised (as grpc-go; codes as in gRFC A54)."""
    if isinstance(error, RpcError):
        return restrict(Status(error.code(), error.details()), "the call's credentials")
    if isinstance(error, MetadataError):
        return Status(StatusCode.INTERNAL, f"the call's credentials: {error}")
    _log.debug("the credentials of a call raised", exc_info=error)
    return Status(
        StatusCode.UNAUTHENTICATED, f"the call's credentials raised {type(error).__name__}: {error}"
    )
