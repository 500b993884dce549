"""Credentials made by grpcio, as lbkit has them. ``lbkit.compat.credentials`` is where users find this.

grpcio keeps what it was given in private attributes, and some of it where Python cannot look; what cannot be
translated is refused, and the text says what to use instead. Read with grpcio 1.76 to 1.85.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from lbkit.credentials import CallCredentials, CredentialsContext, composite_credentials
from lbkit.metadata import MetadataLike
from lbkit.security import Tls


def tls_of(credentials: Any) -> Tls:
    """Return the settings of what ``grpc.ssl_channel_credentials`` made. A ``Tls`` is returned as it is.

    Raises:
        TypeError: it is something else, or has call credentials, which ``channel_credentials_of`` gives as well.
    """
    tls, calls = channel_credentials_of(credentials)
    if calls is not None:
        raise TypeError(
            "grpcio channel credentials with call credentials; use channel_credentials_of, and Channel(tls=,"
            " call_credentials=)"
        )
    return tls


def channel_credentials_of(credentials: Any) -> tuple[Tls, CallCredentials | None]:
    """Return the settings of what ``grpc.ssl_channel_credentials`` made, and what was composed with it.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(credentials, Tls):
        return credentials, None
    inner: Any = getattr(credentials, "_credentials", None)
    kind = type(inner).__name__
    if kind == "CompositeChannelCredentials":
        tls, _ = _ssl_settings(inner._channel_credentials, credentials)
        calls = [_of_cython(each) for each in inner._call_credentialses]
        return tls, composite_credentials(*calls)
    return _ssl_settings(inner, credentials)


def tls_of_server(credentials: Any) -> Tls:
    """Return ``credentials`` if they are a ``Tls``.

    Raises:
        TypeError: they are grpcio's, which does not let anybody see what is in them, or something else.
    """
    if isinstance(credentials, Tls):
        return credentials
    raise TypeError(
        f"{_named(credentials)} cannot be used by a server: grpcio does not show what is in it. Use lbkit.tls(cert=..., "
        "key=...), or lbkit.compat.credentials.ssl_server_credentials, which takes what grpcio's takes"
    )


def call_credentials_of(credentials: Any) -> CallCredentials:
    """Return what asks the plug-ins of ``grpc.metadata_call_credentials``, of access tokens, and of composites.

    Each plug-in is asked in a thread, as it may block. A function is returned as it is.

    Raises:
        TypeError: it is something else.
    """
    if callable(credentials):
        return credentials  # type: ignore[no-any-return]  # its answer is checked
    return _of_cython(getattr(credentials, "_credentials", None), credentials)


def _ssl_settings(inner: Any, credentials: Any) -> tuple[Tls, None]:
    if (
        type(inner).__name__ != "SSLChannelCredentials"
        or getattr(inner, "_private_key_signer", None) is not None
    ):
        _refuse(credentials, "lbkit.tls(ca=..., cert=..., key=...)")
    try:
        ca, key, cert = inner._pem_root_certificates, inner._private_key, inner._certificate_chain
    except AttributeError:  # another grpcio
        _refuse(credentials, "lbkit.tls(ca=..., cert=..., key=...)")
    return Tls(ca=ca, cert=cert, key=key), None


def _of_cython(inner: Any, credentials: Any = None) -> CallCredentials:
    composed = getattr(inner, "_call_credentialses", None)
    if composed is not None:
        return composite_credentials(*(_of_cython(each) for each in composed))
    # The wrapper around the plug-in, and the application's plug-in in it.
    plugin = getattr(getattr(inner, "_metadata_plugin", None), "_metadata_plugin", None)
    if not callable(plugin):
        _refuse(
            inner if credentials is None else credentials,
            "a function of lbkit.CredentialsContext that returns metadata",
        )
    return asking(plugin)


def asking(plugin: Callable[[Any, Callable[[Any, BaseException | None], None]], object]) -> CallCredentials:
    """Return what asks a ``grpc.AuthMetadataPlugin``, in a thread, as it may block."""

    async def ask(context: CredentialsContext) -> MetadataLike:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[MetadataLike] = loop.create_future()

        def settle(metadata: Any, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(tuple(metadata or ()))

        def callback(metadata: Any, error: BaseException | None) -> None:
            loop.call_soon_threadsafe(settle, metadata, error)

        await asyncio.to_thread(plugin, context, callback)
        return await answer

    return ask


def _refuse(credentials: Any, instead: str) -> NoReturn:
    raise TypeError(f"{_named(credentials)} cannot be used; use {instead}")


def _named(credentials: Any) -> str:
    """Say what somebody passed, by what grpcio has in it."""
    inner = getattr(credentials, "_credentials", credentials)
    return f"a {type(inner).__module__.removesuffix('._cython.cygrpc')}.{type(inner).__name__}"
