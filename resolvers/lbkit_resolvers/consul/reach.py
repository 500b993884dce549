"""Where the agent of a target is, and whose client asks it."""

from __future__ import annotations

import asyncio
import inspect
import sys
import warnings
from base64 import b64encode
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lbkit.target import Target
from lbkit_resolvers.consul.agent import Agent, AgentError, AsyncAgent, ThreadAgent
from lbkit_resolvers.consul.target import AgentAddress, agent_address


class Reach:
    """The way to an agent, for the resolver and the registrar of a target.

    Args:
        target: what ``readable`` gave.
        client: the user's, or None.

    Attributes:
        address: what the target says about the agent.

    Raises:
        TargetError: the target makes no sense.
        ImportError: there is neither a client nor py-consul.
    """

    def __init__(self, target: Target, client: Any) -> None:
        self.address = agent_address(target, own_client=client is not None)
        self._client = client
        if client is None:
            check_installed()

    async def agent(self, longest_s: float) -> Agent:
        """Return the agent; close it in the end.

        Args:
            longest_s: that a request may take, with a client of our own.

        Raises:
            ImportError: what is installed as ``consul`` has no asyncio client.
            AgentError: the files of certificates cannot be read.
        """
        if self._client is not None:
            return agent_of_client(self._client, self.address.token)
        return await agent_at(self.address, longest_s)


def check_installed() -> None:
    """See that py-consul's asyncio client can be there.

    Raises:
        ImportError: it is not; says what to install.
    """
    if find_spec("consul") is None or find_spec("aiohttp") is None:
        raise ImportError("consul: targets need py-consul and aiohttp: pip install 'lbkit[consul]'")


def agent_of_client(client: Any, token: str) -> Agent:
    """Use a user's client, whichever of the three kinds it is."""
    aio = sys.modules.get("consul.aio")
    if (aio is not None and isinstance(client, aio.Consul)) or inspect.iscoroutinefunction(client.http.get):
        return AsyncAgent(client, token)
    return ThreadAgent(client, token)


async def agent_at(address: AgentAddress, longest_s: float) -> Agent:
    """Make a client for an agent.

    Args:
        address: where and how.
        longest_s: that a request may take.

    Raises:
        ImportError: what is installed as ``consul`` has no asyncio client.
        AgentError: the files of certificates cannot be read.
    """
    try:
        limits = await asyncio.to_thread(import_module, "lbkit_resolvers.consul.limits")
    except (ImportError, AttributeError) as error:  # python-consul's asks for asyncio.coroutine
        raise ImportError(
            f"the installed consul package has no asyncio client ({error}): pip install 'lbkit[consul]'"
        ) from None
    headers: dict[str, str] = {}
    if address.user:
        login = b64encode(f"{address.user}:{address.password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # py-consul's way to say this to aiohttp
            client = limits.LimitedConsul(
                address.host,
                address.port,
                scheme="https" if address.tls else "http",
                # True reads the system's authorities at once.
                verify=address.verify if address.tls else False,
                cert=address.cert,
                connections_timeout=longest_s,
            )
    except OSError as error:
        raise AgentError(f"the certificates for consul {address.host}: {error}") from None
    return AsyncAgent(client, address.token, headers, (address.password,), owned=True)
