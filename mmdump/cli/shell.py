"""``mmdump shell``: drgn's own interactive mode, with the kernel open and mmdump at hand."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from mmdump import __version__
from mmdump.cli.attached import Attached
from mmdump.cli.session import opened_target, target_options
from mmdump.errors import ExitStatus, MmdumpError

if TYPE_CHECKING:
    from mmdump.target import Target

__all__ = ["shell_command"]


@click.command("shell", short_help="drgn's shell, with mmdump's commands and helpers")
@target_options
@click.pass_context
def shell_command(ctx: click.Context, /, quiet: bool, **given: Any) -> None:
    """Open a dump in drgn's shell.

    There, %mmdump COMMAND runs a command on it, and mmdump's helpers for single pages are imported. When
    standard input is no terminal, what it says is executed as a script.
    """
    import drgn

    from mmdump.drgn_plugin import register

    register()  # also where drgn's plugins are switched off
    with opened_target(**given) as target:
        Attached(target).remember()
        if sys.stdin is not None and sys.stdin.isatty():
            from drgn.cli import run_interactive

            banner = "" if quiet else _banner(target)
            run_interactive(target.prog, lambda _default: banner, _with_helpers)
        else:
            drgn.set_default_prog(target.prog)
            ctx.exit(_execute(target))


def _with_helpers(names: dict[str, Any]) -> dict[str, Any]:
    from drgn.commands import run_command

    from mmdump import helpers

    return names | {name: getattr(helpers, name) for name in helpers.__all__} | {"run_command": run_command}


def _banner(target: Target) -> str:
    import drgn

    from mmdump import helpers

    return (
        f"mmdump {__version__}, drgn {drgn.__version__}: {target.name}, {target.describe()}\n"
        "%mmdump --help lists commands, such as %mmdump pinned; help(drgn) is drgn's.\n"
        ">>> from drgn.helpers.common import *; from drgn.helpers.linux import *\n"
        ">>> from drgn.commands import run_command  # run_command(prog, 'mmdump pinned') returns its tables\n"
        f">>> from mmdump.helpers import {', '.join(helpers.__all__)}"
    )


def _execute(target: Target) -> int:
    """Run standard input as a script; what it raises is its author's to see. Returns the exit status.

    Of a command of mmdump's that failed there are sentences to see, not where in mmdump it did.
    """
    from drgn.cli import default_globals

    from mmdump.cli.uncaught import ArgumentError, FailedError, told

    names = _with_helpers(default_globals(target.prog)) | {"__file__": "<stdin>"}
    try:
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), names)  # noqa: S102 - the user's own
    except FailedError as error:
        click.echo(told(error), err=True)
        if isinstance(error, ArgumentError):
            return ExitStatus.USAGE
        return error.__cause__.status if isinstance(error.__cause__, MmdumpError) else ExitStatus.INTERNAL
    except Exception as error:
        # The first frame is this one.
        traceback.print_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        return ExitStatus.INTERNAL
    return ExitStatus.DONE
