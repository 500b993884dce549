"""One Consul agent: every client library for it, as one kind of request and one kind of answer.

What the libraries' own ``health.service`` gives has lost the headers that say how far the answer can be trusted, so this
uses their HTTP layer below it, which is the same in all of them: ``client.http.get(callback, path, params)``.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import quote_plus

from lbkit.errors import Error
from lbkit_resolvers.records import shown

Parameters = Sequence[tuple[str, str]]

_LONGEST_WAIT_S = 600.0  # what Consul takes
# Of a user's client. A query in a thread cannot be cancelled; and aiohttp sends one whose connection broke a second time,
# with the index of an agent that may have started over: it blocks there for its whole wait.
_SHORT_WAIT_S = 30.0
_SHOWN, _READ = 200, 4096  # characters of an answer in the text of an error, and those looked at for it


class AgentError(Error):
    """The agent did not answer, or not as it should; the text says why.

    Attributes:
        status: the HTTP status, or 0 if there was none.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Answer(NamedTuple):
    """What came back.

    Attributes:
        status: of HTTP.
        headers: by name, in lower case.
        body: as text.
    """

    status: int
    headers: Mapping[str, str]
    body: str


class Agent(ABC):
    """One agent, through one client.

    Args:
        client: of py-consul or python-consul.
        token: for Consul's ACL, in place of the client's own.
        headers: to send along.
        secrets: never to be shown.

    Attributes:
        where: its address, for people.
        longest_wait_s: how long a blocking query may block.
    """

    longest_wait_s = _LONGEST_WAIT_S

    def __init__(
        self,
        client: Any,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        self.where = str(getattr(client.http, "base_uri", "consul")).partition("//")[2] or "consul"
        self._client = client
        token = token or str(getattr(client, "token", None) or "")
        # As they are, and as they stand in an address.
        self._secrets = [
            form for secret in (*secrets, token) if secret for form in (secret, quote_plus(secret))
        ]
        self._headers: dict[str, str] | None = None
        self._parameters: list[tuple[str, str]] = []
        if hasattr(client, "prepare_headers"):
            self._headers = {**(headers or {}), **client.prepare_headers(token or None)}
        elif token:  # python-consul, which sends it so
            self._parameters = [("token", token)]

    async def get(self, path: str, parameters: Parameters = (), *, timeout_s: float) -> Answer:
        """Ask for something.

        Raises:
            AgentError: no answer within ``timeout_s`` seconds, or none that can be read.
        """
        return await self._request("get", path, parameters, {}, timeout_s)

    async def put(
        self, path: str, parameters: Parameters = (), data: str = "", *, timeout_s: float
    ) -> Answer:
        """Change something.

        Raises:
            AgentError: no answer within ``timeout_s`` seconds, one that cannot be read, or a status other than 200.
        """
        answer = await self._request("put", path, parameters, {"data": data}, timeout_s)
        self.check(answer)
        return answer

    def check(self, answer: Answer) -> None:
        """See that the answer is one.

        Raises:
            AgentError: its status is not 200; says what the agent said.
        """
        if answer.status != 200:
            said = shown(self._hidden(answer.body[:_READ].strip()), _SHOWN)
            cure = "; the token may not do that" if answer.status in {401, 403} else ""
            raise AgentError(f"consul {self.where} says {answer.status}: {said}{cure}", answer.status)

    @abstractmethod
    async def close(self) -> None:
        """Close what belongs to this object alone."""

    @abstractmethod
    async def _ask(self, request: Callable[[], Any], timeout_s: float) -> Any:
        """Have the client ask, and return its response."""

    async def _request(
        self, verb: str, path: str, parameters: Parameters, more: dict[str, str], timeout_s: float
    ) -> Answer:
        options: dict[str, Any] = dict(more)
        if self._headers is not None:
            options["headers"] = self._headers
        send = getattr(self._client.http, verb)

        def request() -> Any:
            return send(_whole, path, params=[*parameters, *self._parameters], **options)

        try:
            async with asyncio.timeout(timeout_s):
                response = await self._ask(request, timeout_s)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(int(response.code), headers, str(response.body))
        except TimeoutError:
            problem = f"said nothing for {timeout_s:.3g} s"
        except Exception as error:  # whatever a client raises; its text may hold the address with the token
            problem = f"cannot be asked: {shown(self._hidden(str(error)), _SHOWN) or type(error).__name__}"
        # Out here, so that the client's exception is no context of this one: it holds the token, and the connection.
        raise AgentError(f"consul {self.where} {problem}")

    def _hidden(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class AsyncAgent(Agent):
    """Through an asyncio client, ``consul.aio.Consul``.

    Args:
        client: the client.
        token, headers, secrets: see ``Agent``.
        owned: close the client in the end.
    """

    def __init__(
        self,
        client: Any,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        *,
        owned: bool = False,
    ) -> None:
        super().__init__(client, token, headers, secrets)
        self._owned = owned
        if not owned:
            total_s = getattr(client, "connections_timeout", None) or _LONGEST_WAIT_S
            self.longest_wait_s = max(0.1, min(_SHORT_WAIT_S, total_s * 0.8))

    async def close(self) -> None:
        """Close the client, if nobody else has it."""
        if self._owned:
            await self._client.http.close()

    async def _ask(self, request: Callable[[], Any], timeout_s: float) -> Any:
        return await request()


class ThreadAgent(Agent):
    """Through a blocking client, ``consul.Consul``, in one daemon thread.

    A request that has begun cannot be cancelled there: queries are short, and the thread ends with its last one.
    """

    longest_wait_s = _SHORT_WAIT_S

    def __init__(self, client: Any, token: str = "") -> None:
        super().__init__(client, token)
        limit_requests(client)
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def close(self) -> None:
        """Let the thread end when it is done."""
        if self._thread is not None:
            self._jobs.put(None)

    async def _ask(self, request: Callable[[], Any], timeout_s: float) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)

        def job() -> None:
            if future.cancelled():
                return
            _limits.seconds = timeout_s
            value, problem = None, None
            try:
                value = request()
            except Exception as error:  # raised where it is waited for
                problem = error
            with suppress(RuntimeError):  # a loop that was closed meanwhile
                loop.call_soon_threadsafe(settle, value, problem)

        if self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._jobs,), name="lbkit-consul", daemon=True
            )
            self._thread.start()
        self._jobs.put(job)
        return await future


class _Limits(threading.local):
    """How long the requests of this thread may be silent; None where others decide."""

    seconds: float | None = None


_limits = _Limits()


class _Limited:
    """Stands before an adapter of ``requests``: python-consul asks without any time-out."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def send(self, request: Any, **options: Any) -> Any:
        options["timeout"] = options.get("timeout") or _limits.seconds
        return self._adapter.send(request, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


def limit_requests(client: Any) -> None:
    """See that no request of our thread waits for ever. What other threads ask through this client stays as it is."""
    adapters = getattr(getattr(client.http, "session", None), "adapters", None)
    if isinstance(adapters, dict):
        for prefix, adapter in list(adapters.items()):
            if not isinstance(adapter, _Limited):
                adapters[prefix] = _Limited(adapter)


def _work(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()


def _whole(response: Any) -> Any:
    """The callback of the libraries: nothing is thrown away, and no status raises."""
    return response
