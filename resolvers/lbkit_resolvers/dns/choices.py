"""Which service config a TXT record means for this client (gRFC A2). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from lbkit.errors import ResolverError, ServiceConfigError
from lbkit.service_config import parse

PREFIX = "grpc_config="
LANGUAGE = "python"


def choose(records: Sequence[str], hostname: str, draw: int) -> Mapping[str, Any] | None:
    """Return the service config of the first choice that is for this client; None if no choice is.

    Args:
        records: the TXT records of ``_grpc_config.<host>``, the strings of each put together. Those that do not begin
            with ``grpc_config=`` are somebody else's, unless all are.
        hostname: of this machine.
        draw: a random number from 1 to 100, which decides about choices for a percentage of clients.

    Raises:
        ResolverError: a choice is malformed, or the service config that it means is; says where and what.
    """
    ours = sorted(record.removeprefix(PREFIX) for record in records if record.startswith(PREFIX))
    if records and not ours:
        raise ResolverError(f"no TXT record begins with {PREFIX!r}")
    choices = [choice for text in ours for choice in _choices(text)]
    matching = [_config(choice) for choice in choices if _is_for(choice, hostname, draw)]
    if not matching:
        return None
    try:
        parse(matching[0])
    except ServiceConfigError as error:
        raise ResolverError(str(error)) from None
    return matching[0]


def _choices(text: str) -> list[Mapping[str, Any]]:
    try:
        choices = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ResolverError(f"what stands behind {PREFIX!r} is no JSON: {error}") from None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise ResolverError(f"behind {PREFIX!r} belongs a JSON list of objects with a 'serviceConfig' each")
    return cast(list[Mapping[str, Any]], choices)


def _is_for(choice: Mapping[str, Any], hostname: str, draw: int) -> bool:
    """Whether all criteria of a choice are met; one that is absent or empty is."""
    percentage = choice.get("percentage", 100)
    if type(percentage) is not int or not 0 <= percentage <= 100:
        raise ResolverError(f"'percentage' must be a whole number from 0 to 100, not {percentage!r}")
    languages, hostnames = _texts(choice, "clientLanguage"), _texts(choice, "clientHostname")
    return (
        (not languages or LANGUAGE in languages)
        and (not hostnames or hostname.lower() in hostnames)
        and draw <= percentage
    )


def _texts(choice: Mapping[str, Any], name: str) -> list[str]:
    value = choice.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ResolverError(f"{name!r} must be a list of strings, not {value!r}")
    return [each.lower() for each in cast(list[str], value)]


def _config(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    config = choice.get("serviceConfig")
    if not isinstance(config, dict):
        raise ResolverError(f"a choice needs an object as its 'serviceConfig', not {config!r}")
    return cast(Mapping[str, Any], config)
