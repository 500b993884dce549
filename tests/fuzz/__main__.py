"""Fuzz one target: with atheris and libFuzzer where they are installed, else with our own mutator."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Written out here, for atheris must come before what it measures.
NAMES = (
    "engine",
    "frames",
    "hpack",
    "compressed",
    "wire",
)
LONGEST = 4096
_REPORT_S = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: 60)")
    parser.add_argument(
        "--corpus", type=Path, help="keep what is found here (default: a folder that is deleted)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0: another each time")
    parser.add_argument("--input", type=Path, action="append", help="run these files only")
    parser.add_argument("--plain", action="store_true", help="use our own mutator, not atheris")
    options = parser.parse_args()
    if options.input:
        return run_files(options)
    with tempfile.TemporaryDirectory() as folder:
        options.corpus = options.corpus or Path(folder, "found")
        options.corpus.mkdir(parents=True, exist_ok=True)
        if options.plain or importlib.util.find_spec("atheris") is None:
            return run_plain(options)
        return run_atheris(options, Path(folder))


def run_files(options: argparse.Namespace) -> int:
    """Run single inputs, to see how they fail."""
    target = importlib.import_module("tests.fuzz.targets").TARGETS[options.target]
    for path in options.input:
        target(path.read_bytes())
        print(f"{path}: passes")
    return 0


def run_atheris(options: argparse.Namespace, folder: Path) -> int:
    """Have libFuzzer look for inputs that reach more of our code; it ends the process itself."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["lbkit.http2", "lbkit.wire"]):
        target: Callable[[bytes], object] = importlib.import_module("tests.fuzz.targets").TARGETS[
            options.target
        ]
    start = folder / "seeds"
    start.mkdir()
    for number, seed in enumerate(importlib.import_module("tests.fuzz.seeds").seeds(options.target).values()):
        (start / str(number)).write_bytes(seed)
    flags = [
        f"-max_total_time={options.seconds}",
        f"-max_len={LONGEST}",
        f"-seed={options.seed}",
        f"-artifact_prefix={options.corpus}/",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    print(f"{options.target}: atheris, {options.seconds} s", flush=True)
    atheris.Setup([sys.argv[0], *flags, str(options.corpus), str(start)], target)
    atheris.Fuzz()
    return 0


def run_plain(options: argparse.Namespace) -> int:
    """Mutate the seeds blindly for a while; write the first input that fails, made short, and stop."""
    mutator = importlib.import_module("tests.fuzz.mutate")
    target = importlib.import_module("tests.fuzz.targets").TARGETS[options.target]
    inputs = list(importlib.import_module("tests.fuzz.seeds").seeds(options.target).values())
    inputs += [path.read_bytes() for path in sorted(options.corpus.iterdir()) if path.is_file()]
    seed = options.seed or time.time_ns()
    rng = random.Random(seed)
    print(
        f"{options.target}: plain mutation without coverage, {options.seconds} s, --seed {seed}", flush=True
    )
    began = reported = time.monotonic()
    runs = 0
    while (now := time.monotonic()) - began < options.seconds:
        data: bytes = mutator.mutate(rng, inputs)
        runs += 1
        error = mutator.breaks(target, data)
        if error is not None:
            data = mutator.shrink(target, data)
            path = options.corpus / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"
            path.write_bytes(data)
            print(f"after {runs} runs: {error!r}\n{data.hex()}\n{path}")
            return 1
        if now - reported >= _REPORT_S:
            reported = now
            print(f"{runs} runs, {runs / (now - began):.0f} per second", flush=True)
    print(f"{runs} runs, {runs / (time.monotonic() - began):.0f} per second, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
