"""What resolvers say, for people and for programs to read: one answer, and what it changes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lbkit.address import Endpoint
from lbkit.errors import ServiceConfigError
from lbkit.resolution import Resolution
from lbkit.service_config import parse

_UNSAID = {"weight": "1", "draining": "no"}  # what is so if an endpoint says nothing of it


class Difference(NamedTuple):
    """What an answer changes.

    Attributes:
        added: endpoints that were not there.
        removed: endpoints that are not there any more.
        changed: the same backends with something else known about them, each as it was and as it is.
        others: what else is not as it was: ``service config``, ``attributes``, ``call selector``.
    """

    added: Sequence[Endpoint]
    removed: Sequence[Endpoint]
    changed: Sequence[tuple[Endpoint, Endpoint]]
    others: Sequence[str]


def difference(before: Resolution, after: Resolution) -> Difference:
    """Compare two answers, by what connections are made to."""
    old = {endpoint.identity: endpoint for endpoint in reversed(before.endpoints)}  # of two the first counts
    new = {endpoint.identity: endpoint for endpoint in reversed(after.endpoints)}
    others = {
        "service config": before.service_config == after.service_config,
        "attributes": before.attributes == after.attributes,
        "call selector": before.selector == after.selector,
    }
    return Difference(
        [new[identity] for identity in reversed(new) if identity not in old],
        [old[identity] for identity in reversed(old) if identity not in new],
        [
            (old[identity], new[identity])
            for identity in reversed(new)
            if identity in old and old[identity] != new[identity]
        ],
        [name for name, same in others.items() if not same],
    )


def heading(resolution: Resolution) -> str:
    """Return how many endpoints there are, and where that comes from."""
    count = len(resolution.endpoints)
    source = f", from {clean(resolution.source)}" if resolution.source else ""
    return f"{count} endpoint{'' if count == 1 else 's'}{source}"


def listed(endpoint: Endpoint) -> str:
    """Return an endpoint in one line: its addresses, and what is known about it."""
    known = [f"{name} {value}" for name, value in _attributes(endpoint).items()]
    known += [f"{clean(name)}={clean(value)}" for name, value in sorted(endpoint.metadata.items())]
    return "  ".join((clean(str(endpoint)), *known)).replace("draining yes", "draining")


def changes(before: Endpoint, after: Endpoint) -> str:
    """Return in one line what has changed about a backend."""
    old, new = (
        {"addresses": clean(str(endpoint)), **_attributes(endpoint)}
        | {clean(name): clean(value) for name, value in sorted(endpoint.metadata.items())}
        for endpoint in (before, after)
    )
    parts = [clean(str(after))]
    for name in {**old, **new}:
        was, is_ = (known.get(name, _UNSAID.get(name, "none")) for known in (old, new))
        if was != is_:
            parts.append(f"{name} {was} -> {is_}")
    return "  ".join(parts)


def difference_lines(change: Difference, resolution: Resolution) -> list[str]:
    """Return what has changed: the first line in short, then one for each endpoint."""
    counts = {"added": change.added, "removed": change.removed, "changed": change.changed}
    short = [f"{len(them)} {what}" for what, them in counts.items() if them]
    short += [f"another {what}" if what != "attributes" else "other attributes" for what in change.others]
    return [
        f"{', '.join(short)}; {heading(resolution)}",
        *(f"+ {listed(endpoint)}" for endpoint in change.added),
        *(f"- {listed(endpoint)}" for endpoint in change.removed),
        *(f"~ {changes(*pair)}" for pair in change.changed),
        *(other_lines(resolution) if change.others else ()),
    ]


def other_lines(resolution: Resolution) -> list[str]:
    """Return what is not about one endpoint: nothing, for most answers."""
    lines = [f"attribute {clean(name)}: {clean(str(value))}" for name, value in resolution.attributes.items()]
    if resolution.selector is not None:
        lines.append(f"call selector: {type(resolution.selector).__name__}")
    if resolution.service_config is not None:
        lines.append(f"service config: {_config_text(resolution.service_config)}")
        if problem := refused(resolution):
            lines.append(f"which channels refuse: {problem}")
    return lines


def refused(resolution: Resolution) -> str:
    """Return why channels do not take the service config; empty if they do, or there is none."""
    if resolution.service_config is None:
        return ""
    try:
        parse(resolution.service_config)
    except ServiceConfigError as error:
        return str(error)
    return ""


def as_json(resolution: Resolution) -> dict[str, Any]:
    """Return a whole answer as what JSON can hold."""
    fields: dict[str, Any] = {
        "source": resolution.source,
        "endpoints": [endpoint_json(endpoint) for endpoint in resolution.endpoints],
    }
    if resolution.attributes:
        fields["attributes"] = {name: str(value) for name, value in resolution.attributes.items()}
    if resolution.service_config is not None:
        fields["service_config"] = _config_json(resolution.service_config)
        if problem := refused(resolution):
            fields["service_config_error"] = problem
    return fields


def difference_json(change: Difference, resolution: Resolution) -> dict[str, Any]:
    """Return what has changed as what JSON can hold; the whole of what stands beside the endpoints."""
    fields = as_json(resolution)
    del fields["endpoints"]
    return {
        "endpoints": len(resolution.endpoints),
        "added": [endpoint_json(endpoint) for endpoint in change.added],
        "removed": [endpoint_json(endpoint) for endpoint in change.removed],
        "changed": [
            {"before": endpoint_json(before), "after": endpoint_json(after)}
            for before, after in change.changed
        ],
        **fields,
    }


def endpoint_json(endpoint: Endpoint) -> dict[str, Any]:
    """Return an endpoint as what JSON can hold."""
    return {
        "addresses": [str(address) for address in endpoint.addresses],
        "weight": endpoint.weight,
        "zone": endpoint.zone,
        "hash_key": endpoint.hash_key,
        "draining": endpoint.draining,
        "metadata": dict(endpoint.metadata),
    }


def clean(text: str) -> str:
    """Return a stranger's text as it may stand on a terminal: quoted where it would not be plain."""
    return text if text.isprintable() and text.strip() == text != "" else repr(text)


def _attributes(endpoint: Endpoint) -> dict[str, str]:
    """Return what an endpoint says of itself, but for its metadata."""
    found: dict[str, str] = {}
    if endpoint.weight != 1:
        found["weight"] = f"{endpoint.weight:g}"
    if endpoint.zone:
        found["zone"] = clean(endpoint.zone)
    if endpoint.hash_key:
        found["hash key"] = clean(endpoint.hash_key)
    if endpoint.draining:
        found["draining"] = "yes"
    return found


def _config_json(config: str | Mapping[str, Any]) -> Any:
    if isinstance(config, str):
        try:
            return json.loads(config)
        except ValueError:
            return config
    return json.loads(json.dumps(config, default=_plain))


def _config_text(config: str | Mapping[str, Any]) -> str:
    value = _config_json(config)
    return clean(value) if isinstance(value, str) else json.dumps(value)


def _plain(value: object) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
