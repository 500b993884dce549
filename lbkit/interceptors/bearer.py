"""Authentication of clients by a bearer token (RFC 6750): who calls, or UNAUTHENTICATED."""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from lbkit.service import ServerInterceptor, ServicerContext
from lbkit.service.interceptor import Proceed
from lbkit.status import StatusCode

Check: TypeAlias = Callable[[str], Any | Awaitable[Any]]

_identity: ContextVar[Any] = ContextVar("lbkit.identity", default=None)

_CHALLENGE = (("www-authenticate", "Bearer"),)  # RFC 6750 3


def identity() -> Any:
    """Return what the check of ``BearerAuthentication`` found out about who made the call being served; or None."""
    return _identity.get()


class BearerAuthentication(ServerInterceptor):
    """Lets calls through that come with ``authorization: Bearer <token>`` and a token that a function accepts.

    Args:
        check: is given the token; returns who that is, or None to refuse the call. May be a coroutine function; a plain
            one must not block. What it raises ends the call with UNKNOWN, and is logged.
        exempt: methods that need no token, as ``/package.Service/Method``, or ``/package.Service/`` for all of a
            service's.
    """

    def __init__(self, check: Check, *, exempt: Collection[str] = ()) -> None:
        self._check = check
        self._exempt = frozenset(exempt)

    async def intercept(self, proceed: Proceed, request: Any, context: ServicerContext) -> Any:
        """Ask the check, unless the method is exempt."""
        method = context.method
        if method in self._exempt or method[: method.rfind("/") + 1] in self._exempt:
            return await proceed(request, context)
        token = _token_of(context)
        if not token:
            text = "the call needs metadata 'authorization: Bearer <token>', once"
            await context.abort(StatusCode.UNAUTHENTICATED, text, _CHALLENGE)
        found = self._check(token)
        if inspect.isawaitable(found):
            found = await found
        if found is None:
            await context.abort(StatusCode.UNAUTHENTICATED, "the bearer token is not accepted", _CHALLENGE)
        _identity.set(found)
        return await proceed(request, context)


def known_tokens(tokens: Mapping[str, Any]) -> Check:
    """Make a check of tokens that are known beforehand, and whose they are.

    Each is compared in constant time, and always all of them: how long it takes tells nothing about them.
    """
    known = [(token.encode(), owner) for token, owner in tokens.items()]

    def check(token: str) -> Any:
        given, found = token.encode(), None
        for expected, owner in known:
            if hmac.compare_digest(given, expected):
                found = owner
        return found

    return check


def _token_of(context: ServicerContext) -> str:
    """Return the token that came with a call; empty if there is none, or more than one."""
    values = context.invocation_metadata().get_all("authorization")
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    scheme, _, token = values[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""  # RFC 9110 11.1: in any case
