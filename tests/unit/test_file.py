"""Files that change while they are watched, and not always cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lbkit.errors import TargetError
from lbkit.resolver import make_resolver
from lbkit_resolvers.file import resolver as file
from lbkit_resolvers.watched import stamp_of
from tests.support.fakes import FakeSink
from tests.support.servers import until

QUICK_S = 0.005


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again at bad content soon."""
    monkeypatch.setattr(file, "_SECOND_LOOK_S", QUICK_S)


class Watched:
    """A file, and what a channel heard of it.

    Attributes:
        looks: how often it was looked at.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.sink = FakeSink()
        self.looks = 0
        self.reads = 0
        monkeypatch.setattr(file, "stamp_of", self._counting(stamp_of, "looks"))
        monkeypatch.setattr(file, "_read", self._counting(file._read, "reads"))

    def _counting(self, function: Callable[..., object], name: str) -> Callable[..., object]:
        def counted(*args: object) -> object:
            result = function(*args)
            setattr(self, name, getattr(self, name) + 1)
            return result

        return counted

    @asynccontextmanager
    async def followed(self) -> AsyncGenerator[None, None]:
        """Run the resolver."""
        resolver = make_resolver(f"file://{self.path}")
        resolver._poll_s = QUICK_S  # type: ignore[attr-defined]
        task = asyncio.create_task(resolver.run(self.sink))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def write(self, *addresses: str) -> None:
        self.path.write_text(json.dumps(addresses))

    async def says(self, *addresses: str) -> None:
        """Wait for this answer to be the last."""
        await until(lambda: self.sink.addresses[-1:] == [list(addresses)])

    async def looked_again(self, times: int = 6) -> None:
        """Wait for so many looks more: what was to be noticed has been, and what was to be left alone was seen."""
        wanted = self.looks + times
        await until(lambda: self.looks >= wanted)

    def errors(self) -> list[str]:
        return [str(error) for error in self.sink.errors]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path / "backends.json", monkeypatch)


async def test_change_is_noticed_and_nothing_is_said_without_one(watched: Watched) -> None:
    watched.write("a:1")
    async with watched.followed():
        await watched.says("a:1")
        await watched.looked_again()
        watched.write("a:1", "b:1")
        await watched.says("a:1", "b:1")
        await watched.looked_again()
    assert len(watched.sink.answers) == 2
    assert not watched.sink.errors


async def test_file_that_does_not_change_is_not_read_again(watched: Watched) -> None:
    watched.write("a:1")
    async with watched.followed():
        await watched.says("a:1")
        await watched.looked_again()
        reads = watched.reads
        await watched.looked_again(20)
        assert watched.reads == reads == 2


async def test_same_size_and_time_with_new_content_is_noticed(watched: Watched) -> None:
    watched.write("a:1")
    before = watched.path.stat()
    async with watched.followed():
        await watched.says("a:1")
        await watched.looked_again()
        watched.write("b:1")
        os.utime(watched.path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = watched.path.stat()
        assert (after.st_mtime_ns, after.st_size, after.st_ino) == (
            before.st_mtime_ns,
            before.st_size,
            before.st_ino,
        )
        await watched.says("b:1")


async def test_new_times_with_the_same_content_are_no_news(watched: Watched) -> None:
    watched.write("a:1")
    async with watched.followed():
        await watched.says("a:1")
        reads = watched.reads
        watched.write("a:1")
        await until(lambda: watched.reads >= reads + 2)
    assert len(watched.sink.answers) == 1


async def test_atomic_rename_is_followed(watched: Watched) -> None:
    watched.write("a:1")
    async with watched.followed():
        await watched.says("a:1")
        for number in range(5):
            new = watched.path.with_name("new.json")
            new.write_text(f'["b:{number}"]')
            new.replace(watched.path)
            await watched.says(f"b:{number}")
    assert not watched.sink.errors


async def test_swapped_link_of_a_config_map_is_followed(watched: Watched, tmp_path: Path) -> None:
    def publish(version: str, *addresses: str) -> None:
        """Do as the kubelet does: a new folder, and the link ..data swapped to it."""
        (tmp_path / version).mkdir()
        (tmp_path / version / "backends.json").write_text(json.dumps(addresses))
        (tmp_path / "..data_tmp").symlink_to(version)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    publish("..1", "a:1")
    watched.path.symlink_to("..data/backends.json")
    async with watched.followed():
        await watched.says("a:1")
        publish("..2", "b:1")
        await watched.says("b:1")
    assert not watched.sink.errors


async def test_half_written_file_keeps_the_list_and_is_read_when_it_is_whole(watched: Watched) -> None:
    watched.write("a:1")
    async with watched.followed():
        await watched.says("a:1")
        watched.path.write_text('["b:1",')
        await watched.looked_again()
        with watched.path.open("a") as opened:
            opened.write(' "c:1"]')
        await watched.says("b:1", "c:1")
    assert len(watched.sink.answers) == 2


async def test_bad_content_is_looked_at_three_times_more_and_then_reported_once(watched: Watched) -> None:
    looks: list[int] = []

    class NotingSink(FakeSink):
        def fail(self, error: Exception) -> None:
            looks.append(watched.looks)
            super().fail(error)

    watched.sink = NotingSink()
    watched.path.write_text('[\n"a:1",\n"b"]')
    async with watched.followed():
        await until(lambda: looks)
        await watched.looked_again()
    assert watched.errors() == [
        f"{watched.path}: line 3: 'b' has no valid port; write host:port with a port of 0 to 65535"
    ]
    assert looks == [4]
    assert not watched.sink.answers


async def test_good_content_again_says_that_all_is_well(watched: Watched) -> None:
    watched.write("a:1")
    async with watched.followed():
        await watched.says("a:1")
        watched.path.write_text("oops")
        await until(lambda: watched.sink.errors)
        watched.write("a:1")
        await until(lambda: len(watched.sink.answers) == 2)
        watched.path.write_text("oops")
        await until(lambda: len(watched.sink.errors) == 2)
    assert watched.sink.answers[0] == watched.sink.answers[1]


async def test_removed_file_keeps_the_list_and_says_so_once(watched: Watched) -> None:
    watched.write("a:1")
    async with watched.followed():
        await watched.says("a:1")
        watched.path.unlink()
        await until(lambda: watched.sink.errors)
        await watched.looked_again()
        assert watched.errors() == [f"{watched.path}: there is no such file; it is read as soon as there is"]
        assert len(watched.sink.answers) == 1
        watched.write("b:1")
        await watched.says("b:1")


async def test_file_may_come_later_than_the_channel(watched: Watched) -> None:
    async with watched.followed():
        await until(lambda: watched.sink.errors)
        watched.write("a:1")
        await watched.says("a:1")


async def test_empty_list_is_an_answer(watched: Watched) -> None:
    watched.write("a:1")
    async with watched.followed():
        await watched.says("a:1")
        watched.write()
        await watched.says()


@pytest.mark.parametrize(
    ("make", "why"), [(Path.mkdir, "this is no regular file"), (os.mkfifo, "this is no regular file")]
)
async def test_what_is_no_file_is_reported_and_never_waited_for(
    watched: Watched, make: Callable[[Path], None], why: str
) -> None:
    make(watched.path)
    async with watched.followed():
        await until(lambda: watched.sink.errors)
    assert watched.errors() == [f"{watched.path}: {why}"]


async def test_file_that_cannot_be_read_is_reported(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, stamp: object) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    watched.write("a:1")
    monkeypatch.setattr(file, "_read", refuse)
    async with watched.followed():
        await until(lambda: watched.sink.errors)
    assert watched.errors() == [f"{watched.path}: Permission denied"]


async def test_file_that_is_too_large_is_not_read(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "MAX_BYTES", 100)
    watched.path.write_text(" " * 101)
    async with watched.followed():
        await until(lambda: watched.sink.errors)
    assert watched.errors() == [f"{watched.path}: 101 bytes are more than the 100 that lbkit reads"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("file:///etc/backends.json", "/etc/backends.json"),
        ("file:/etc/backends.json", "/etc/backends.json"),
        ("file:backends.json", "backends.json"),
        ("file:///a%20b.json?poll=500ms", "/a b.json"),
    ],
)
def test_path_of_the_target(target: str, path: str) -> None:
    resolver = make_resolver(target)
    assert resolver.target.file_path == path
    assert resolver.authority == "localhost"


async def test_relative_path_starts_in_the_working_folder(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("a:1")
    monkeypatch.chdir(watched.path.parent)
    task = asyncio.create_task(make_resolver("file:backends.json").run(watched.sink))
    await watched.says("a:1")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("target", "cure"),
    [
        ("file:", "names no file; write file:///absolute/path.json or file:path.json"),
        ("file://etc/backends.json", "names no file"),
        ("file:///a.json?poll=1", "poll=1 is no duration; write a number and ms, s or m, like poll=30s"),
        ("file:///a.json?poll=50ms", "is not between 0.1 s and a day"),
        ("file:///a.json?pol=1s", "has no parameter 'pol'. Did you mean 'poll'?"),
    ],
)
def test_bad_target_says_the_cure(target: str, cure: str) -> None:
    with pytest.raises(TargetError) as caught:
        make_resolver(target)
    assert cure in str(caught.value)
