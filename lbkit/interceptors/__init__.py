"""Interceptors for what nearly every service needs. Import what you use: ``from lbkit import interceptors``."""

from lbkit.interceptors.bearer import BearerAuthentication, identity, known_tokens
from lbkit.interceptors.errors import ErrorMapping
from lbkit.interceptors.logs import ClientLogging, ServerLogging
from lbkit.interceptors.timing import ClientTiming, ServerTiming, Timing

__all__ = [
    "BearerAuthentication",
    "ClientLogging",
    "ClientTiming",
    "ErrorMapping",
    "ServerLogging",
    "ServerTiming",
    "Timing",
    "identity",
    "known_tokens",
]
