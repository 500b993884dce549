"""Registers a server in etcd: a record on a lease, which etcd removes when nobody keeps it alive any more."""

from __future__ import annotations

import asyncio
import math
import random as random_module
from typing import Any

import lbkit
from lbkit.backoff import Backoff, BackoffPolicy
from lbkit.eof import EOF
from lbkit.errors import RegistrationError, RpcError
from lbkit.protos import etcd
from lbkit.registrar import Instance, Registrar
from lbkit.security import Tls
from lbkit.target import Target
from lbkit_resolvers.etcd.client import TIMEOUT_S, EtcdClient
from lbkit_resolvers.etcd.errors import EtcdError, Kind
from lbkit_resolvers.etcd.target import PARAMETERS, EtcdTarget
from lbkit_resolvers.parameters import seconds

_TTL = "15s"
_MIN_TTL_S = 2.0  # etcd grants no less with its default --election-timeout (lessor.go, minLeaseTTL)
_PARTS = 3  # of the time to live: after the first one it is renewed, in the others that may be tried again
_TRIES = BackoffPolicy(initial_s=0.2, maximum_s=1.0)
_LEAVE_S = 2.5  # for all members together: registrations wait for 3 s
_SLOW_S = 30.0  # between looks at what only people, or the end of another process, can change
_ELSEWHERE = frozenset({Kind.UNREACHABLE, Kind.LEADERLESS, Kind.MOVED})
_EXISTS = "lease already exists"
_NOT_FOUND = "lease not found"


class EtcdRegistrar(Registrar):
    """``etcd://host:2379/greeter?ttl=15s``: the same targets as the resolver's, and how long a record outlives its server.

    There is one lease for each registrar, under a number of our own choice: whatever is lost on the way, an answer
    included, the number is known, and revoking it removes all that is ours and nothing else.

    The first ``register`` takes the place of what another process has left under the same id; that record hangs on the
    new lease from then on, and the end of the old one does not touch it. Whoever finds out later that its own place
    was taken in this way stays away, and looks every half minute whether it is free again.

    Args:
        target: what to read; see ``EtcdTarget.read``.
        tls: instead of what the target says of TLS.
        user: the same for the user.
        password: of that user.
        channel: use this one, which stays the caller's.
        random: for the number of the lease, the order of members, and jitter; by default one of the system's seed.

    Raises:
        TargetError: the target makes no sense, or ``ttl`` is not 2 s to a day.
    """

    parameters = PARAMETERS | {"ttl"}

    def __init__(
        self,
        target: Target,
        *,
        tls: Tls | None = None,
        user: str = "",
        password: str = "",
        channel: lbkit.Channel | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        super().__init__(target)
        where = EtcdTarget.read(target, tls=tls, user=user, password=password)
        ttl_s = seconds(target, "ttl", target.parameters().get("ttl", _TTL), minimum=_MIN_TTL_S)
        self._ttl_s = math.ceil(ttl_s)
        self._where = where
        self._random = random
        self._client = EtcdClient(where, channel=channel, random=random)
        self._lease = 0  # ours, granted or not; 0 before the first try
        self._granted_s = float(self._ttl_s)  # what etcd made of the time to live
        self._until_s = 0.0  # when the lease ends, as far as we know; never too late
        self._held = False  # the record was there once
        self._stream: Any = None  # of keep-alives, while it is open

    async def register(self, instance: Instance) -> None:
        """Get the lease, and put the record on it.

        Raises:
            RegistrationError: etcd cannot be reached or refuses; or the id was taken over since it was ours.
        """
        try:
            if not self._lease:  # not before: processes that were forked from one have a number each
                self._lease = (self._random or random_module.Random()).getrandbits(62) + 1
            seen = await self._look(instance) if self._held else None
            await self._grant()
            await self._put(instance, seen)
        except EtcdError as error:
            self._elsewhere(error)
            raise _refused(error) from error
        self._held = True

    async def keep(self, instance: Instance) -> None:
        """Renew the lease after each third of its time, and see that the record is there.

        Raises:
            RegistrationError: the lease or the record is gone, or etcd did not answer for as long as the lease lives.
        """
        try:
            while True:
                await asyncio.sleep(self._granted_s / _PARTS)
                await self._renew()
                try:
                    await self._look(instance, gone=False)
                except EtcdError as error:  # the lease was renewed, which is what matters
                    self._elsewhere(error)
        finally:
            self._drop_stream()

    async def deregister(self, instance: Instance) -> None:
        """Revoke the lease: what hangs on it goes, a newer process's record stays.

        Raises:
            EtcdError: no member did it.
        """
        if not self._lease:
            return
        request = etcd.LeaseRevokeRequest(ID=self._lease)
        timeout_s = _LEAVE_S / self._client.members
        for last in [*[False] * (self._client.members - 1), True]:
            try:
                await self._client.call("Lease", "LeaseRevoke", request, timeout=timeout_s)
            except EtcdError as error:
                if _NOT_FOUND in error.what:
                    break
                if last or error.kind not in _ELSEWHERE:
                    raise
                self._client.next_member()
            else:
                break
        self._lease, self._held = 0, False

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    # The lease

    async def _grant(self) -> None:
        """Have a lease that was granted or renewed just now."""
        sent_s = _now()
        try:
            request = etcd.LeaseGrantRequest(TTL=self._ttl_s, ID=self._lease)
            granted_s = (await self._client.call("Lease", "LeaseGrant", request)).TTL
        except EtcdError as error:
            if _EXISTS not in error.what:
                raise
            # Its answer was lost the last time, or we had lost touch and it lives on.
            try:
                granted_s = await self._ask(TIMEOUT_S)
            finally:
                self._drop_stream()
            if granted_s <= 0:
                raise RegistrationError(_expired(self._lease)) from None
        self._granted_s = float(granted_s)
        self._until_s = sent_s + granted_s

    async def _renew(self) -> None:
        """Renew the lease, with as many tries as its time allows."""
        pauses = Backoff(_TRIES, self._random or random_module.Random())
        while True:
            sent_s = _now()
            try:
                left_s = await self._ask(min(TIMEOUT_S, self._until_s - sent_s))
            except EtcdError as error:
                self._drop_stream()
                if error.kind is Kind.STALE_TOKEN:
                    self._client.renew_token()
                else:
                    self._elsewhere(error)
                pause_s = pauses.next_delay()
                if _now() + pause_s >= self._until_s:
                    text = f"the lease could not be renewed for {self._granted_s:g} s, and ends: {error}"
                    raise RegistrationError(text) from error
                await asyncio.sleep(pause_s)
                continue
            if left_s <= 0:
                raise RegistrationError(_expired(self._lease))
            self._until_s = sent_s + left_s
            return

    async def _ask(self, timeout_s: float) -> int:
        """Send a keep-alive; return the seconds that the lease has now, 0 if there is none (LeaseKeepAliveResponse)."""
        client = self._client
        try:
            async with asyncio.timeout(timeout_s):
                if self._stream is None:
                    self._stream = await client.stream("Lease", "LeaseKeepAlive", timeout=timeout_s)
                await self._stream.write(etcd.LeaseKeepAliveRequest(ID=self._lease))
                answer = await self._stream.read()
        except RpcError as error:
            raise client.trouble(error) from None
        except TimeoutError:
            raise EtcdError(
                f"no answer to a keep-alive within {timeout_s:g} s", client.member, Kind.UNREACHABLE
            ) from None
        if answer is EOF:
            raise EtcdError("the stream of keep-alives ended", client.member, Kind.MOVED)
        return int(answer.TTL)

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def _elsewhere(self, error: EtcdError) -> None:
        """Ask another member next, if that may help."""
        if error.kind in _ELSEWHERE:
            self._drop_stream()
            self._client.next_member()

    # The record

    def _key(self, instance: Instance) -> bytes:
        return self._where.codec.key(self._where.name, instance, self._lease)

    async def _look(self, instance: Instance, *, gone: bool = True) -> int:
        """Return the revision of our record; 0 if there is none, and that is to be expected.

        Raises:
            RegistrationError: somebody else's is there, or none where there must be one.
        """
        answer = await self._client.call("KV", "Range", etcd.RangeRequest(key=self._key(instance)))
        return self._revision(answer, instance, gone=gone)

    def _revision(self, answer: etcd.RangeResponse, instance: Instance, *, gone: bool = True) -> int:
        if not answer.kvs:
            if gone:
                return 0
            raise RegistrationError(f"somebody deleted the record {_key_text(self._key(instance))}")
        record = answer.kvs[0]
        if record.lease != self._lease:
            whose = f"on the lease {record.lease:x}" if record.lease else "on no lease"
            raise RegistrationError(
                f"the id {instance.id!r} was taken over by another process: since revision {record.mod_revision} the "
                f"record {_key_text(self._key(instance))} is {whose}. Give each instance an id of its own",
                wait_s=_SLOW_S,
            )
        return int(record.mod_revision)

    async def _put(self, instance: Instance, seen: int | None) -> None:
        """Put the record: whatever is there, or only if what is there has the revision that was seen."""
        key = self._key(instance)
        value = self._where.codec.encode(self._where.name, instance)
        put = etcd.PutRequest(key=key, value=value, lease=self._lease)
        if seen is None:
            await self._client.call("KV", "Put", put)
            return
        unchanged = etcd.Compare(
            result=etcd.Compare.EQUAL, target=etcd.Compare.MOD, key=key, mod_revision=seen
        )
        look = etcd.RequestOp(request_range=etcd.RangeRequest(key=key))
        request = etcd.TxnRequest(
            compare=[unchanged], success=[etcd.RequestOp(request_put=put)], failure=[look]
        )
        answer = await self._client.call("KV", "Txn", request)
        if not answer.succeeded:
            self._revision(answer.responses[0].response_range, instance)
            raise RegistrationError(f"the record {_key_text(key)} changes just now")


def _now() -> float:
    return asyncio.get_running_loop().time()


def _expired(lease: int) -> str:
    return f"the lease {lease:x} has expired, or was revoked"


def _key_text(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace"))


def _refused(error: EtcdError) -> RegistrationError:
    return RegistrationError(str(error), wait_s=_SLOW_S if error.needs_people else None)
