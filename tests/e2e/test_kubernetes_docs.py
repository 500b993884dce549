"""The code of docs/kubernetes.md runs, and what it says about targets, parameters and times is what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

import lbkit
from lbkit.resolver import make_resolver
from lbkit_resolvers.kubernetes import KubernetesResolver, Timing
from lbkit_resolvers.kubernetes.failures import RULE, SLOW_S
from tests.support.servers import PATIENCE_S, Item, serving, unary

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/kubernetes.md").read_text()


async def test_block_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/kubernetes.md", "exec", dont_inherit=True), names)

    async def call(channel: lbkit.Channel) -> None:
        await unary(channel)(Item(), timeout=PATIENCE_S)

    async with serving() as backend:
        await names["test_a_call_survives_the_api_server"](call, backend.address)


def test_every_form_of_the_page_is_good() -> None:
    (block,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    forms = re.findall(r"kubernetes://\S+", block)
    assert len(forms) == 4
    for form in forms:
        whole = make_resolver(form.replace("[", "").replace("]", "").replace(":port", ":50051"))
        bare = make_resolver(re.sub(r"\[.*?\]", "", form))
        assert isinstance(whole, KubernetesResolver)
        assert isinstance(bare, KubernetesResolver)


def test_table_names_every_parameter() -> None:
    assert {*re.findall(r"^\| `([a-z]+)=\S+` \|", PAGE, re.MULTILINE)} == KubernetesResolver.parameters
    assert make_resolver("k8s:///a?resync=30m")._resync_s == make_resolver("k8s:///a")._resync_s  # type: ignore[attr-defined]


def test_role_of_the_page_is_the_one_that_the_error_asks_for() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    role, binding = yaml.safe_load_all(block)
    asked = yaml.safe_load(re.findall(r"\{\{.*?\}\}", RULE)[0].replace("{{", "{").replace("}}", "}"))
    assert role["rules"] == [asked]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_times_are_those_of_the_code() -> None:
    assert Timing() == Timing(request_s=30.0, watch_s=300.0, slack_s=10.0, good_s=1.0, slow_s=SLOW_S)
    assert SLOW_S == 30.0
    policy = KubernetesResolver.backoff
    assert (policy.initial_s, policy.maximum_s) == (1.0, 30.0)


def test_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 120
