"""The file of the last good list: what it holds, what is refused, and that nobody ever sees half of it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from lbkit.address import Endpoint
from lbkit.resolution import Resolution
from lbkit_resolvers.combinators.cache import LastGood
from lbkit_resolvers.combinators.store import FileStore, Saved, StoreError, decode, encode

TARGET = "etcd://10.0.0.1:2379/greeter?token=secret"
RICH = Resolution(
    (
        Endpoint("10.0.0.1:50051"),
        Endpoint(["10.0.0.2:50051", "[::1]:50051"], weight=2.5, zone="eu", hash_key="k", draining=True),
        Endpoint("unix-abstract:name", metadata={"version": "7", "naïve": "\ud800"}),
        Endpoint("unix:/run/app.sock"),
    ),
    MappingProxyType({"a": [1, MappingProxyType({"b": None})]}),
    source="etcd 10.0.0.1:2379, revision 42",
)


def document(**changes: Any) -> bytes:
    written = json.loads(encode(Saved(RICH, 1e9), TARGET))
    return json.dumps({**written, **changes}).encode()


def files(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


def test_what_is_written_is_read() -> None:
    saved = decode(encode(Saved(RICH, 1234.5), TARGET), TARGET)
    assert saved.at == 1234.5
    assert saved.answer.endpoints == RICH.endpoints
    assert saved.answer.service_config == {"a": [1, {"b": None}]}
    assert saved.answer.source == RICH.source


def test_parameters_of_the_target_are_not_written() -> None:
    assert b"secret" not in encode(Saved(RICH, 0), TARGET)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", 'no file of "last-good"'),
        (b'{"endpoints": []}', 'no file of "last-good"'),
        (document(version=2), "it is of version 2; this lbkit reads 1"),
        (document(version="\x1b[2J" * 100), "it is of version '"),
        (document(digest="x", target="dns:///x"), r"about another target \(dns:///x\)"),
        (document(saved="today"), "saved must be seconds"),
        (document(saved=True), "saved must be seconds"),
        (document(saved=1e300), "saved must be seconds"),
        (document(source="\x07"), "source must be printable"),
        (document(service_config=[]), "service_config must be"),
        (document(endpoints=[]), "1 to 10000"),
        (document(endpoints=[{}] * 10_001), "1 to 10000"),
        (document(endpoints=["a:1"]), "an endpoint is an object, not a:1"),
        (document(endpoints=[{"addresses": "a:1"}]), "list of texts"),
        (document(endpoints=[{"addresses": []}]), "at least one address"),
        (document(endpoints=[{"addresses": ["a:99999"]}]), "no valid port"),
        (document(endpoints=[{"addresses": ["a:1"], "weight": "2"}]), "weight must be a number"),
        (document(endpoints=[{"addresses": ["a:1"], "weight": -1}]), "positive and finite"),
        (document(endpoints=[{"addresses": ["a:1"], "weight": 10**400}]), "too large"),
        (document(endpoints=[{"addresses": ["a:1"], "metadata": {"k": 1}}]), "must be text"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(StoreError, match=problem) as caught:
        decode(data, TARGET)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


async def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "greeter.json"
    store = FileStore(str(path), TARGET)
    assert await store.load() is None
    await store.save(Saved(RICH, 1.0))
    before = path.stat().st_ino
    await store.save(Saved(RICH, 2.0))
    loaded = await store.load()
    assert loaded is not None
    assert loaded.at == 2.0
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files(tmp_path) == ["greeter.json"]


async def test_two_that_write_and_one_that_reads_never_meet(tmp_path: Path) -> None:
    path = str(tmp_path / "greeter.json")
    short, long = Resolution(RICH.endpoints[:1]), Resolution(RICH.endpoints * 200)
    seen: set[int] = set()

    async def write(answer: Resolution) -> None:
        number = 0
        while number < 20 or (len(seen) < 2 and not reading.done()):
            await FileStore(path, TARGET).save(Saved(answer, number))
            number += 1

    async def read() -> None:
        store = FileStore(path, TARGET)
        while not done.is_set():
            saved = await store.load()
            if saved is not None:
                assert saved.answer in (short, long)
                seen.add(len(saved.answer.endpoints))

    done = asyncio.Event()
    reading = asyncio.ensure_future(read())
    await asyncio.gather(write(short), write(long))
    done.set()
    await reading
    assert files(tmp_path) == ["greeter.json"]


async def test_what_cannot_be_written_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "greeter.json"
    store = FileStore(str(path), TARGET)
    await store.save(Saved(RICH, 1.0))
    with pytest.raises(StoreError, match=r"greeter\.json is not written: the service config is no JSON"):
        await store.save(Saved(Resolution(RICH.endpoints, {"a": object()}), 2.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StoreError, match=r"greeter\.json cannot be written: No space left on device"):
            await store.save(Saved(RICH, 3.0))
    loaded = await store.load()
    assert loaded is not None
    assert loaded.at == 1.0
    assert files(tmp_path) == ["greeter.json"]


async def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="this is no regular file"):
        await FileStore(str(tmp_path), TARGET).load()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe is not used: this is no regular file"):
        await FileStore(str(tmp_path / "pipe"), TARGET).load()
    with pytest.raises(StoreError, match="cannot be written: No such file or directory"):
        await FileStore(str(tmp_path / "missing" / "x.json"), TARGET).save(Saved(RICH, 1.0))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(StoreError, match=r"x\.json/y\.json cannot be read: Not a directory"):
        await FileStore(str(tmp_path / "x.json" / "y.json"), TARGET).load()


async def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(StoreError, match="more than the 16777216"):
        await FileStore(str(path), TARGET).load()


def test_a_directory_has_a_file_per_target(tmp_path: Path) -> None:
    stores: list[Any] = [
        LastGood(f"static:///{name}:1", directory=tmp_path).store for name in ("a", "b", "a")
    ]
    assert stores[0].path == stores[2].path != stores[1].path
    assert Path(stores[0].path).parent == tmp_path
