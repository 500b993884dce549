"""The etcd resolver and servers that lie, stall or talk nonsense: reported, no spin, and the last list stays."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import lbkit
from lbkit import StatusCode
from lbkit.http2 import frames
from lbkit.http2.frames import frame
from lbkit.protos import etcd
from lbkit_resolvers.etcd import resolver, watching
from lbkit_resolvers.etcd.client import EtcdClient
from lbkit_resolvers.etcd.errors import EtcdError, Kind
from lbkit_resolvers.etcd.target import EtcdTarget
from tests.support.etcd_following import following, naming, target
from tests.support.etcd_liar import (
    CREATED,
    GOOD,
    HEADER,
    answering,
    good_range,
    lying,
    refusing,
    saying,
)
from tests.support.etcd_server import free_ports
from tests.support.servers import PATIENCE_S, RawPeer, listening, raw_server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less, in the same proportions."""
    for kind, policy in resolver._WAITS.items():
        shorter = lbkit.BackoffPolicy(
            policy.initial_s / 10, policy.multiplier, policy.jitter, policy.maximum_s / 10
        )
        monkeypatch.setitem(resolver._WAITS, kind, shorter)


def event(key: str, value: bytes = b"", *, type: int = etcd.Event.PUT) -> etcd.Event:
    return etcd.Event(type=type, kv=etcd.KeyValue(key=key.encode(), value=value, mod_revision=11))


BAD_LISTS = {
    "no header": (etcd.RangeResponse(), "without a revision"),
    "a stranger's key": (
        etcd.RangeResponse(header=HEADER, kvs=[etcd.KeyValue(key=b"t/a", value=b"x")], count=1),
        "not under s/",
    ),
    "more, and nothing": (etcd.RangeResponse(header=HEADER, more=True, count=1), "does not go on"),
    "the same page for ever": (
        etcd.RangeResponse(header=HEADER, kvs=[etcd.KeyValue(key=b"s/a", value=b"x")], more=True, count=9),
        "does not go on",
    ),
    "too many": (etcd.RangeResponse(header=HEADER, count=100_001, more=True), "100001 keys under s/"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
async def test_a_list_that_makes_no_sense_is_reported_once_and_the_last_one_stays(case: str) -> None:
    answer, complaint = BAD_LISTS[case]
    async with lying() as (liar, address), following(f"etcd://{address}/s") as seen:
        await seen.shows("10.0.0.1:80")
        await seen.until(lambda: liar.watches)
        liar.turn(answering(answer))
        await seen.until(lambda: any(complaint in error for error in seen.errors))
        before = liar.ranges
        await seen.until(lambda: liar.ranges > before + 4)  # an attempt is one of them, or two
        assert liar.times[before + 4] - liar.times[before] > 0.02, "it spins"
        assert seen.answers == [["10.0.0.1:80"]]
        assert len(seen.errors) <= 2, "the end of the watch, and the list"
        liar.turn(good_range)
        await seen.until(lambda: seen.host.error is None)


REFUSALS = [
    (StatusCode.UNIMPLEMENTED, "unknown service etcdserverpb.KV", "is that an etcd of version 3.4"),
    (StatusCode.INTERNAL, "x\x1b[2J", "is that an etcd"),
    (StatusCode.UNKNOWN, "?", "is that an etcd"),
    (StatusCode.UNAVAILABLE, "etcdserver: no leader", "no leader; it recovers"),
    (StatusCode.UNAVAILABLE, "etcdserver: server stopped", "is etcd running there"),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", "asked again, later"),
    (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", "grant-permission"),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", "write etcd://user:password@"),
    (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", "write etcd://user:password@"),
    (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", "read again"),
]


@pytest.mark.parametrize(("code", "text", "cure"), REFUSALS)
async def test_a_refused_list_says_who_why_and_what_to_do(code: StatusCode, text: str, cure: str) -> None:
    async with lying() as (liar, address), following(f"etcd://{address}/s") as seen:
        await seen.shows("10.0.0.1:80")
        await seen.until(lambda: liar.watches)
        liar.turn(refusing(code, text))
        await seen.until(lambda: any(cure in error and code.name in error for error in seen.errors))
        assert all(error.startswith(f"etcd {address}: ") and error.isprintable() for error in seen.errors)
        await asyncio.sleep(0.1)
        assert seen.answers == [["10.0.0.1:80"]]


BAD_WATCHES = {
    "it ends": (saying(), "it ended the watch"),
    "it ends later": (saying(CREATED), "it ended the watch"),
    "created and cancelled": (
        saying(etcd.WatchResponse(header=HEADER, created=True, canceled=True, cancel_reason="it is so", watch_id=-1)),
        "it is so",
    ),
    "cancelled for no reason": (saying(CREATED, etcd.WatchResponse(header=HEADER, canceled=True)), "cancelled the watch"),
    "a stranger's key": (saying(CREATED, etcd.WatchResponse(header=HEADER, events=[event("t/a")])), "not under s/"),
    "denied": (
        saying(etcd.WatchResponse(header=HEADER, created=True, canceled=True, cancel_reason="rpc error: code = PermissionDenied desc = etcdserver: permission denied")),
        "grant-permission",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WATCHES)
async def test_a_watch_that_makes_no_sense_is_reported_once_and_listed_instead(case: str) -> None:
    script, complaint = BAD_WATCHES[case]
    async with lying() as (liar, address):
        liar.watch = script
        async with following(f"etcd://{address}/s") as seen:
            await seen.until(lambda: seen.errors)
            assert complaint in seen.errors[0]
            await asyncio.sleep(0.4)
            assert liar.watches <= 20
            assert (seen.answers, len(seen.errors)) == ([["10.0.0.1:80"]], 1)


@pytest.mark.parametrize(
    "canceled",
    [
        etcd.WatchResponse(header=HEADER, canceled=True, compact_revision=9),
        etcd.WatchResponse(
            header=HEADER, created=True, canceled=True, cancel_reason="etcdserver: invalid auth token"
        ),
    ],
)
async def test_what_etcd_cancels_in_the_course_of_its_work_is_no_failure(
    canceled: etcd.WatchResponse,
) -> None:
    async with lying() as (liar, address):
        liar.watch = saying(canceled)
        async with following(f"etcd://{address}/s") as seen:
            await seen.until(lambda: liar.watches)
            liar.watch = liar.good_watch
            await seen.until(lambda: liar.watches == 2)
            assert seen.errors == []


async def test_a_change_in_fragments_is_one_update() -> None:
    later = etcd.ResponseHeader(cluster_id=7, revision=11)
    pieces = [
        etcd.WatchResponse(
            header=later,
            fragment=n < 2,
            events=[event(f"s/b{n}", naming(f"10.0.1.{n}:80")), event("s/a", type=1)],
        )
        for n in range(3)
    ]
    async with lying() as (liar, address):
        liar.watch = saying(CREATED, *pieces, forever=True)
        async with following(f"etcd://{address}/s") as seen:
            await seen.shows("10.0.1.0:80", "10.0.1.1:80", "10.0.1.2:80")
            assert len(seen.answers) == 2


async def test_every_call_requires_a_leader_except_those_that_may_be_stale() -> None:
    async def leaderless(request: Any, context: lbkit.ServicerContext) -> Any:
        if dict(context.invocation_metadata() or ()).get("hasleader") == "true":
            await context.abort(StatusCode.UNAVAILABLE, "etcdserver: no leader")
        assert request.serializable
        return GOOD

    async with lying() as (liar, address):
        liar.range = leaderless
        async with following(f"etcd://{address}/s") as seen:
            await seen.shows("10.0.0.1:80")
            assert seen.latest.source == f"etcd {address}, revision 10, may be stale"
            await seen.until(lambda: seen.errors)
            assert "no leader" in seen.errors[0]
            assert liar.watches == 0
            liar.range = good_range
            await seen.until(lambda: seen.host.error is None)
            assert seen.latest.source == f"etcd {address}, revision 10"


async def test_a_stale_list_older_than_what_is_known_is_not_used() -> None:
    serializable = 0

    async def behind(request: Any, context: lbkit.ServicerContext) -> Any:
        nonlocal serializable
        if not request.serializable:
            await context.abort(StatusCode.UNAVAILABLE, "etcdserver: no leader")
        serializable += 1
        return etcd.RangeResponse(header=etcd.ResponseHeader(cluster_id=7, revision=9))

    async with lying() as (liar, address), following(f"etcd://{address}/s") as seen:
        await seen.shows("10.0.0.1:80")
        await seen.host.close()
        liar.range = behind
        async with following(seen.resolver) as again:  # as after a while without calls
            await again.until(lambda: again.errors)
            assert serializable > 0
            assert again.answers == []


async def test_a_token_is_asked_for_once_and_renewed_once_when_it_is_refused() -> None:
    given: list[str] = []
    refused = {
        "token 1": "etcdserver: revision of auth store is old",
        "token 2": "auth: revision in header is old",
    }

    async def authenticate(request: Any, context: lbkit.ServicerContext) -> Any:
        assert (request.name, request.password) == ("ann", "p@ss")
        given.append(f"token {len(given) + 1}")
        return etcd.AuthenticateResponse(header=HEADER, token=given[-1])

    async def check(request: Any, context: lbkit.ServicerContext) -> Any:
        token = dict(context.invocation_metadata() or ())["token"]
        if token in refused:
            await context.abort(StatusCode.INVALID_ARGUMENT, refused[token])
        return GOOD

    async with lying() as (liar, address):
        liar.range, liar.authenticate = check, authenticate
        client = EtcdClient(EtcdTarget.read(target(f"etcd://ann:p%40ss@{address}/s")))
        try:
            request = etcd.RangeRequest(key=b"s/a")
            with pytest.raises(EtcdError) as caught:
                await client.call("KV", "Range", request)
            assert caught.value.kind is Kind.STALE_TOKEN
            assert given == ["token 1", "token 2"]
            client.renew_token()
            for _ in range(2):
                assert await client.call("KV", "Range", request) == GOOD
            assert given == ["token 1", "token 2", "token 3"]
        finally:
            await client.close()


async def test_a_store_without_auth_takes_who_has_a_password() -> None:
    async with lying() as (liar, address):
        liar.authenticate = refusing(
            StatusCode.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"
        )
        async with following(f"etcd://ann:secret@{address}/s") as seen:
            await seen.shows("10.0.0.1:80")
        assert all("token" not in metadata for metadata in liar.metadata)


async def test_another_cluster_behind_the_address_is_believed_and_noted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = etcd.RangeResponse(header=etcd.ResponseHeader(cluster_id=8, revision=99), kvs=GOOD.kvs, count=1)
    other.kvs[0].value = naming("10.0.0.8:80")
    async with lying() as (liar, address), following(f"etcd://{address}/s") as seen:
        await seen.until(lambda: liar.watches)
        liar.turn(answering(other))
        await seen.shows("10.0.0.8:80")
    assert "this is another cluster (id 8, before 7)" in caplog.text


async def test_trouble_after_a_while_of_peace_is_reported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "HELD_S", 0.05)
    async with lying() as (liar, address), following(f"etcd://{address}/s") as seen:
        await seen.until(lambda: liar.watches)
        for _ in range(2):
            await asyncio.sleep(0.2)  # of peace
            liar.turn(good_range)
            liar.watches = 0
            await seen.until(lambda: liar.watches)
        assert len(seen.errors) == 2


async def test_a_change_larger_than_any_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_KEYS", 5)
    piece = etcd.WatchResponse(header=HEADER, fragment=True, events=[event("s/b", naming("10.0.1.1:80"))] * 2)
    async with lying() as (liar, address):
        liar.watch = saying(*[piece] * 4, forever=True)
        async with following(f"etcd://{address}/s") as seen:
            await seen.until(lambda: seen.errors)
            assert "one change of more than 5 keys" in seen.errors[0]
            assert seen.answers == [["10.0.0.1:80"]]


class StuckCall:
    """A watch that takes no more requests."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def write(self, request: Any) -> None:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


@pytest.mark.parametrize("error", [None, lbkit.RpcError(StatusCode.UNAVAILABLE)])
async def test_a_watch_that_cannot_be_asked_is_as_good_as_silent(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(watching, "ANSWER_S", 0.01)
    await watching._Beat(StuckCall(error)).run()


async def test_a_stream_to_nobody_says_whom_it_could_not_reach() -> None:
    async with listening(swallow) as silent:
        (nobody,) = free_ports(1)
        for port, timeout_s, complaint in (
            (silent, 0.1, "no connection within 0.1 s"),
            (nobody, PATIENCE_S, "refused"),
        ):
            client = EtcdClient(EtcdTarget.read(target(f"etcd://127.0.0.1:{port}/s")))
            try:
                await client.moved()  # it has been nowhere yet
                with pytest.raises(EtcdError, match=complaint) as caught:
                    await client.stream("Watch", "Watch", timeout=timeout_s)
                assert (caught.value.kind, caught.value.reached) == (Kind.UNREACHABLE, False)
            finally:
                await client.close()


# What is no etcd at all


async def finish(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await finish(writer)


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await reader.read()
    await finish(writer)


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await swallow(reader, writer)


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes(range(256)) * 16)
    await swallow(reader, writer)


@pytest.mark.parametrize("serve", [hang_up, speak_http, babble])
async def test_a_stranger_on_the_port_is_reported_and_tried_again_without_haste(serve: Any) -> None:
    dials = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dials
        dials += 1
        await serve(reader, writer)

    async with listening(counted) as port, following(f"etcd://127.0.0.1:{port}/s") as seen:
        await seen.until(lambda: seen.errors)
        assert f"etcd 127.0.0.1:{port}: UNAVAILABLE" in seen.errors[0]
        await asyncio.sleep(0.4)
        assert 1 <= dials <= 40
        assert (seen.answers, len(seen.errors)) == ([], 1)


def half_a_message(peer: RawPeer, stream: int) -> bytes:
    head = peer.encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    body = b"\0\0\0\1\0" + GOOD.SerializeToString()[:9]
    return frame(frames.HEADERS, frames.END_HEADERS, stream, head) + frame(
        frames.DATA, frames.END_STREAM, stream, body
    )


def garbage(peer: RawPeer, stream: int) -> bytes:
    head = peer.encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    tail = peer.encoder.encode([("grpc-status", "0")])
    body = b"\0\0\0\0\4" + b"\xff\xff\xff\xff"
    return (
        frame(frames.HEADERS, frames.END_HEADERS, stream, head)
        + frame(frames.DATA, 0, stream, body)
        + frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, tail)
    )


@pytest.mark.parametrize("answer", [half_a_message, garbage, lambda peer, stream: None])
async def test_half_a_message_and_garbage_are_reported_without_a_spin(answer: Any) -> None:
    async with raw_server(answer) as server, following(f"etcd://127.0.0.1:{server.port}/s") as seen:
        await seen.until(lambda: seen.errors)
        await asyncio.sleep(0.4)
        assert 1 <= len(server.heads) <= 20
        assert (seen.answers, len(seen.errors)) == ([], 1)


async def test_a_member_that_says_it_is_about_to_stop_is_left_before_it_does() -> None:
    """As etcd does on SIGTERM: GOAWAY, and then it waits for the watches to end."""
    async with (
        lying() as (one, first),
        lying() as (two, second),
        following(f"etcd://{first},{second}/s") as seen,
    ):
        await seen.until(lambda: one.watches + two.watches)
        left, other = (one, two) if one.watches else (two, one)
        stopping = asyncio.create_task(left.server.stop(3600.0))
        await seen.until(lambda: other.watches)
        await stopping  # nobody is left there
        assert (left.watches, other.watches, seen.answers, seen.errors) == (1, 1, [["10.0.0.1:80"]], [])


async def test_a_member_that_says_nothing_is_left_for_another() -> None:
    async with listening(swallow) as silent, lying() as (_, address):
        members = [f"127.0.0.1:{silent}", address]
        for hosts in (members, members[::-1]):  # whichever of them comes first
            async with following(f"etcd://{','.join(hosts)}/s") as seen:
                await seen.shows("10.0.0.1:80")
                assert seen.errors == []
