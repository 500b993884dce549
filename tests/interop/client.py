"""Run one case: ``python -m tests.interop.client --server_host=127.0.0.1 --server_port=5000 --test_case=ping_pong``.

Prints one line; the exit status is 0 if the case passed, else 1. ``--test_case=all`` runs each that the implementation
can run, one line each. With TLS: ``--use_tls=true`` and whom to trust.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
from collections.abc import Sequence

from tests.interop.flags import boolean
from tests.interop.implementations import IMPLEMENTATIONS, LOCAL, cases_of, run_case
from tests.interop.messages import Settings
from tests.interop.security import Trust, shared

ALL = "all"
SCALING = "max_concurrent_streams_connection_scaling"
LONG_LIVED_GAP_S = 1.0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags, which are the usual ones."""
    standard = Settings()
    parser = argparse.ArgumentParser(prog="python -m tests.interop.client", allow_abbrev=False)
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, default="lbkit")
    parser.add_argument("--server_host", default=LOCAL)
    parser.add_argument("--server_port", type=int, required=True)
    parser.add_argument("--test_case", required=True, help=f"a case, or {ALL!r}")
    parser.add_argument("--use_tls", type=boolean, default=False)
    parser.add_argument(
        "--use_test_ca", type=boolean, default=False, help="trust what our server shows by default"
    )
    parser.add_argument("--ca_file", help="trust this authority; by default the system's")
    parser.add_argument("--server_host_override", default="", help="the name that the certificate must have")
    parser.add_argument("--soak_iterations", type=int, default=standard.soak_iterations)
    parser.add_argument("--soak_max_failures", type=int, default=standard.soak_max_failures)
    parser.add_argument("--soak_per_iteration_max_acceptable_latency_ms", type=int, default=1000)
    parser.add_argument("--soak_min_time_ms_between_rpcs", type=int, default=0)
    parser.add_argument("--soak_overall_timeout_seconds", type=int, default=int(standard.soak_overall_s))
    parser.add_argument("--concurrency", type=int, default=standard.concurrency)
    parser.add_argument("--max_concurrent_streams", type=int, default=0, help="what the server allows")
    found = parser.parse_args(arguments)
    tls = [flag for flag in ("use_test_ca", "ca_file", "server_host_override") if getattr(found, flag)]
    if tls and not found.use_tls:
        parser.error(f"--{tls[0]} needs --use_tls=true")
    if found.use_test_ca and found.ca_file:
        parser.error("--use_test_ca=true and --ca_file exclude each other")
    if found.test_case == SCALING and not found.max_concurrent_streams:
        parser.error(f"--test_case={SCALING} needs the server's --max_concurrent_streams")
    known = cases_of(found.implementation)
    if found.test_case not in {*known, ALL}:
        parser.error(f"--test_case={found.test_case}: {found.implementation} can run {', '.join(known)}")
    return found


def settings_of(flags: argparse.Namespace, case: str) -> Settings:
    """The settings that the flags make for a case."""
    gap_s = flags.soak_min_time_ms_between_rpcs / 1e3
    return Settings(
        soak_iterations=flags.soak_iterations,
        soak_max_failures=flags.soak_max_failures,
        soak_latency_s=flags.soak_per_iteration_max_acceptable_latency_ms / 1e3,
        soak_gap_s=gap_s or (LONG_LIVED_GAP_S if case == "long_lived_channel" else 0.0),
        soak_overall_s=flags.soak_overall_timeout_seconds,
        concurrency=flags.concurrency,
        streams=flags.max_concurrent_streams,
        # Where the server does not read, it may be one that holds up its other streams as well, as grpclib's does.
        neighbours=case == "server_pushback" and flags.implementation != "grpclib",
    )


def trust_of(flags: argparse.Namespace) -> Trust | None:
    """Whom the flags say to believe; nobody for plaintext."""
    if not flags.use_tls:
        return None
    ca = shared()[1].ca if flags.use_test_ca else flags.ca_file or ssl.get_default_verify_paths().cafile or ""
    return Trust(ca, flags.server_host_override)


def chosen(flags: argparse.Namespace) -> list[str]:
    """The cases that the flags ask for."""
    if flags.test_case != ALL:
        return [flags.test_case]
    known = cases_of(flags.implementation)
    return known if flags.max_concurrent_streams else [case for case in known if case != SCALING]


async def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the flags say.

    Returns:
        The exit status.
    """
    flags = parse(arguments)
    address = f"{flags.server_host}:{flags.server_port}"
    trust = trust_of(flags)
    failed = False
    for case in chosen(flags):
        try:
            await run_case(flags.implementation, case, [address], settings_of(flags, case), trust)
        except Exception as error:
            print(f"{case}: FAILED: {type(error).__name__}: {error}".replace("\n", " "), flush=True)
            failed = True
        else:
            print(f"{case}: passed", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
