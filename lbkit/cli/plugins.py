"""``lbkit plugins``: what there is, and where it comes from."""

from __future__ import annotations

import inspect
from typing import Any

import click

import lbkit.cli.hosts
from lbkit.balancer import registry as balancers
from lbkit.errors import PluginError
from lbkit.plugins import Registry
from lbkit.resolver import registry as resolvers

_WIDTH = 24


def describe(registry: Registry[Any], name: str) -> tuple[str, str]:
    """Return where a plug-in comes from, and in one line what it does, or why it cannot be used."""
    entries = registry._by_name().get(name, [])
    if entries:
        found = entries[0].dist
        origin = f"{entries[0].value}, {found.name} {found.version}" if found else entries[0].value
    else:
        origin = f"{registry._registered[name][0][0]}, in the lbkit command only"
    try:
        registry.get(name)
    except PluginError as error:
        return origin, str(error)
    plugin = entries[0].load() if entries else lbkit.cli.hosts.resolve
    return origin, (inspect.getdoc(plugin) or "").partition("\n")[0].replace("``", "")


@click.command
def command() -> int:
    """List resolvers (schemes of targets) and balancers (policies)."""
    for registry, how in ((resolvers, "://..."), (balancers, "")):
        click.echo(f"{registry.kind}s")
        for name in registry:
            origin, text = describe(registry, name)
            click.echo(f"  {name + how:<{_WIDTH}}{origin}\n  {'':{_WIDTH}}{text}")
    return 0
