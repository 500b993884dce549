"""The code blocks of the page for authors of policies run, and what they register works."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lbkit.address import Endpoint
from lbkit.metadata import EMPTY
from lbkit.picking import Outcome, Picked
from lbkit.status import Status, StatusCode
from tests.support.fakes import READY, FakeController, resolution

PAGE = (Path(__file__).resolve().parents[2] / "docs/write-a-balancer.md").read_text()


@pytest.fixture
def restored() -> Iterator[None]:
    """Forget the policies that the page registers."""
    registry = sys.modules["lbkit.balancer"].registry
    before = dict(registry._registered)
    yield
    registry._registered = before


@pytest.mark.usefixtures("restored")
def test_blocks_of_the_page_run() -> None:
    names: dict[str, Any] = {"__name__": "block_of_the_page"}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(code, "write-a-balancer.md", "exec", dont_inherit=True), names)
    controller = FakeController()
    policy = names["LeastFailingBalancer"](controller, {"choiceCount": 10})
    policy.update(resolution(Endpoint("a:1"), Endpoint("b:1")))
    controller.turn(policy)
    for subchannel in controller.subchannels:
        subchannel.become(READY)
    controller.turn(policy)
    first = controller.pick()
    assert isinstance(first, Picked)
    assert first.on_done is not None
    first.on_done(Outcome(Status(StatusCode.UNAVAILABLE), EMPTY))
    second = controller.pick()
    assert isinstance(second, Picked)
    assert second.subchannel is not first.subchannel


def test_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 150
