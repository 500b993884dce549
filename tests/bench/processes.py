"""The benchmark's child processes: pinned to a core, tied to their parent, stopped by pid."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
_CPU_CLOCK = 2  # CPUCLOCK_SCHED: all threads of a process, those that have ended too, in nanoseconds
_STOP_GRACE_S = 3.0
_READY_TIMEOUT_S = 30.0


class BrokenError(Exception):
    """A part of the benchmark did not work: a process died, hung or answered wrongly."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores that clients and servers are pinned to; the same one when the machine has only one."""

    client: int
    server: int

    @classmethod
    def choose(cls) -> Cores:
        """Take the first two cores that this process may use."""
        usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        return cls(client=usable[0], server=usable[min(1, len(usable) - 1)])

    def take_client(self) -> None:
        """Run this process on the client's core, as far as it does anything itself."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {self.client})

    def describe(self) -> str:
        """Say in one line where the processes run."""
        if not hasattr(os, "sched_setaffinity"):
            return "processes are not pinned: this system has no sched_setaffinity"
        if self.client == self.server:
            return f"one core only: clients and servers share core {self.client}, rates are lower than usual"
        return f"clients on core {self.client}, servers on core {self.server}"


class Child:
    """A Python module run as a child process that prints JSON lines on its standard output."""

    def __init__(self, module: str, arguments: Sequence[str], core: int, home: Path | None = None) -> None:
        """Start ``python -m module arguments`` pinned to ``core``; of the checkout ``home``, or of this one."""
        self.name = " ".join([module.rpartition(".")[2], *arguments[:1]])
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            cwd=home,
            env=None if home is None else {**os.environ, "PYTHONPATH": _import_path(home)},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=_preparation(core),  # noqa: PLW1509 -- this process has one thread
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def read(self, timeout: float) -> dict[str, Any]:
        """Return the next JSON line, waiting at most ``timeout`` seconds.

        Raises:
            BrokenError: The process ended, stayed silent or printed something else.
        """
        output = self._process.stdout
        assert output is not None
        if not select.select([output], [], [], timeout)[0]:
            raise BrokenError(f"{self.name}: no answer within {timeout:.0f} s; {self._last_error()}")
        line = output.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            raise BrokenError(f"{self.name}: {self._last_error()}") from None
        if not isinstance(answer, dict):
            raise BrokenError(f"{self.name}: printed {line[:80]!r} instead of a JSON object")
        return answer

    def stop(self) -> None:
        """End the process, gently first, and wait for it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _last_error(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"exit status {self._process.poll()}: {lines[-1] if lines else 'nothing on standard error'}"


@contextlib.contextmanager
def serving(
    module: str, core: int, count: int = 1, arguments: Sequence[str] = (), home: Path | None = None
) -> Iterator[list[tuple[int, int]]]:
    """Run ``count`` servers of a peer module; give the (pid, port) of each."""
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(count):
            server = Child(module, ["serve", *arguments], core, home)
            stack.callback(server.stop)
            servers.append(server)
        yield [(server.pid, int(server.read(_READY_TIMEOUT_S)["port"])) for server in servers]


def run(
    module: str, arguments: Sequence[str], core: int, timeout: float, home: Path | None = None
) -> dict[str, Any]:
    """Run a module that prints one JSON line, and return that line.

    Raises:
        BrokenError: The process failed or took longer than ``timeout`` seconds.
    """
    child = Child(module, arguments, core, home)
    try:
        return child.read(timeout)
    finally:
        child.stop()


def cpu_seconds(pids: Sequence[int]) -> float | None:
    """Return the CPU time that live processes have used, user and system; None where it cannot be known.

    By the clock that ``clock_getcpuclockid`` names. It is as exact as ``/proc/PID/task/*/schedstat``, and forgets
    no thread that has ended; ``/proc/PID/stat`` counts in steps of 10 ms.
    """
    if sys.platform != "linux":
        return None
    try:
        return sum(time.clock_gettime(~pid << 3 | _CPU_CLOCK) for pid in pids)
    except OSError:
        return None


def machine_busy_seconds() -> float | None:
    """Return the time that all cores together have worked, for whatever process; None without ``/proc``."""
    try:
        with Path("/proc/stat").open() as stat:
            user, nice, system, _idle, _wait, *interrupts = map(int, stat.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int | None:
    """Return the resident memory of a process in bytes; None without ``/proc``."""
    try:
        with Path(f"/proc/{pid}/statm").open() as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return None


def _import_path(home: Path) -> str:
    """Return where the packages of a checkout are."""
    return os.pathsep.join(str(home / folder) for folder in ("", "resolvers", "balancers"))


def _preparation(core: int) -> Callable[[], None]:
    """Return what a child does before it runs: die with its parent, keep to its core, allow many sockets."""
    parent = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None

    def prepare() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    return prepare
