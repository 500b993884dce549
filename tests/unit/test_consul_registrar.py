"""What the consul registrar tells the agent, and when; in virtual time, without an agent."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

import pytest

import lbkit
from lbkit.testing import virtual_time
from lbkit_resolvers.consul import ConsulRegistrar
from lbkit_resolvers.consul.agent import AgentError


class Response(NamedTuple):
    """What py-consul hands to its callbacks."""

    code: int
    headers: dict[str, str]
    body: str


class Client:
    """A user's client, which notes what it is asked to put, and at what time."""

    base_uri = "http://agent:8500"

    def __init__(self) -> None:
        self.http = self
        self.status = 200
        self.silent = False
        self.told: list[tuple[float, str, dict[str, str], str]] = []

    async def get(self, callback: Any, path: str, params: Any) -> Any:
        raise AssertionError("nothing is asked for")

    async def put(self, callback: Any, path: str, params: Any, data: str) -> Any:
        now = round(asyncio.get_running_loop().time(), 3)
        self.told.append((now, path, dict(params), data))
        if self.silent:
            await asyncio.Event().wait()
        return callback(Response(self.status, {}, "as the test wants it"))


@virtual_time
async def test_record_has_the_check_and_all_of_the_instance() -> None:
    client = Client()
    target = "consul:///greeter?ttl=9s&deregister-after=2m&tag=a,b"
    registrar = ConsulRegistrar(target, client=client)
    instance = lbkit.Instance("[::1]:80", id="one", weight=3, zone="eu", metadata={"version": "7"})
    await registrar.register(instance)
    ((_, path, parameters, data),) = client.told
    assert (path, parameters) == ("/v1/agent/service/register", {"replace-existing-checks": "true"})
    record = json.loads(data)
    assert len(record["Meta"].pop("lbkit-owner")) == 16
    assert record == {
        "ID": "greeter-one",
        "Name": "greeter",
        "Address": "::1",
        "Port": 80,
        "Tags": ["a", "b"],
        "Meta": {"version": "7", "zone": "eu"},
        "Weights": {"Passing": 3, "Warning": 1},
        "Check": {
            "CheckID": "service:greeter-one",
            "Name": "lbkit heartbeat",
            "TTL": "9s",
            "Status": "passing",
            "DeregisterCriticalServiceAfter": "120s",
        },
    }


@virtual_time
async def test_heartbeat_comes_every_third_of_the_ttl() -> None:
    client = Client()
    registrar = ConsulRegistrar("consul:///greeter?ttl=9s", client=client)
    keeping = asyncio.create_task(registrar.keep(lbkit.Instance("10.0.0.1:80", id="one")))
    await asyncio.sleep(10)
    assert [told[:2] for told in client.told] == [
        (now, "/v1/agent/check/pass/service:greeter-one") for now in (3, 6, 9)
    ]
    client.status = 404  # it has forgotten the service
    with pytest.raises(AgentError, match="consul agent:8500 says 404: as the test wants it"):
        await keeping


@virtual_time
async def test_heartbeat_without_an_answer_fails_before_the_ttl_is_over() -> None:
    client = Client()
    client.silent = True
    registrar = ConsulRegistrar("consul:///greeter?ttl=9s", client=client)
    with pytest.raises(AgentError, match="said nothing for 3 s"):
        await registrar.keep(lbkit.Instance("10.0.0.1:80"))
    assert asyncio.get_running_loop().time() == pytest.approx(6.0)
