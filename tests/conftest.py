"""Every async test proves that it leaves no task, socket or thread, and no error that nobody looked at."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

# How long an example takes on a busy machine is nobody's fault.
settings.register_profile("lbkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lbkit")

# For what ends by itself a moment later: a closing transport, a peer's EOF. A thread that was told to end needs the
# machine's time for it, which a busy one gives late.
GRACE_S = {"task": 0.25, "socket": 0.25, "thread": 10.0, "exception": 0.0}
FDS = Path("/proc/self/fd")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "may_leak(*kinds, reason): what the leak check lets pass: 'task', 'socket', 'thread', 'exception'",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the reference engine cannot do, where it was asked for."""
    if os.environ.get("LBKIT_HTTP2_ENGINE") != "h2":
        return
    for item in items:
        if marker := item.get_closest_marker("native_engine"):
            item.add_marker(pytest.mark.skip(reason=marker.kwargs["reason"]))


def pytest_collection_finish() -> None:
    """What is loaded by now is no test's litter: a full collection then costs 3 ms per test, not 45."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> None:
    """Set the check up before all other fixtures of an async test, so that it looks after they are gone."""
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("_leak_check_on_loop")


@pytest_asyncio.fixture
async def _leak_check_on_loop(request: pytest.FixtureRequest) -> AsyncGenerator[None, None]:
    loop = asyncio.get_running_loop()
    exceptions: list[str] = []
    loop.set_exception_handler(lambda _, context: exceptions.append(describe_error(context)))
    sockets, threads = open_sockets(), set(threading.enumerate())

    yield

    allowed = {kind for marker in request.node.iter_markers("may_leak") for kind in marker.args}
    looks: dict[str, Callable[[], list[str]]] = {
        "task": lambda: [repr(task) for task in asyncio.all_tasks(loop) - {asyncio.current_task()}],
        "socket": lambda: sorted(open_sockets() - sockets),
        "thread": lambda: [repr(thread) for thread in threading.enumerate() if is_new(thread, threads)],
        "exception": lambda: exceptions,
    }

    def look(waited: float = 0.0) -> list[str]:
        return [item for kind in looks.keys() - allowed if GRACE_S[kind] >= waited for item in looks[kind]()]

    began = loop.time()
    while look(loop.time() - began):  # noqa: ASYNC110 -- sockets and threads set no event
        await asyncio.sleep(0.001)
    with unraisable_into(exceptions):  # lost futures report now, and unclosed resources warn
        gc.collect()
    if litter := look():
        pytest.fail("left behind:\n  " + "\n  ".join(litter), pytrace=False)


@contextmanager
def unraisable_into(found: list[str]) -> Generator[None, None, None]:
    """Note what finalizers raise, as warnings do that are errors, so that this test fails and not the next."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: found.append(f"{args.exc_value!r} in {args.object!r}")
    try:
        yield
    finally:
        sys.unraisablehook = before


def open_sockets() -> set[str]:
    """The sockets of this process as ``socket:[inode]``; none where there is no /proc."""
    found: set[str] = set()
    for fd in FDS.iterdir() if FDS.exists() else ():
        try:
            target = str(fd.readlink())
        except OSError:  # closed meanwhile: the listing's own descriptor
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def is_new(thread: threading.Thread, before: set[threading.Thread]) -> bool:
    """Whether the test started this thread; the loop joins those of its default executor itself."""
    return thread not in before and not thread.name.startswith("asyncio_")


def describe_error(context: dict[str, Any]) -> str:
    """One line on what the loop's exception handler was told."""
    culprit = context.get("task") or context.get("future") or context.get("handle") or ""
    return f"{context['message']}: {context.get('exception')!r} {culprit!r}"
