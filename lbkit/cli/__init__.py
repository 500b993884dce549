"""The ``lbkit`` command. It needs the extra ``cli``; the library does not."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments``, by default those of the process.

    Returns:
        The exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    try:
        import click

        from lbkit.cli.root import root
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print("lbkit's command needs: pip install 'lbkit[cli]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    try:
        return root.main(arguments, prog_name="lbkit", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
