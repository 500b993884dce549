"""A client of etcd v3, over lbkit's own channel. The resolver and the registrar use it.

A connection is to one member at a time: watches and leases hang on one anyway, and each member shows a certificate of
its own name.
"""

from __future__ import annotations

import asyncio
import random as random_module
from typing import Any

from lbkit import BackoffPolicy, Channel, ConnectivityState, Limits, RpcError, StatusCode
from lbkit.protos import etcd
from lbkit_resolvers.etcd.errors import EtcdError, Kind
from lbkit_resolvers.etcd.target import EtcdTarget

TIMEOUT_S = 3.0  # of a call; etcd itself gives up on a lost quorum after 7 s
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
KEEPALIVE_S = 10.0  # etcd takes a PING each 5 s (--grpc-keepalive-min-time)
KEEPALIVE_TIMEOUT_S = 5.0
_CONNECT_S = 1.0  # for one of several members; a single one gets all the time there is
_NOT_ENABLED = "authentication is not enabled"
_Metadata = tuple[tuple[str, str], ...]


class EtcdClient:
    """Makes calls to one member of a cluster after the other. Does no I/O before the first call.

    All members are equal; which one comes first is random, so that many clients spread. One that cannot be reached is
    passed over within the call. Belongs to the event loop that it is first used on.

    Args:
        where: the members, who asks, and TLS.
        channel: use this one instead, which stays the caller's; it is one member to us, whatever is behind it.
        random: for the order of members, and the jitter of channels.
    """

    def __init__(
        self,
        where: EtcdTarget,
        *,
        channel: Channel | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self.where = where
        self._random = random or random_module.Random()
        self._hosts = [*where.hosts] if channel is None else [channel.target]
        self._random.shuffle(self._hosts)
        self._given = channel
        self._channel: Channel | None = None
        # In tasks of their own: who is cancelled while a channel closes would leave half of it behind.
        self._closing: set[asyncio.Task[None]] = set()
        self._stubs: dict[str, Any] = {}  # of the channel
        self._token = ""

    @property
    def member(self) -> str:
        """Who is asked now, as ``host:port``."""
        return self._hosts[0]

    @property
    def members(self) -> int:
        """How many there are to ask."""
        return len(self._hosts)

    async def call(
        self, service: str, method: str, request: Any, *, timeout: float = TIMEOUT_S, leader: bool = True
    ) -> Any:
        """Make a unary call, like ``call("KV", "Put", etcd.PutRequest(...))``; return the response.

        It is made once, unless no member saw it or the token was too old: safe for what must not happen twice.

        Args:
            service: ``KV``, ``Lease`` and so on.
            method: of that service.
            request: its message.
            timeout: seconds for all of it: connecting, a new token, the call.
            leader: have a member that knows no leader refuse at once (``hasleader``), instead of waiting for one.

        Raises:
            EtcdError: it did not work; its ``kind`` says what to do.
        """
        clock = asyncio.get_running_loop()
        deadline = clock.time() + timeout
        untried = len(self._hosts) - 1
        renewed = False
        while True:
            try:
                stub = await self._stub(service)
                metadata = await self._metadata(deadline - clock.time(), leader=leader)
                return await getattr(stub, method)(
                    request, timeout=deadline - clock.time(), metadata=metadata
                )
            except RpcError as error:
                trouble = self.trouble(error)
                unseen = error.backend is None and error.code() is StatusCode.UNAVAILABLE
                if trouble.kind is Kind.STALE_TOKEN and self.where.user and not renewed:
                    renewed = True
                    self.renew_token()
                elif unseen and untried > 0 and clock.time() < deadline:
                    untried -= 1
                    self.next_member()
                else:
                    if error.backend is None:
                        self.next_member()  # and a new connection, without waiting for this one's back-off
                    raise trouble from None

    async def stream(self, service: str, method: str, *, timeout: float = TIMEOUT_S) -> Any:
        """Open a call with streams in both directions, like ``stream("Watch", "Watch")``; it is on its way to a member.

        What goes wrong with it afterwards is for the caller to see; ``trouble`` explains it. A token that was too old
        needs ``renew_token``, and another stream.

        Args:
            service: ``Watch`` or ``Lease``.
            method: of that service.
            timeout: seconds to get to a member; the stream itself has no deadline.

        Raises:
            EtcdError: no member could be reached, or there is no token to be had.
        """
        stub = await self._stub(service)
        try:
            async with asyncio.timeout(timeout):
                call = getattr(stub, method)(metadata=await self._metadata(timeout, leader=True))
                await call.wait_for_connection()
        except RpcError as error:
            if error.backend is None:
                self.next_member()
            raise self.trouble(error) from None
        except TimeoutError:
            silent = self.member
            self.next_member()
            raise EtcdError(
                f"no connection within {timeout:g} s", silent, Kind.UNREACHABLE, reached=False
            ) from None
        return call

    def trouble(self, error: RpcError) -> EtcdError:
        """Say what a failed call, or the end of a stream, means."""
        trouble = EtcdError.of(error, self.member)
        if trouble.kind is Kind.STALE_TOKEN and not self.where.user:
            trouble = EtcdError(trouble.what, self.member, Kind.NO_PASSWORD, trouble.code)
        return trouble

    def next_member(self) -> None:
        """Ask another member from now on. Streams to this one end soon; a single member gets a new connection."""
        self._hosts.append(self._hosts.pop(0))
        self._let_go()

    def renew_token(self) -> None:
        """Ask for a new token before the next call: the one there is was refused."""
        self._token = ""

    def reset_backoff(self) -> None:
        """Have a channel that was given connect now. Those of our own need no telling: who fails is left."""
        if self._given is not None:
            self._given.reset_backoff()

    async def moved(self) -> None:
        """Return when new calls do not go where streams are now: the member says GOAWAY, or the connection is lost."""
        channel = self._given or self._channel
        if channel is not None:
            await channel.wait_for_state_change(ConnectivityState.READY)

    async def close(self) -> None:
        """Close connections, which ends all calls. Streams that are open are best cancelled before."""
        self._let_go()
        if self._closing:
            await asyncio.wait(self._closing)

    def _let_go(self) -> None:
        self._stubs = {}
        channel, self._channel = self._channel, None
        if channel is not None:
            task = asyncio.get_running_loop().create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _stub(self, service: str) -> Any:
        stub = self._stubs.get(service)
        if stub is None:
            channel = self._given or self._channel
            if channel is None:
                channel = self._channel = self._connect()
            stub = self._stubs[service] = channel.stub(etcd, service)
        return stub

    def _connect(self) -> Channel:
        return Channel(
            f"passthrough:///{self.member}",
            balancer="pick_first",
            resolver_service_config=False,
            connect_timeout=TIMEOUT_S if len(self._hosts) == 1 else _CONNECT_S,
            backoff=BackoffPolicy(initial_s=0.2, maximum_s=2.0),
            keepalive=KEEPALIVE_S,
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            idle_timeout=None,
            limits=Limits(max_message=MAX_MESSAGE_BYTES),
            tls=self.where.tls,
            random=self._random,
        )

    async def _metadata(self, timeout: float, *, leader: bool) -> _Metadata:
        """Return what goes with a call, with a token if we are somebody.

        Raises:
            RpcError: there is no token to be had.
        """
        required = (("hasleader", "true"),) if leader else ()
        if not self.where.user:
            return required
        if not self._token:
            stub = await self._stub("Auth")
            request = etcd.AuthenticateRequest(name=self.where.user, password=self.where.password)
            try:
                self._token = (await stub.Authenticate(request, timeout=timeout)).token
            except RpcError as error:
                if _NOT_ENABLED not in error.details():
                    raise
        return (*required, ("token", self._token)) if self._token else required
