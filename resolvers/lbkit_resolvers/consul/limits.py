"""py-consul's asyncio client, with limits that it does not have. Imported for the first query: it takes half a second."""

from __future__ import annotations

from typing import Any

from consul.aio import Consul, HTTPClient  # type: ignore[import-untyped]  # it has no stubs
from consul.base import Response  # type: ignore[import-untyped]  # see above

MAX_ANSWER_BYTES = 64 * 1024 * 1024  # 10 000 instances are some 15 MiB


class LimitedConsul(Consul):  # type: ignore[misc]  # see above
    """A client whose answers have a largest size, and whose requests go where they were sent, once."""

    def http_connect(self, *where: Any, **options: Any) -> LimitedHttp:
        """Make the HTTP layer. Called by the constructor."""
        options["connections_timeout"] = self.connections_timeout
        return LimitedHttp(*where, **options)


class LimitedHttp(HTTPClient):  # type: ignore[misc]  # see above
    """The layer below: all its requests are made in one method."""

    def __init__(self, *where: Any, **options: Any) -> None:
        super().__init__(*where, **options)
        if hasattr(self._session, "_retry_connection"):
            # aiohttp sends a query whose connection broke a second time, with the index of an agent that may have
            # started over: it would block there for its whole wait. There is no public way to say so.
            self._session._retry_connection = False

    async def _request(
        self,
        callback: Any,
        method: str,
        uri: str,
        headers: dict[str, str] | None,
        data: Any = None,
        connections_timeout: float | None = None,
        raw: bool = False,
    ) -> Any:
        """Ask, and read no more than an answer may have.

        Raises:
            ValueError: there is more, or it is no text.
            aiohttp.ClientError, OSError: there is no answer.
        """
        # accept-encoding: nothing is compressed, so that no small answer can become a large one. And no redirects: the
        # token is for this agent.
        async with self._session.request(
            method,
            uri,
            headers={**(headers or {}), "Accept-Encoding": "identity"},
            data=data,
            allow_redirects=False,
        ) as response:
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise ValueError(
                        f"its answer is longer than {MAX_ANSWER_BYTES >> 20} MiB; tag= asks for fewer instances"
                    )
            return callback(Response(response.status, response.headers, body.decode("utf-8")))
