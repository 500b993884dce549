"""consul: tells the agent of a running server, and says every few seconds that it still runs."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

from lbkit.errors import RegistrationError
from lbkit.registrar import Instance, Registrar
from lbkit.target import Target
from lbkit_resolvers.consul.agent import Agent
from lbkit_resolvers.consul.nodes import OWNER
from lbkit_resolvers.consul.reach import Reach
from lbkit_resolvers.consul.target import OF_REGISTRARS, public, readable, record_of

_LARGEST_WEIGHT = 65535  # that Consul takes


class ConsulRegistrar(Registrar):
    """Serves ``consul://[user:password@]host[:8500]/service?ttl=20s&deregister-after=10m&tag=a,b&format=kratos``.

    The service gets a TTL check, which is told ``pass`` every third of ``ttl``: a server that is killed is not handed out
    any more after ``ttl``, and removed after ``deregister-after``. Its ID in Consul is ``<service>-<id of the instance>``.

    Args:
        target: as text or taken apart.
        client: your own ``consul.aio.Consul`` or ``consul.Consul``; see ``ConsulResolver``.

    Raises:
        TargetError: the target makes no sense.
        ImportError: there is neither a client nor py-consul.
    """

    parameters = None  # checked here: the errors of others would show the token

    def __init__(self, target: Target | str, *, client: Any = None) -> None:
        target = readable(target, OF_REGISTRARS, "registrar")
        super().__init__(public(target))
        self._reach = Reach(target, client)
        self._timeout_s = self._reach.address.timeout_s
        self._record = record_of(target)
        self._agent: Agent | None = None
        # Tells this process's record from that of another with the same id.
        self._owner = secrets.token_hex(8)

    async def register(self, instance: Instance) -> None:
        """Put the service with its check, in place of any with the same ID, and passing from the start.

        Raises:
            AgentError: the agent did not take it.
            RegistrationError: the instance has several addresses, or none that Consul can hold.
        """
        agent = await self._connected()
        await agent.put(
            "/v1/agent/service/register",
            # Else the checks of a ghost would stay, and count.
            [("replace-existing-checks", "true")],
            json.dumps(self._service(instance)),
            timeout_s=self._timeout_s,
        )

    async def keep(self, instance: Instance) -> None:
        """Say that it is alive, every third of the TTL.

        Raises:
            AgentError: the agent did not hear it, or does not know the service any more: 404, or 500 of older agents.
        """
        agent = await self._connected()
        pause_s = self._record.ttl_s / 3
        while True:
            await asyncio.sleep(pause_s)
            await agent.put(
                f"/v1/agent/check/pass/service:{self._id(instance)}",
                timeout_s=min(self._timeout_s, pause_s),
            )

    async def deregister(self, instance: Instance) -> None:
        """Remove the service, if this process has registered it last.

        Raises:
            AgentError: the agent could not be asked; Consul removes the service after ``deregister-after``.
        """
        agent = await self._connected()
        name = self._id(instance)
        found = await agent.get(f"/v1/agent/service/{name}", timeout_s=self._timeout_s)
        if found.status == 404:
            return
        agent.check(found)
        try:
            owner = json.loads(found.body)["Meta"][OWNER]
        except (ValueError, TypeError, KeyError):  # somebody else's, who does not use lbkit
            return
        if owner == self._owner:
            await agent.put(f"/v1/agent/service/deregister/{name}", timeout_s=self._timeout_s)

    async def close(self) -> None:
        """Close the connection to the agent."""
        if self._agent is not None:
            await self._agent.close()
            self._agent = None

    async def _connected(self) -> Agent:
        if self._agent is None:
            self._agent = await self._reach.agent(self._timeout_s + 1.0)
        return self._agent

    def _id(self, instance: Instance) -> str:
        return f"{self.target.path}-{instance.id}"

    def _service(self, instance: Instance) -> dict[str, Any]:
        """Return what Consul is told.

        Raises:
            RegistrationError: Consul cannot be told so.
        """
        addresses = instance.endpoint.addresses
        host, port = addresses[0]
        if len(addresses) > 1 or port is None:
            raise RegistrationError(f"{instance!r}: Consul holds one host and port; register that")
        weight = round(instance.weight)
        if not 1 <= weight <= _LARGEST_WEIGHT:
            weight = 1 if weight < 1 else _LARGEST_WEIGHT
        meta = {**instance.metadata, OWNER: self._owner}
        if weight != instance.weight:
            meta["weight"] = f"{instance.weight:g}"
        if instance.zone:
            meta["zone"] = instance.zone
        tags = [*self._record.tags]
        service: dict[str, Any] = {
            "ID": self._id(instance),
            "Name": self.target.path,
            "Address": host,
            "Port": port,
            "Tags": tags,
            "Meta": meta,
            "Weights": {"Passing": weight, "Warning": 1},
            "Check": {
                "CheckID": f"service:{self._id(instance)}",
                "Name": "lbkit heartbeat",
                "TTL": f"{self._record.ttl_s:g}s",
                "Status": "passing",
                "DeregisterCriticalServiceAfter": f"{self._record.deregister_after_s:g}s",
            },
        }
        if self._record.kratos:
            secure = str(instance.secure).lower()
            url = f"grpc://{instance.address}?isSecure={secure}"
            tags.append(f"version={instance.metadata.get('version', '')}")
            service["TaggedAddresses"] = {"grpc": {"Address": url, "Port": port}}
        return service
