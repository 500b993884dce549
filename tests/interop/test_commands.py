"""``python -m tests.interop.server`` and ``.client``, which anybody can run by hand against any other implementation."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop import client as interop_client
from tests.interop import server as interop_server
from tests.interop.implementations import IMPLEMENTATIONS
from tests.interop.security import OVERRIDE, of_this_run, shared
from tests.support.peers import ROOT, environment
from tests.support.tied import tied
from tests.support.tools import grpc_js, needed

pytestmark = pytest.mark.interop

PATIENCE_S = 30


@contextmanager
def server(implementation: str, *flags: str) -> Generator[int, None, None]:
    """Run the command; give the port that it prints."""
    if implementation == "grpc_js":
        needed(grpc_js)
    command = [sys.executable, "-m", "tests.interop.server", f"--implementation={implementation}", *flags]
    with subprocess.Popen(
        tied(command), stdout=subprocess.PIPE, env=environment(), cwd=ROOT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if said.startswith("clients need"):
                said = process.stdout.readline()
            yield int(said.rpartition(":")[2])
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def client(*flags: str) -> tuple[int, str, str]:
    """Run the command; its exit status, output and errors."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.interop.client", *flags],
        capture_output=True,
        check=False,
        env=environment(),
        cwd=ROOT,
        text=True,
        timeout=PATIENCE_S,
    )
    return found.returncode, found.stdout, found.stderr


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_commands_meet_each_other(implementation: str) -> None:
    with server(implementation) as port:
        flags = ("--server_host=127.0.0.1", f"--server_port={port}", f"--implementation={implementation}")
        assert client(*flags, "--test_case=ping_pong") == (0, "ping_pong: passed\n", "")


def test_commands_meet_each_other_with_files_of_certificates() -> None:
    identity, trust = of_this_run()
    shown = ("--use_tls=true", f"--tls_cert_file={identity.cert}", f"--tls_key_file={identity.key}")
    with server("lbkit", *shown) as port:
        flags = (
            f"--server_port={port}",
            "--use_tls=true",
            f"--ca_file={trust.ca}",
            "--test_case=empty_unary",
        )
        assert client(*flags) == (0, "empty_unary: passed\n", "")
        assert client(*flags, f"--server_host_override={OVERRIDE}") == (0, "empty_unary: passed\n", "")
        status, output, errors = client(*flags, "--server_host_override=elsewhere.example")
        assert (status, errors) == (1, "")
        assert "elsewhere.example" in output


def test_commands_meet_each_other_with_the_test_ca() -> None:
    with server("lbkit", "--use_tls=true", "--max_concurrent_streams=2") as port:
        assert client(
            f"--server_port={port}",
            "--use_tls=true",
            "--use_test_ca=true",
            "--test_case=max_concurrent_streams_connection_scaling",
            "--max_concurrent_streams=2",
        ) == (0, "max_concurrent_streams_connection_scaling: passed\n", "")


def test_test_ca_is_made_once(tmp_path: Path) -> None:
    first = shared(tmp_path)
    assert shared(tmp_path) == first
    assert [each.name for each in tmp_path.iterdir()] == [Path(first[0].cert).parent.name]


def test_case_that_fails_is_exit_status_one() -> None:
    with server("lbkit") as port:
        status, output, errors = client(
            f"--server_port={port}",
            "--test_case=rpc_soak",
            "--soak_per_iteration_max_acceptable_latency_ms=0",
        )
    assert (status, errors) == (1, "")
    assert output.startswith("rpc_soak: FAILED: CaseFailed: 200 of 200 calls failed, the first: took ")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    "flag",
    [
        "--test_case=no_such_case",
        "--use_tls=perhaps",
        "--ca_file=ca.pem",
        "--use_test_ca=true",
        "--server_host_override=elsewhere.example",
        "--test_case=max_concurrent_streams_connection_scaling",
    ],
)
def test_flag_that_cannot_be_is_refused(flag: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        interop_client.parse(["--server_port=1", "--test_case=ping_pong", flag])


@pytest.mark.parametrize(
    "flags", [["--tls_key_file=key.pem"], ["--tls_cert_file=a.pem", "--tls_key_file=a.key"]]
)
def test_flag_of_the_server_that_cannot_be_is_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        interop_server.parse(flags)


def test_all_is_every_case_that_the_flags_allow() -> None:
    flags = ["--server_port=1", "--test_case=all"]
    plain = interop_client.chosen(interop_client.parse(flags))
    limited = interop_client.chosen(interop_client.parse([*flags, "--max_concurrent_streams=3"]))
    assert set(limited) - set(plain) == {interop_client.SCALING}
