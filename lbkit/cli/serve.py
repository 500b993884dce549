"""``lbkit serve``: a program's server, in several processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

import lbkit
from lbkit.cli.amounts import not_negative
from lbkit.cli.backend import with_port
from lbkit.cli.output import show_log
from lbkit.masking import masked


@click.command
@click.argument("factory", metavar="MODULE:FUNCTION")
@click.option(
    "--bind",
    "addresses",
    multiple=True,
    default=("127.0.0.1:50051",),
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; repeatable. Port 0 takes a free one, unix:PATH a Unix socket.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="How many processes.  [default: one for each CPU]"
)
@click.option(
    "--grace",
    callback=not_negative,
    default=5.0,
    show_default=True,
    metavar="S",
    help="Seconds that calls get when a worker stops.",
)
@click.option(
    "--register",
    metavar="TARGET",
    help="The registry and the name that clients find it by, as etcd://127.0.0.1:2379/greeter.",
)
@click.option(
    "--advertise",
    default="",
    metavar="HOST[:PORT]",
    help="Where clients reach it.  [default: the first address; if that is everywhere, the address of the interface "
    "that leads to the registry]",
)
@click.option(
    "--propagation",
    callback=not_negative,
    default=2.0,
    show_default=True,
    metavar="S",
    help="Seconds that clients get to hear that it leaves, before workers drain.",
)
@click.option("--quiet", is_flag=True, help="Do not tell what happens to workers.")
def command(
    factory: str,
    addresses: tuple[str, ...],
    workers: int | None,
    grace: float,
    register: str | None,
    advertise: str,
    propagation: float,
    quiet: bool,
) -> None:
    """Serve what FUNCTION of MODULE builds, an lbkit.Server, with several processes on the same addresses.

    SIGTERM or Ctrl-C: it leaves its registry, takes no new calls, those in flight finish; a second time: at once.
    SIGHUP: workers are replaced one by one. SIGTTIN and SIGTTOU: one worker more, one less.
    """
    show_log(quiet=quiet)
    sys.path.insert(0, "")  # as python -m does; workers get the same path

    def ready(where: Sequence[str]) -> None:
        print(f"{factory} is ready on {', '.join(where)}", flush=True)

    try:
        lbkit.serve(
            factory,
            *addresses,
            workers=workers,
            grace=grace,
            ready=ready,
            register=register,
            instance=lbkit.Instance(with_port(advertise)),
            propagation=propagation,
        )
    except (ValueError, lbkit.PluginError, lbkit.RegistrationError) as error:
        raise click.UsageError(masked(str(error))) from None
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from None
    except lbkit.CrashLoopError as error:
        raise click.ClickException(str(error)) from None
    print(f"{factory} has stopped", flush=True)
