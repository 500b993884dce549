"""The life of one worker process as its supervisor sees it: a table."""

from __future__ import annotations

from typing import NamedTuple

# States
STARTING, READY, DRAINING, ENDING, GONE = range(5)
STATES = ("STARTING", "READY", "DRAINING", "ENDING", "GONE")

# Inputs: it says that it serves; its process has ended; it shall finish its calls; it has had the time for what it was
# told to do; it shall end at once.
SERVES, EXITED, RETIRE, OVERDUE, NOW = range(5)
INPUTS = ("SERVES", "EXITED", "RETIRE", "OVERDUE", "NOW")

# Actions: count it among those that serve; take note that it is gone as it should be, or that it was lost; tell it to
# drain, to end its calls now; kill it.
NOTHING, COUNT, FORGET, LOSE, DRAIN, ABORT, KILL = range(7)
ACTIONS = ("NOTHING", "COUNT", "FORGET", "LOSE", "DRAIN", "ABORT", "KILL")


class Step(NamedTuple):
    """What comes of an input.

    Attributes:
        state: the state from then on.
        action: what the supervisor does.
    """

    state: int
    action: int


_TABLE = (
    # STARTING: it imports the program and builds its server
    (
        Step(READY, COUNT),
        Step(GONE, LOSE),
        Step(DRAINING, DRAIN),  # one that serves nothing yet drains as soon as it can read that
        Step(ENDING, KILL),  # it hangs in the program's own code
        Step(ENDING, KILL),
    ),
    # READY
    (
        Step(READY, NOTHING),
        Step(GONE, LOSE),
        Step(DRAINING, DRAIN),
        Step(READY, NOTHING),
        Step(ENDING, ABORT),
    ),
    # DRAINING: it takes no new calls
    (
        Step(DRAINING, NOTHING),  # it had said so before it read the order
        Step(GONE, FORGET),
        Step(DRAINING, NOTHING),
        Step(ENDING, KILL),  # its own clock should have ended it: its event loop does not turn
        Step(ENDING, ABORT),
    ),
    # ENDING: its calls have been ended, or it was killed
    (
        Step(ENDING, NOTHING),
        Step(GONE, FORGET),
        Step(ENDING, NOTHING),
        Step(ENDING, KILL),
        Step(ENDING, KILL),
    ),
    # GONE
    (
        Step(GONE, NOTHING),
        Step(GONE, NOTHING),
        Step(GONE, NOTHING),
        Step(GONE, NOTHING),
        Step(GONE, NOTHING),
    ),
)


def step(state: int, given: int) -> Step:
    """Return what comes of an input in a state."""
    return _TABLE[state][given]
