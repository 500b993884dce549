"""Programs that end with the process that started them, even if that is killed and can clean nothing up.

The kernel's own signal for that, ``PR_SET_PDEATHSIG``, comes already when the *thread* ends that started the program, and
tests restart their servers in threads. So a third process watches the two, and ends with either. The program keeps its
pid, its signals and its descriptors, and gets no child that it does not know.

Run as a script, this module becomes the program: ``python tied.py PID_OF_PARENT COMMAND ARGUMENT...``
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress


def tied(command: list[str]) -> list[str]:
    """The command that runs another as long as this process lives; where there are no pidfds, the same command.

    For ``subprocess.Popen`` and ``asyncio.create_subprocess_exec`` alike, from any thread.
    """
    if not hasattr(os, "pidfd_open"):
        return command
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def watch(parent: int, program: int) -> None:
    """Wait until one of two processes, given by their pidfds, ends; then kill the program."""
    # Whoever reads what the program says waits for its end, not for ours.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 -- starts sooner without pathlib
        if int(name) not in {parent, program}:
            with suppress(OSError):  # the listing's own
                os.close(int(name))
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    poll.register(program, select.POLLIN)
    poll.poll()
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(program, signal.SIGKILL)


def become(parent: int, command: list[str]) -> None:
    """Leave a process behind that watches, and turn into the program."""
    theirs, own = os.pidfd_open(parent), os.pidfd_open(os.getpid())
    if os.getppid() != parent:  # it ended before we got here
        sys.exit(1)
    if (starter := os.fork()) == 0:
        os.setsid()  # signals to the program's group are not for us
        if os.fork() == 0:
            watch(theirs, own)
        os._exit(0)
    os.waitpid(starter, 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and a program would go on to
        signal.signal(number, signal.SIG_DFL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
