"""Credentials for programs that come from grpcio: its objects translated, and its functions with lbkit's objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lbkit.credentials import CallCredentials, CredentialsContext, composite_credentials
from lbkit.credentials import access_token as bearer
from lbkit.foreign_credentials import (
    asking,
    call_credentials_of,
    channel_credentials_of,
    tls_of,
    tls_of_server,
)
from lbkit.security import Tls

__all__ = [
    "AuthMetadataPlugin",
    "AuthMetadataPluginCallback",
    "ChannelCredentials",
    "access_token_call_credentials",
    "call_credentials_of",
    "channel_credentials_of",
    "composite_call_credentials",
    "composite_channel_credentials",
    "credentials_keywords",
    "metadata_call_credentials",
    "ssl_channel_credentials",
    "ssl_server_credentials",
    "tls_of",
    "tls_of_server",
]


class ChannelCredentials(ABC):  # noqa: B024 -- for isinstance() and subclasses
    """What credentials of channels are instances of: ``Tls``, and what ``composite_channel_credentials`` returns."""


ChannelCredentials.register(Tls)


class AuthMetadataPluginCallback(ABC):
    """What a plug-in of ``metadata_call_credentials`` hands its metadata to."""

    @abstractmethod
    def __call__(self, metadata: Any, error: Exception | None) -> None:
        """Take the metadata of one call, or why there is none."""


class AuthMetadataPlugin(ABC):
    """Makes metadata for each call; the base of plug-ins of ``metadata_call_credentials``."""

    @abstractmethod
    def __call__(self, context: CredentialsContext, callback: AuthMetadataPluginCallback) -> None:
        """Call ``callback(metadata, error)``, now or later. Called in a thread; it may block."""


class Composite(NamedTuple):
    """Credentials of a channel together with those of its calls."""

    tls: Tls
    calls: CallCredentials


ChannelCredentials.register(Composite)


def credentials_keywords(channel_credentials: Any, server_name: str | None = None) -> dict[str, Any]:
    """Return the keyword arguments of ``lbkit.Channel`` for a channel's credentials, ours or grpcio's.

    Args:
        channel_credentials: what a function here made, or one of grpcio's.
        server_name: the name that the server's certificate must have instead of the target's. As with grpcio, it is
            the channel's authority as well.

    Raises:
        TypeError: they are something else.
    """
    tls, calls = _parts_of(channel_credentials)
    keywords: dict[str, Any] = {"tls": tls, "call_credentials": calls}
    if server_name is not None:
        keywords["authority"] = server_name
        keywords["tls"] = Tls(
            ca=tls.ca,
            cert=tls.cert,
            key=tls.key,
            server_name=server_name,
            client_auth=tls.client_auth,
            context=tls.context,
        )
    return keywords


def metadata_call_credentials(
    metadata_plugin: Callable[[Any, Any], object],
    name: str | None = None,  # noqa: ARG001 -- grpcio's, for its log
) -> CallCredentials:
    """Return credentials that ask a plug-in for each call; arguments as those of grpcio's."""
    return asking(metadata_plugin)


def access_token_call_credentials(access_token: str) -> CallCredentials:
    """Return credentials that send ``authorization: Bearer <access_token>``."""
    return bearer(access_token)


def composite_call_credentials(*call_credentials: Any) -> CallCredentials:
    """Return credentials that send what each of these does.

    Raises:
        TypeError: one of them is no call credentials.
    """
    return composite_credentials(*map(call_credentials_of, call_credentials))


def composite_channel_credentials(channel_credentials: Any, *call_credentials: Any) -> Composite:
    """Return credentials of a channel that sends call credentials with each of its calls.

    Raises:
        TypeError: one of them is not what it should be.
    """
    tls, calls = _parts_of(channel_credentials)
    several = call_credentials if calls is None else (calls, *call_credentials)
    return Composite(tls, composite_call_credentials(*several))


def _parts_of(channel_credentials: Any) -> tuple[Tls, CallCredentials | None]:
    if isinstance(channel_credentials, Composite):
        return channel_credentials
    return channel_credentials_of(channel_credentials)


def ssl_channel_credentials(
    root_certificates: bytes | None = None,
    private_key: bytes | None = None,
    certificate_chain: bytes | None = None,
) -> Tls:
    """Return TLS settings of a channel; arguments as those of ``grpc.ssl_channel_credentials``.

    Raises:
        ValueError: a key without a certificate.
    """
    return Tls(ca=root_certificates, cert=certificate_chain, key=private_key)


def ssl_server_credentials(
    private_key_certificate_chain_pairs: Sequence[tuple[bytes, bytes]],
    root_certificates: bytes | None = None,
    require_client_auth: bool = False,
) -> Tls:
    """Return TLS settings of a server; arguments as those of ``grpc.ssl_server_credentials``.

    Raises:
        ValueError: no pair, more than one, or clients' certificates are required but no root is given.
    """
    if len(private_key_certificate_chain_pairs) != 1:
        raise ValueError(
            f"{len(private_key_certificate_chain_pairs)} pairs of key and certificate; lbkit takes one. For several, use"
            " lbkit.tls(context=) and SSLContext.sni_callback"
        )
    if require_client_auth and root_certificates is None:
        raise ValueError("require_client_auth=True needs root_certificates=")
    ((key, cert),) = private_key_certificate_chain_pairs
    # grpcio does not ask for certificates that it does not require.
    return Tls(
        ca=root_certificates if require_client_auth else None,
        cert=cert,
        key=key,
        client_auth="require" if require_client_auth else None,
    )
