"""``lbkit plugins``: what there is, and where it comes from."""

from __future__ import annotations

import inspect
from pkgutil import resolve_name
from typing import Any

import click

from lbkit.balancer import registry as balancers
from lbkit.errors import PluginError
from lbkit.plugins import Registry
from lbkit.registrar import registry as registrars
from lbkit.resolver import registry as resolvers

_WIDTH = 24


def describe(registry: Registry[Any], name: str) -> tuple[str, str]:
    """Return where a plug-in comes from, and in one line what it does, or why it cannot be used."""
    origins = registry.origins(name)
    where = " and ".join(f"{origin}, {brought}" for origin, brought in origins.items())
    try:
        registry.get(name)
    except PluginError as error:
        return where, str(error)
    plugin = resolve_name(str(next(iter(origins))))
    return where, (inspect.getdoc(plugin) or "").partition("\n")[0].replace("``", "")


@click.command
def command() -> int:
    """List resolvers (schemes of targets), balancers (policies) and registrars (schemes of --register)."""
    for registry, how in ((resolvers, "://..."), (balancers, ""), (registrars, "://...")):
        click.echo(f"{registry.kind}s")
        for name in registry:
            origin, text = describe(registry, name)
            click.echo(f"  {name + how:<{_WIDTH}}{origin}\n  {'':{_WIDTH}}{text}")
    return 0
