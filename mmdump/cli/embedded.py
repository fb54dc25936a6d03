"""mmdump's command line on the kernel that is open in a drgn Program, for drgn's ``%mmdump``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mmdump.cli import cli
from mmdump.cli.attached import Attached
from mmdump.cli.session import Shared, shared_of
from mmdump.cli.uncaught import ArgumentError, FailedError, explain_uncaught
from mmdump.errors import MmdumpError, UsageError
from mmdump.render import escape

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.result import Result

__all__ = ["run_words"]

#: What the command line calls itself in its help.
NAME = "%mmdump"


def run_words(prog: Program, words: Sequence[str]) -> Result | None:
    """Run a command line; what it prints goes to :data:`sys.stdout`.

    :param words: As they would follow ``mmdump`` in a shell, but without a dump.
    :return: What the command found; None where it only printed something, such as its help.
    :raises CommandError: It failed (a :class:`FailedError`); the message is one or two sentences and a hint,
        and the cause is mmdump's own error.
    """
    # Wherever it stands, as on the command line.
    debug = "--debug" in words
    words = ["--debug"] * debug + [word for word in words if word != "--debug"]
    shared: Shared | None = None
    try:
        attached = Attached.of(prog)
        attached.result = None
        with cli.make_context(NAME, list(words or ["--help"]), obj=attached) as ctx:
            shared = shared_of(ctx)
            cli.invoke(ctx)
    except click.exceptions.Exit:
        pass  # help was asked for, or the result says itself that it is incomplete
    except click.ClickException as error:
        explain_uncaught()
        raise ArgumentError(_usage(error)) from error
    except (MmdumpError, OSError, Exception) as error:
        # drgn ends a command quietly whose output nobody reads any more.
        if isinstance(error, BrokenPipeError):
            raise
        if debug:
            traceback.print_exc()
        explain_uncaught()
        raise _explained(error) from error
    finally:
        for sentence in shared.plugin_failures() if shared is not None else ():
            print(f"mmdump: {escape(sentence)}", file=sys.stderr)  # noqa: T201
    return attached.result


def _usage(error: click.ClickException) -> str:
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"\nTry '{ctx.command_path} --help'." if ctx is not None else ""
    return f"mmdump: {escape(error.format_message())}{hint}"


def _explained(error: Exception) -> FailedError:
    if isinstance(error, MmdumpError):
        message, hint = error.message, error.hint
    elif isinstance(error, OSError):
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        hint = None
    else:
        message = f"internal error: {type(error).__name__}: {error}"
        hint = "This is a bug in mmdump: run it again with --debug and report what it prints."
    text = "\n".join(escape(each) for each in (message, hint) if each)
    if isinstance(error, UsageError):
        return ArgumentError(f"mmdump: {text}")
    return FailedError(text)
