"""How long a fresh interpreter takes to import each package."""

from __future__ import annotations

import importlib.util
import subprocess
from os import environ
from statistics import median
from sys import executable

# What is imported, and then touched: a package that loads its parts on first use gains nothing by it here.
MODULES = {
    "lbkit": "lbkit; lbkit.Channel, lbkit.Server",
    "grpc": "grpc",
    "grpc.aio": "grpc.aio; grpc.aio.insecure_channel, grpc.aio.server",
    "grpclib": "grpclib.client, grpclib.server",
}
_PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def measure(runs: int) -> tuple[dict[str, float], list[str]]:
    """Return the median import time of each installed module in milliseconds, and the imports that fail.

    The modules alternate.
    """
    failures: dict[str, str] = {}
    # As pip leaves an installed package: compiled. A checkout's modules would be compiled anew each time.
    environment = {name: value for name, value in environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times: dict[str, list[float]] = {
        name: [] for name in MODULES if importlib.util.find_spec(name.partition(".")[0])
    }
    for turn in range(runs + 1):
        for name, values in times.items():
            program = [executable, "-c", _PROGRAM.format(MODULES[name])]
            done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                failures[name] = f"import {name}: {done.stderr.strip().splitlines()[-1:]}"
            elif turn:  # the first turn only fills the caches of the disk and of compiled files
                values.append(float(done.stdout) * 1e3)
    medians = {name: median(values) for name, values in times.items() if values}
    return medians, list(failures.values())
