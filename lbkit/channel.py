"""The channel: what an application makes calls on."""

from __future__ import annotations

import random as random_module
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, Literal, TypeVar, overload

from lbkit.backoff import BackoffPolicy
from lbkit.balancer import check_config
from lbkit.balancer import registry as balancers
from lbkit.call import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from lbkit.channel_core import ChannelCore
from lbkit.configuring import Configuration
from lbkit.credentials import CallCredentials
from lbkit.encoding.compressors import accepted, chosen
from lbkit.foreign import register
from lbkit.idleness import checked_timeout
from lbkit.interceptor import make_interception
from lbkit.limits import Counters, Limits
from lbkit.pool import checked_number
from lbkit.proxying import through_proxy
from lbkit.resolver import Resolver, make_resolver
from lbkit.retry import RetryBudget
from lbkit.security import Tls, tls_of
from lbkit.service_config import PolicyChoice, parse
from lbkit.stub import Stub, make_stub
from lbkit.subchannel import ConnectOptions
from lbkit.transport.connector import Connector, SocketConnector, connector_is_private
from lbkit.transport.keepalive import KeepalivePolicy
from lbkit.transport.setup import ConnectionSetup
from lbkit.wire.requests import request_prefix

Request = TypeVar("Request")
Response = TypeVar("Response")

DEFAULT_BALANCER = "round_robin"
_USER_AGENT = "lbkit-python/0.1.0"


class Channel(ChannelCore):
    """A virtual connection to a service: names are resolved, backends connected and chosen, behind each call.

    ``Channel()`` does no I/O; the first call does. It then belongs to the event loop it was used on. Close it, or
    use ``async with``.

    Args:
        target: whom to talk to, as ``scheme:///name``; the scheme selects the resolver.
        balancer: name of the policy, where the service config does not choose one.
        balancer_config: the policy's own configuration.
        resolver: use this resolver object instead of the one that the target's scheme names.
        authority: the ``:authority`` of requests; by default the target's path, or what stands for it.
        user_agent: goes in front of lbkit's own in the user-agent header.
        service_config: what applies to calls while the resolver gives no service config, as JSON text or parsed.
        resolver_service_config: False to ignore the service configs that the resolver gives.
        max_request_bytes: larger requests end with RESOURCE_EXHAUSTED before anything is sent; None for no limit.
        max_response_bytes: larger responses end with RESOURCE_EXHAUSTED; by default ``limits.max_message``.
        connect_timeout: seconds for one connection attempt, HTTP/2 handshake included.
        backoff: how long to wait after failed connection attempts.
        keepalive: seconds without a byte from a server, while calls wait for one, after which it is sent a PING
            (gRFC A8); None for never. There is no floor, as it is the server that has to bear it: most take one PING
            in five minutes, unless they are configured otherwise, and close the connection of who sends more. One
            that says ``too_many_pings`` doubles the time for later connections.
        keepalive_timeout: seconds to answer it; then the connection is given up, and its calls end with UNAVAILABLE.
        keepalive_without_calls: watch over connections without calls, too.
        idle_timeout: seconds without a call after which resolver, policy and connections are closed, at most a quarter
            late; the next call makes them anew. None or 0 for never.
        max_connections_per_backend: up to so many connections are made to a backend that lets one connection have only
            so many calls, while calls wait for that (gRFC A105); 1 to 10. A service config has the last word.
        proxy: an HTTP proxy that connections are made through, as ``http://user:password@host:port``; by default what
            the environment says (``grpc_proxy``, ``https_proxy``, ``http_proxy``, ``no_proxy``), unless there is a
            ``connector``; False for none. The proxy looks the names of ``dns`` targets up. See docs/connections.md.
        connector: opens byte streams; TCP and Unix sockets by default.
        limits: what servers may do to us.
        engine: ``"native"`` or ``"h2"``, whose HTTP/2 it is; by default what ``LBKIT_HTTP2_ENGINE`` says.
        random: the source of randomness for balancing and jitter.
        tls: what ``lbkit.tls`` made, to secure connections with; True trusts the system's authorities.
        call_credentials: make metadata for each call; see ``lbkit.CallCredentials``. They need ``tls``.
        retry_budget: bounds the attempts that retry and hedging policies of the service config add.
        compression: how requests are compressed where a call does not say: ``lbkit.Compression.Gzip``, or the name of a
            compressor; None or ``"identity"`` for not at all.
        interceptors: surround each call, the first one outermost; see ``lbkit.ClientInterceptor`` and docs/interceptors.md.

    Raises:
        TargetError, AddressError: the target cannot be understood.
        ServiceConfigError: the service config is wrong; says where.
        UnknownPluginError: no resolver has the target's scheme, or no policy or compressor that name; says the nearest.
        ValueError: the policy has no such option, a time makes no sense, or there is no such engine.
        TypeError: an interceptor is none.
        ImportError: the engine's package is not installed.
    """

    def __init__(
        self,
        target: str,
        *,
        balancer: str = DEFAULT_BALANCER,
        balancer_config: Mapping[str, Any] | None = None,
        resolver: Resolver | None = None,
        authority: str | None = None,
        user_agent: str = "",
        service_config: str | Mapping[str, Any] | None = None,
        resolver_service_config: bool = True,
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = None,
        connect_timeout: float = 20.0,
        backoff: BackoffPolicy | None = None,
        keepalive: float | None = None,
        keepalive_timeout: float = 20.0,
        keepalive_without_calls: bool = False,
        idle_timeout: float | None = 1800.0,
        max_connections_per_backend: int = 1,
        proxy: str | Literal[False] | None = None,
        connector: Connector | None = None,
        limits: Limits | None = None,
        engine: str | None = None,
        random: random_module.Random | None = None,
        retry_budget: RetryBudget | None = None,
        interceptors: Iterable[object] | None = None,
        compression: Any = None,
        tls: Tls | bool | None = None,
        call_credentials: CallCredentials | None = None,
    ) -> None:
        register("Channel", Channel)
        resolver_given = resolver is not None
        if resolver is None:
            resolver = make_resolver(target)
            target = str(resolver.target)  # to be shown: a password or a token is not in it
        policy_choice = PolicyChoice(balancer, balancers.get(balancer), dict(balancer_config or {}))
        check_config(policy_choice.factory, policy_choice.config)
        default_config = None if service_config is None else parse(service_config)
        self.authority = authority or resolver.authority
        if proxy is not False and (proxy or connector is None):
            resolver, connector = through_proxy(
                resolver, connector or SocketConnector(), proxy or None, by_name=not resolver_given
            )
        connector = connector or SocketConnector()
        settings = tls_of(tls)
        self.secure = settings is not None or connector_is_private(connector)
        self.call_credentials = call_credentials
        if call_credentials is not None and not self.secure:
            raise ValueError("call_credentials= without tls=: credentials go over secured connections only")
        if settings is not None:
            from lbkit.transport.tls import TlsConnector

            connector = TlsConnector(connector, settings, self.authority)
        policy = None
        if keepalive is not None:
            policy = KeepalivePolicy(keepalive, keepalive_timeout, without_calls=keepalive_without_calls)
        self._setup = ConnectionSetup(limits, engine, keepalive=policy)
        self.max_request_bytes = max_request_bytes
        self.max_response_bytes = max_response_bytes
        # Where neither the call nor a service config says one.
        self.response_limit = (
            self._setup.limits.max_message if max_response_bytes is None else max_response_bytes
        )
        self.retry_budget = retry_budget
        self.encoding = None if compression is None else chosen(compression)
        super().__init__(
            target,
            resolver,
            Configuration(target, default_config, policy_choice, listen=resolver_service_config),
            ConnectOptions(
                setup=self._setup,
                connector=connector,
                timeout_s=connect_timeout,
                backoff=backoff or BackoffPolicy(),
            ),
            random=random or random_module.Random(),
            idle_timeout=checked_timeout("idle_timeout", idle_timeout),
            max_connections=checked_number("max_connections_per_backend", max_connections_per_backend),
            interception=make_interception(interceptors),
            request_prefix=partial(
                request_prefix,
                authority=self.authority,
                scheme="http" if settings is None else "https",
                user_agent=f"{user_agent} {_USER_AGENT}".lstrip(),
                accept=accepted(),
            ),
        )

    @property
    def counters(self) -> Counters:
        """What servers did that ``limits`` are about, counted over all connections."""
        return self._setup.counters

    # Calls

    @overload  # type: ignore[override]  # with call objects of our own, here and below
    def unary_unary(
        self, method: str, request_serializer: None = None, response_deserializer: None = None
    ) -> UnaryUnaryMultiCallable[bytes, bytes]: ...
    @overload
    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Request], bytes],
        response_deserializer: Callable[[bytes], Response],
        _registered_method: bool = False,
        codec: str | None = None,
    ) -> UnaryUnaryMultiCallable[Request, Response]: ...
    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
        codec: str | None = None,
    ) -> UnaryUnaryMultiCallable[Any, Any]:
        """Return what makes calls of a unary method. Called by generated stubs.

        Args:
            method: ``/package.Service/Method``.
            request_serializer: makes bytes of a request; None if requests are bytes.
            response_deserializer: makes a response of bytes; None to get the bytes.
            codec: does both instead, ``"json"`` for example; the class of responses is that of the deserializer.

        Raises:
            UnknownPluginError: no such codec; says the nearest.
            TypeError: the deserializer is not the ``FromString`` of a class, which the codec needs.
        """
        plain = UnaryUnaryMultiCallable[Any, Any](
            self, method, request_serializer, response_deserializer, codec
        )
        return plain if self._interception is None else self._interception.around("unary_unary", plain)

    def unary_stream(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
        codec: str | None = None,
    ) -> UnaryStreamMultiCallable[Any, Any]:
        """Return what makes calls of a server-streaming method; arguments as for ``unary_unary``."""
        plain = UnaryStreamMultiCallable[Any, Any](
            self, method, request_serializer, response_deserializer, codec
        )
        return plain if self._interception is None else self._interception.around("unary_stream", plain)

    def stream_unary(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
        codec: str | None = None,
    ) -> StreamUnaryMultiCallable[Any, Any]:
        """Return what makes calls of a client-streaming method; arguments as for ``unary_unary``."""
        plain = StreamUnaryMultiCallable[Any, Any](
            self, method, request_serializer, response_deserializer, codec
        )
        return plain if self._interception is None else self._interception.around("stream_unary", plain)

    def stream_stream(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
        codec: str | None = None,
    ) -> StreamStreamMultiCallable[Any, Any]:
        """Return what makes calls of a bidirectional streaming method; arguments as for ``unary_unary``."""
        plain = StreamStreamMultiCallable[Any, Any](
            self, method, request_serializer, response_deserializer, codec
        )
        return plain if self._interception is None else self._interception.around("stream_stream", plain)

    def stub(self, pb2: ModuleType, service: str | None = None, *, codec: str | None = None) -> Stub:
        """Return a stub made from the descriptors of a ``_pb2`` module: no plug-in of protoc is needed.

        Its methods are untyped; generated ``_pb2_grpc`` stubs are typed and work as well.

        Args:
            pb2: a module that ``protoc --python_out`` wrote.
            service: the service's name; may be left out if the module has only one.
            codec: how messages become bytes: ``"proto"``, ``"json"``, ``"raw"``, or one that was registered.

        Raises:
            LookupError: the module has no such service; names those it has.
            UnknownPluginError: no such codec; says the nearest.
        """
        return make_stub(self, pb2, service, codec)
