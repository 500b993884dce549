"""What the etcd registrar does where etcd does what it cannot be made to do: in virtual time, without sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import lbkit
from lbkit import Instance, Registration, RegistrationError, RegistrationState
from lbkit.protos import etcd as pb
from lbkit.registrar import make_registrar
from lbkit.testing import memory_channel, virtual_time
from lbkit_resolvers.etcd.registrar import EtcdRegistrar

INSTANCE = Instance("10.0.0.7:50051")


class Scripted:
    """Lease and KV of an etcd that does what the test says."""

    def __init__(self) -> None:
        self.granted = 0
        self.renewals = 0
        self.silent = False
        self.leaderless = False
        self.lease_exists = False
        self.refusals = 0  # of streams
        self.ttl = 15
        self.kept: pb.KeyValue | None = None
        self.revocations: list[str] = []  # what is wrong with them

    async def LeaseGrant(self, request: pb.LeaseGrantRequest, context: lbkit.ServicerContext) -> Any:
        if self.lease_exists:
            await context.abort(lbkit.StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists")
        self.granted += 1
        return pb.LeaseGrantResponse(ID=request.ID, TTL=request.TTL)

    async def LeaseRevoke(self, request: Any, context: lbkit.ServicerContext) -> Any:
        if self.revocations:
            await context.abort(lbkit.StatusCode.UNKNOWN, self.revocations.pop())
        return pb.LeaseRevokeResponse()

    async def LeaseKeepAlive(self, requests: Any, context: lbkit.ServicerContext) -> Any:
        if self.refusals:
            self.refusals -= 1
            await context.abort(lbkit.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")
        async for request in requests:
            self.renewals += 1
            if self.silent:
                await asyncio.Event().wait()
            if self.renewals % 5 == 0:
                return  # as when a member hands over
            yield pb.LeaseKeepAliveResponse(ID=request.ID, TTL=self.ttl)

    async def Authenticate(self, request: Any, context: lbkit.ServicerContext) -> Any:
        return pb.AuthenticateResponse(token="token")

    async def Put(self, request: pb.PutRequest, context: lbkit.ServicerContext) -> Any:
        self.kept = pb.KeyValue(key=request.key, value=request.value, lease=request.lease, mod_revision=2)
        return pb.PutResponse()

    async def Range(self, request: pb.RangeRequest, context: lbkit.ServicerContext) -> Any:
        if self.leaderless:
            await context.abort(lbkit.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        return pb.RangeResponse(kvs=[self.kept] if self.kept is not None else [])

    async def Txn(self, request: pb.TxnRequest, context: lbkit.ServicerContext) -> Any:
        await self.Put(request.success[0].request_put, context)
        return pb.TxnResponse(succeeded=True)


@asynccontextmanager
async def scripted() -> AsyncGenerator[tuple[Scripted, EtcdRegistrar], None]:
    """Such an etcd, and a registrar that talks to it."""
    script, server = Scripted(), lbkit.Server()
    server.add(pb, "Lease", script)
    server.add(pb, "KV", script)
    server.add(pb, "Auth", script)
    async with memory_channel(server) as channel:
        where = make_registrar("etcd://ann:secret@/svc/greeter").target
        yield script, EtcdRegistrar(where, channel=channel, random=random.Random(1))


@virtual_time
async def test_a_lease_is_renewed_each_third_of_its_time_and_a_stream_that_ends_is_opened_again() -> None:
    async with scripted() as (script, registrar), Registration(registrar, INSTANCE) as one:
        await one.registered()
        await asyncio.sleep(300.0)
        assert one.state is RegistrationState.REGISTERED
        assert 60 <= script.renewals <= 80
        assert script.granted == 1


@virtual_time
async def test_a_member_that_is_silent_for_the_lease_time_costs_the_registration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted() as (script, registrar), Registration(registrar, INSTANCE) as one:
        await one.registered()
        script.silent = True
        await asyncio.sleep(13.0)
        assert one.state is RegistrationState.REGISTERED
        await asyncio.sleep(3.0)
        assert "could not be renewed for 15 s, and ends: " in caplog.text
        script.silent = False
        await one.registered()
        assert script.granted == 2


@virtual_time
async def test_a_look_that_fails_is_no_loss_while_the_lease_is_renewed() -> None:
    async with scripted() as (script, registrar), Registration(registrar, INSTANCE) as one:
        await one.registered()
        script.leaderless = True
        await asyncio.sleep(120.0)
        assert one.state is RegistrationState.REGISTERED


@virtual_time
async def test_a_lease_that_exists_and_is_over_is_granted_the_next_time() -> None:
    async with scripted() as (script, registrar):
        script.lease_exists, script.ttl = True, 0
        with pytest.raises(RegistrationError, match="has expired, or was revoked"):
            await registrar.register(INSTANCE)
        script.lease_exists = False
        await registrar.register(INSTANCE)


@virtual_time
async def test_a_lease_that_cannot_be_revoked_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted() as (script, registrar), Registration(registrar, INSTANCE) as one:
        await one.registered()
        script.revocations = ["database is broken"]
    assert "stays listed until it expires: etcd memory:///network: UNKNOWN: database is broken" in caplog.text


@virtual_time
async def test_a_stream_that_is_refused_for_its_token_is_opened_with_a_new_one() -> None:
    async with scripted() as (script, registrar), Registration(registrar, INSTANCE) as one:
        await one.registered()
        script.refusals = 2
        await asyncio.sleep(60.0)
        assert one.state is RegistrationState.REGISTERED
        assert script.refusals == 0
