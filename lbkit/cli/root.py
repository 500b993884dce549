"""The command's root: its subcommands are modules, imported when they are asked for, so that each starts fast."""

from __future__ import annotations

import difflib
import importlib
import platform

import click

# In the order of --help.
_COMMANDS = (
    "demo",
    "serve",
    "backend",
    "client",
    "registry",
    "resolve",
    "watch",
    "probe",
    "plugins",
)


class _Modules(click.Group):
    """Finds the subcommand ``name`` as ``command`` in the module ``lbkit.cli.name``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            if ctx.resilient_parsing or cmd_name.startswith("-"):
                return None
            near = difflib.get_close_matches(cmd_name, _COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no command {cmd_name!r}.{hint} There are: {', '.join(_COMMANDS)}")
        command: click.Command = importlib.import_module(f"lbkit.cli.{cmd_name}").command
        return command


def _version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import version

    python = platform.python_version()
    click.echo(f"lbkit {version('lbkit')}, Python {python}, protobuf {version('protobuf')}")
    ctx.exit()


@click.group(cls=_Modules, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show versions."
)
def root() -> None:
    """Service discovery and client-side load balancing for gRPC."""
