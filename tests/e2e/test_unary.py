"""Unary calls over loopback: what arrives, what comes back, and how calls end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import lbkit
from lbkit import RpcError, StatusCode
from tests.support.protos import kinds_pb2
from tests.support.servers import Backend, Item, calling, channel_to, failure, raw, serving, unary

TEXTS = ["plain", "50 % ~ naïve\nsecond line", "日本語 🎉", ""]


# Messages and metadata


async def test_request_arrives_and_response_comes_back() -> None:
    async with calling() as call:
        item = Item(text="täxt", number=-7, body=bytes(range(256)))
        assert await call(item) == item


async def test_empty_messages_are_messages() -> None:
    async with calling() as call:
        assert await call(Item()) == Item()


async def test_bytes_pass_without_serializers() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        assert (
            await raw(channel)(Item(text="raw").SerializeToString()) == Item(text="raw").SerializeToString()
        )


async def test_metadata_goes_both_ways_with_binary_and_repeated_keys() -> None:
    sent = [
        ("x-text", "a, b"),
        ("x-many", "1"),
        ("x-data-bin", bytes(range(256))),
        ("x-many", "2"),
        ("x-empty-bin", b""),
    ]

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        mine = [pair for pair in context.invocation_metadata() if pair[0].startswith("x-")]
        await context.send_initial_metadata([("x-kind", "initial"), *mine])
        context.set_trailing_metadata([("x-kind", "trailing"), *mine])
        return request

    async with calling(behaviour) as call:
        running = call(Item(), metadata=sent)
        assert await running == Item()
        assert await running.initial_metadata() == (("x-kind", "initial"), *sent)
        assert await running.trailing_metadata() == (("x-kind", "trailing"), *sent)
        assert (await running.trailing_metadata()).get_all("x-many") == ["1", "2"]


@pytest.mark.parametrize("given", [{"x-a": "1"}, lbkit.Metadata([("x-a", "1")]), (("x-a", "1"),)])
async def test_metadata_may_be_any_pairs(given: Any) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(text=str(context.invocation_metadata()["x-a"]))

    async with calling(behaviour) as call:
        assert (await call(Item(), metadata=given)).text == "1"


async def test_metadata_may_be_an_iterator() -> None:
    def pairs() -> Iterator[tuple[str, str]]:
        yield "x-a", "1"

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(text=str(context.invocation_metadata()["x-a"]))

    async with calling(behaviour) as call:
        assert (await call(Item(), metadata=pairs())).text == "1"


async def test_initial_metadata_comes_before_the_answer() -> None:
    go_on = asyncio.Event()

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.send_initial_metadata([("x-early", "1")])
        await go_on.wait()
        return request

    async with calling(behaviour) as call:
        running = call(Item())
        assert await running.initial_metadata() == (("x-early", "1"),)
        await running.wait_for_connection()
        assert not running.done()
        go_on.set()
        assert await running == Item()


async def test_initial_metadata_is_sent_once() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.send_initial_metadata([("x-early", "1")])
        with pytest.raises(RuntimeError, match="sent before"):
            await context.send_initial_metadata([("x-early", "2")])
        return request

    async with calling(behaviour) as call:
        running = call(Item())
        await running
        assert await running.initial_metadata() == (("x-early", "1"),)


async def test_bad_metadata_is_refused_at_the_call() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        with pytest.raises(lbkit.MetadataError, match="X-Upper"):
            unary(channel)(Item(), metadata=[("X-Upper", "v")])
        assert await unary(channel)(Item(text="next")) == Item(text="next")
        assert backend.calls == 1


async def test_bad_metadata_of_a_handler_is_refused_where_it_is_set() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        with pytest.raises(lbkit.MetadataError):
            context.set_trailing_metadata([("grpc-status", "0")])
        with pytest.raises(lbkit.MetadataError):
            await context.send_initial_metadata([("x-lf", "a\nb")])
        return request

    async with calling(behaviour) as call:
        assert await call(Item(text="fine")) == Item(text="fine")


async def test_trailing_metadata_may_be_an_iterator() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        context.set_trailing_metadata(iter([("x-a", "1")]))
        assert context.trailing_metadata() == (("x-a", "1"),)
        return request

    async with calling(behaviour) as call:
        running = call(Item())
        await running
        assert await running.trailing_metadata() == (("x-a", "1"),)


async def test_context_knows_the_peer_and_user_agent() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(text=f"{context.peer()} {context.invocation_metadata()['user-agent']!s}")

    async with calling(behaviour, channel={"user_agent": "tests/1"}) as call:
        peer, *agents = (await call(Item())).text.split()
    assert peer.startswith("ipv4:127.0.0.1:")
    assert agents[0] == "tests/1"
    assert agents[1].startswith("lbkit-python/")


@pytest.mark.parametrize("size", [3 << 20, (4 << 20) - 100])
async def test_big_messages_pass_both_ways(size: int) -> None:
    async with calling() as call:
        item = Item(body=bytes(range(256)) * (size // 256))
        assert await call(item) == item


async def test_many_big_messages_share_a_connection() -> None:
    async with calling() as call:
        items = [Item(number=n, body=bytes((n,)) * 500_000) for n in range(12)]
        assert await asyncio.gather(*(call(item) for item in items)) == items


# Limits


async def test_request_above_the_channels_limit_is_not_sent() -> None:
    async with serving() as backend, channel_to(backend, max_request_bytes=1000) as channel:
        error = await failure(unary(channel)(Item(body=bytes(2000))))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert "limit of 1000" in error.details()
        assert backend.calls == 0


@pytest.mark.parametrize("size", [1100, 100_000, 3_000_000])
async def test_request_above_the_servers_limit_ends_the_call_only(size: int) -> None:
    async with serving(max_request_bytes=1000) as backend, channel_to(backend) as channel:
        call = unary(channel)
        error = await failure(call(Item(body=bytes(size))))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert "limit of 1000" in error.details()
        assert await call(Item(text="next")) == Item(text="next")
        assert backend.calls == 1


@pytest.mark.parametrize("size", [1100, 100_000, 3_000_000])
async def test_response_above_the_channels_limit_ends_the_call_only(size: int) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(body=bytes(request.number))

    async with calling(behaviour, channel={"max_response_bytes": 1000}) as call:
        error = await failure(call(Item(number=size)))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert "limit of 1000" in error.details()
        assert len((await call(Item(number=500))).body) == 500


async def test_limits_are_four_megabytes_by_default() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return Item(body=bytes(request.number))

    async with calling(behaviour) as call:
        assert (await failure(call(Item(body=bytes(4 << 20))))).code() is StatusCode.RESOURCE_EXHAUSTED
        assert (await failure(call(Item(number=4 << 20)))).code() is StatusCode.RESOURCE_EXHAUSTED


async def test_too_large_metadata_ends_the_call_only() -> None:
    async with calling() as call:
        error = await failure(call(Item(), metadata=[("x-large", "v" * 20_000)]))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert await call(Item(text="next")) == Item(text="next")


# How calls end


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
async def test_every_status_code_arrives(code: StatusCode) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.abort(code, "because")

    async with calling(behaviour) as call:
        error = await failure(call(Item()))
        assert error.code() is code
        assert error.details() == "because"


@pytest.mark.parametrize("text", TEXTS)
async def test_abort_carries_any_text_and_trailing_metadata(text: str) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.abort(StatusCode.NOT_FOUND, text, [("x-why", "1"), ("x-why-bin", b"\x00\xff")])

    async with calling(behaviour) as call:
        error = await failure(call(Item()))
        assert error.details() == text
        assert error.trailing_metadata() == (("x-why", "1"), ("x-why-bin", b"\x00\xff"))


async def test_abort_after_initial_metadata_keeps_both() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.send_initial_metadata([("x-early", "1")])
        await context.abort(StatusCode.ABORTED, "late")

    async with calling(behaviour) as call:
        error = await failure(call(Item()))
        assert (error.code(), error.details()) == (StatusCode.ABORTED, "late")
        assert error.initial_metadata() == (("x-early", "1"),)


async def test_abort_with_ok_is_refused() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        with pytest.raises(ValueError, match="other than OK"):
            await context.abort(StatusCode.OK)
        return request

    async with calling(behaviour) as call:
        assert await call(Item(text="still")) == Item(text="still")


async def test_a_call_that_catches_its_abort_still_aborts() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        try:
            await context.abort(StatusCode.ABORTED, "meant")
        except Exception:
            return request

    async with calling(behaviour) as call:
        error = await failure(call(Item()))
        assert (error.code(), error.details()) == (StatusCode.ABORTED, "meant")


@pytest.mark.parametrize("raises", [True, False])
async def test_set_code_ends_the_call_with_it(raises: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        context.set_code(StatusCode.FAILED_PRECONDITION)
        context.set_details("not now")
        assert (context.code(), context.details()) == (StatusCode.FAILED_PRECONDITION, "not now")
        if raises:
            raise RuntimeError("away")
        return request

    async with calling(behaviour) as call:
        error = await failure(call(Item()))
        assert (error.code(), error.details()) == (StatusCode.FAILED_PRECONDITION, "not now")
    assert caplog.records == []


async def test_details_alone_do_not_fail_a_call() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        context.set_details("with a remark")
        return request

    async with calling(behaviour) as call:
        running = call(Item(text="fine"))
        assert await running == Item(text="fine")
        assert await running.code() is StatusCode.OK


async def test_handlers_exception_is_unknown_and_its_text_stays_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        raise LookupError("the password is swordfish")

    async with calling(behaviour) as call:
        with caplog.at_level(logging.ERROR, "lbkit.server"):
            error = await failure(call(Item()))
    assert error.code() is StatusCode.UNKNOWN
    assert "LookupError" in error.details()
    assert "swordfish" not in error.details()
    (record,) = caplog.records
    assert "/lbkit.tests.Kinds/UnaryUnary" in record.getMessage()
    assert record.exc_info is not None
    assert "swordfish" in str(record.exc_info[1])


@pytest.mark.parametrize("answer", [None, "text", 7])
async def test_answer_of_a_wrong_type_is_the_servers_fault(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        return answer

    async with calling(behaviour) as call:
        assert (await failure(call(Item()))).code() in {StatusCode.UNKNOWN, StatusCode.INTERNAL}
    assert len(caplog.records) == 1


async def test_handler_that_cancels_itself_ends_with_cancelled() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        raise asyncio.CancelledError

    async with calling(behaviour) as call:
        error = await failure(call(Item()))
        assert error.code() is StatusCode.CANCELLED
        assert "handler" in error.details()


async def test_request_that_cannot_be_parsed_is_internal() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        error = await failure(raw(channel)(b"\xff\xff\xff"))
        assert error.code() is StatusCode.INTERNAL
        assert "request cannot be parsed" in error.details()
        assert backend.calls == 0


async def test_response_that_cannot_be_parsed_is_internal() -> None:
    def broken(data: bytes) -> Any:
        raise KeyError("field")

    async with serving() as backend, channel_to(backend) as channel:
        call = channel.unary_unary("/lbkit.tests.Kinds/UnaryUnary", Item.SerializeToString, broken)
        error = await failure(call(Item()))
        assert error.code() is StatusCode.INTERNAL
        assert "response cannot be parsed: KeyError" in error.details()


async def test_unknown_method_is_unimplemented_with_the_nearest_one() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        error = await failure(raw(channel, "/lbkit.tests.Kinds/UnaryUnry")(b""))
        assert error.code() is StatusCode.UNIMPLEMENTED
        assert "Did you mean '/lbkit.tests.Kinds/UnaryUnary'?" in error.details()
        error = await failure(raw(channel, "/other.Service/Method")(b""))
        assert error.code() is StatusCode.UNIMPLEMENTED
        assert "Did you mean" not in error.details()


@pytest.mark.parametrize("path", ["/", "no-slash", "/a", "//", "/a/b/c", "/ü/x"])
async def test_odd_paths_are_unimplemented(path: str) -> None:
    async with serving() as backend, channel_to(backend) as channel:
        assert (await failure(raw(channel, path)(b""))).code() is StatusCode.UNIMPLEMENTED


async def test_an_empty_path_is_malformed() -> None:
    """RFC 9113 8.3.1."""
    async with serving() as backend, channel_to(backend) as channel:
        error = await failure(raw(channel, "")(b""))
        assert error.code() is StatusCode.INTERNAL
        assert "PROTOCOL_ERROR" in error.details()


async def test_error_says_where_when_and_what() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.abort(StatusCode.NOT_FOUND, "no such item")

    async with serving(behaviour) as backend, channel_to(backend) as channel:
        error = await failure(unary(channel)(Item()))
        assert error.backend == backend.address
        assert [attempt.backend for attempt in error.attempts] == [backend.address]
        assert 0 < error.elapsed_s < 10
        assert "NOT_FOUND: no such item" in str(error)
        assert backend.address in str(error)


async def test_foreign_enum_members_are_codes_too() -> None:
    import grpc

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "there")

    async with calling(behaviour) as call:
        error = await failure(call(Item()))
        assert error.code() is StatusCode.ALREADY_EXISTS
        assert error.code() == grpc.StatusCode.ALREADY_EXISTS


# The call object


async def test_call_starts_before_it_is_awaited() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        running = unary(channel)(Item())
        done = asyncio.Event()
        running.add_done_callback(lambda _: done.set())
        await done.wait()
        assert running.done()
        assert backend.calls == 1
        assert await running == Item()


async def test_call_may_be_awaited_twice_and_by_two_tasks() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        running = unary(channel)(Item(text="once"))

        async def wait() -> Any:
            return await running

        first, second = await asyncio.gather(wait(), wait())
        assert first == second == Item(text="once")
        assert await running == Item(text="once")
        assert backend.calls == 1


async def test_failed_call_raises_each_time() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.abort(StatusCode.NOT_FOUND, "gone")

    async with calling(behaviour) as call:
        running = call(Item())
        for _ in range(2):
            assert (await failure(running)).details() == "gone"
        assert await running.code() is StatusCode.NOT_FOUND
        assert await running.details() == "gone"
        with pytest.raises(RpcError):
            await running.wait_for_connection()


async def test_failure_nobody_awaits_is_silent() -> None:
    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        await context.abort(StatusCode.NOT_FOUND, "gone")

    async with calling(behaviour) as call:
        running = call(Item())
        assert await running.code() is StatusCode.NOT_FOUND


async def test_done_callbacks_run_once_also_when_added_late() -> None:
    heard: list[Any] = []
    async with calling() as call:
        running = call(Item())
        running.add_done_callback(heard.append)
        running.add_done_callback(heard.append)
        await running
        await asyncio.sleep(0)
        assert heard == [running, running]
        running.add_done_callback(heard.append)
        assert len(heard) == 3


async def test_handlers_done_callback_runs_at_the_end() -> None:
    heard: list[bool] = []
    contexts: list[lbkit.ServicerContext] = []

    async def behaviour(request: Any, context: lbkit.ServicerContext) -> Any:
        contexts.append(context)
        context.add_done_callback(lambda done: heard.append(done.done()))
        assert not context.done()
        return request

    async with calling(behaviour) as call:
        await call(Item())
        assert heard == [True]
        assert contexts[0].done()
        assert not contexts[0].cancelled()
        contexts[0].add_done_callback(lambda done: heard.append(done.done()))
        assert heard == [True, True]


async def test_call_knows_its_method_backend_and_metadata() -> None:
    async with serving() as backend, channel_to(backend) as channel:
        running = unary(channel)(Item(), metadata={"x-a": "1"})
        await running
        assert running.method == "/lbkit.tests.Kinds/UnaryUnary"
        assert running.metadata == (("x-a", "1"),)
        assert running.backend == backend.address
        assert running.time_remaining() is None


async def test_wrong_request_type_is_said_at_the_call() -> None:
    async with calling() as call:
        with pytest.raises(TypeError):
            call(kinds_pb2)


@pytest.mark.parametrize("option", ["credentials", "compression"])
async def test_option_of_the_wrong_type_is_said_at_the_call(option: str) -> None:
    async with calling() as call:
        with pytest.raises(TypeError):
            call(Item(), **{option: object()})


async def test_explicit_nothing_is_accepted() -> None:
    async with calling() as call:
        answer = call(
            Item(text="x"),
            timeout=None,
            metadata=None,
            credentials=None,
            wait_for_ready=None,
            compression=None,
        )
        assert await answer == Item(text="x")


async def test_servers_are_started_once_and_bound_before() -> None:
    backend = Backend()
    with pytest.raises(RuntimeError, match="call bind"):
        await backend.server.start()
    await backend.start()
    with pytest.raises(RuntimeError, match="started once"):
        await backend.server.start()
    with pytest.raises(RuntimeError, match="bind"):
        backend.server.bind("127.0.0.1:0")
    await backend.server.stop(None)
