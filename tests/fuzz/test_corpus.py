"""Every input that was ever worth keeping, and a few mutations of each, so that the suite fuzzes a little as well."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hpack
import pytest

from lbkit.http2.engine import NativeEngine
from lbkit.http2.faults import ConnectionFault
from lbkit.http2.frames import ErrorCode
from lbkit.http2.guard import Guard
from lbkit.http2.hpack_decoder import Decoder
from lbkit.http2.stream import Stream
from tests.fuzz.mutate import breaks, mutate, shrink
from tests.fuzz.seeds import FILES, seeds
from tests.fuzz.targets import TARGETS, engine_frames
from tests.fuzz.watched import OutputWatch

INPUTS = [pytest.param(target, name, id=f"{target}: {name}") for target in TARGETS for name in seeds(target)]
MUTATIONS = {
    "engine": 300,
    "frames": 500,
    "hpack": 1500,
    "wire": 3000,
    "compressed": 1000,
}  # about a third of a second each


@pytest.mark.parametrize(("target", "name"), INPUTS)
def test_input_keeps_every_promise(target: str, name: str) -> None:
    TARGETS[target](seeds(target)[name])


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_keep_every_promise(target: str) -> None:
    """The same ones each time: what is found by chance belongs into ``python -m tests.fuzz``."""
    rng = random.Random(9113)
    inputs = list(seeds(target).values())
    for _ in range(MUTATIONS[target]):
        data = mutate(rng, inputs)
        if breaks(TARGETS[target], data):
            data = shrink(TARGETS[target], data)
            pytest.fail(f"{target} does not stand {data.hex()}: {breaks(TARGETS[target], data)!r}")


def test_corpus_is_small_and_belongs_to_a_target() -> None:
    files = [path for path in FILES.rglob("*") if path.is_file()]
    assert len(files) <= 60
    assert {path.parent.name for path in files} <= TARGETS.keys()
    assert max(path.stat().st_size for path in files) <= 2048


def test_direct_receive_is_among_what_is_fuzzed() -> None:
    """It has a limit of its own, below which frames are too short: the seeds must stay above it."""
    assert engine_frames(seeds("frames")["direct"]).filled == 3


# The watch is worth something only if it notices.


def raises(*_: object) -> None:
    raise IndexError


def says_goaway_twice(engine: NativeEngine, fault: ConnectionFault) -> None:
    if not engine._failed:
        engine.goaway(None, ErrorCode.PROTOCOL_ERROR)
        ORIGINAL_FAIL(engine, fault)


def resets_twice(engine: NativeEngine, stream: Stream, code: ErrorCode, text: str) -> None:
    stream.sink.reset(code, text)
    ORIGINAL_FAULT(engine, stream, code, text)


def keeps_all(engine: NativeEngine, data: bytes, done: int) -> None:
    engine._rest = data


ORIGINAL_FAIL, ORIGINAL_FAULT = NativeEngine.fail, NativeEngine._stream_fault


@pytest.mark.parametrize(
    ("method", "fake", "seed"),
    [
        ("_on_control", raises, "ping flood"),
        ("fail", says_goaway_twice, "ids fall"),
        ("_stream_fault", resets_twice, "window of nothing"),
        ("_keep", keeps_all, "client's side of two calls"),
    ],
    ids=["an exception", "GOAWAY twice", "a call after reset", "frames kept that are done"],
)
def test_watch_notices(
    method: str, fake: Callable[..., None], seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = seeds("engine")[seed]
    assert breaks(TARGETS["engine"], data) is None
    monkeypatch.setattr(NativeEngine, method, fake)
    assert breaks(TARGETS["engine"], data)


def test_watch_notices_a_limit_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    data = seeds("engine")["ping flood"]
    monkeypatch.setattr(Guard, "ping", lambda *_: None)
    assert "answers" in str(breaks(TARGETS["engine"], data + data[3:] * 2))


def test_watch_notices_a_table_that_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "_evict", lambda *_: None)
    assert breaks(TARGETS["hpack"], seeds("hpack")["evictions"])


@pytest.mark.parametrize(
    ("wire", "control", "message"),
    [
        ("000000" + "06" + "00" + "00000000", 1, "the first frame is of type 6"),
        ("000000" + "04" + "00" + "00000000", 2, "1 control frames, 2"),
        ("000004" + "04" + "00" + "00000000", 1, "a frame is cut"),
        ("0000000400000000" + "00" + "000004080000000000" + "00000000", 2, "WINDOW_UPDATE of 0"),
        ("0000000400000000" + "00" + "000000000100000001" * 2, 1, "after END_STREAM"),
        ("0000000400000000" + "00" + "000000010000000001" + "000000000000000001", 1, "interrupted"),
        (
            "0000000400000000" + "00" + "000004030000000001" + "00000008" + "000000000000000001",
            2,
            "RST_STREAM",
        ),
    ],
    ids=["no SETTINGS", "miscounted", "cut", "empty update", "after the end", "interrupted", "after a reset"],
)
def test_watch_notices_output_that_no_peer_may_be_sent(wire: str, control: int, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        OutputWatch(client=False).feed(bytes.fromhex(wire), control)


def test_watch_decodes_the_header_blocks_that_are_sent() -> None:
    wire = "000000040000000000" + "000001010400000001" + "be"
    with pytest.raises(hpack.HPACKError):
        OutputWatch(client=False).feed(bytes.fromhex(wire), 1)


def test_shrinking_leaves_what_fails_only() -> None:
    def target(data: bytes) -> None:
        assert not (b"a" in data and b"b" in data)

    assert shrink(target, b"xxaxxxxbxx") == b"ab"


def test_mutations_are_the_same_for_a_seed_and_stay_short() -> None:
    rounds = [[mutate(random.Random(at), [b"abc" * 900, b""]) for at in range(200)] for _ in range(2)]
    assert rounds[0] == rounds[1]
    assert len(set(rounds[0])) > 100
    assert max(map(len, rounds[0])) <= 4096


def test_command_line_runs_without_atheris_and_runs_single_inputs(tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.fuzz", "wire", *options]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=50, check=False, cwd=Path(__file__).parents[2]
        )

    plain = run("--plain", "--seconds", "0", "--corpus", str(tmp_path))
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "plain mutation without coverage" in plain.stdout
    (tmp_path / "one").write_bytes(b"\x00\x03hello")
    one = run("--input", str(tmp_path / "one"))
    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout.endswith("one: passes\n")
