"""The command line: commands are built from analyses, errors become sentences and exit statuses."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from mmdump import __version__
from mmdump.cli.analyses import analysis_command
from mmdump.cli.astray import command_for
from mmdump.cli.attached import OPENS_ANOTHER, on_open_kernel
from mmdump.cli.builtin import cat_command, info_command, plugins_command
from mmdump.cli.completion import complete, files, words_of_plugins
from mmdump.cli.pages import check_command, page_command
from mmdump.cli.report import report_command
from mmdump.cli.session import Shared, shared_of
from mmdump.cli.shell import shell_command
from mmdump.cli.snapshot import demo_command, snapshot_command
from mmdump.errors import ExitStatus, MmdumpError, OutputError, UsageError, is_full

__all__ = ["main"]


class _Group(click.Group):
    """The built-in commands, and one for each analysis of the plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, sorted."""
        shared = shared_of(ctx)
        names = {*super().list_commands(ctx), *shared.plugins.analyses()}
        return sorted(names if shared.attached is None else names - OPENS_ANOTHER)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A built-in command, or the one made from the analysis of that name."""
        shared = shared_of(ctx)
        command = super().get_command(ctx, name)
        if command is None:
            analysis = shared.plugins.analyses().get(name)
            command = None if analysis is None else analysis_command(analysis)
        if shared.attached is None or command is None:
            return command
        if name in OPENS_ANOTHER:
            raise UsageError(
                f"{name} makes or opens a dump of its own", f"Run it outside drgn: mmdump {name}"
            )
        return on_open_kernel(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was named; where there is none, those that may have been meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            name = args[0] if args else ""
            attached = shared_of(ctx).attached is not None
            meant = None if attached else command_for(name)
            if name == "help" and meant is None:
                about = [word for word in args[1:2] if not word.startswith("-")]
                meant = f"Help is an option: {' '.join([ctx.command_path, *about])} --help."
            close = difflib.get_close_matches(name, self.list_commands(ctx), 2)
            if meant is None and close and not name.startswith("-"):
                meant = f"Did you mean {' or '.join(close)}?"
            if meant is None:
                raise
            raise click.UsageError(f"No such command {name!r}. {meant}", ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an option that belongs before it is said to."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            own = {each: param for param in self.params for each in param.opts}
            param = own.get(error.option_name)
            if param is None or error.ctx is None or error.ctx is ctx:
                raise
            value = "" if isinstance(param, click.Option) and param.is_flag else f" {param.make_metavar(ctx)}"
            rest = error.ctx.command_path.removeprefix(ctx.command_path)
            right = f"{ctx.command_path} {error.option_name}{value}{rest}"
            raise click.UsageError(
                f"{error.option_name} goes before the command: {right} ...", error.ctx
            ) from error


def _there(ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """The files of plugins, once it is known that there are such files.

    :raises UsageError: One does not exist.
    """
    for word in given if not ctx.resilient_parsing else ():
        file = word.partition("=")[2] or word
        if not os.path.exists(file):
            raise UsageError(f"--plugin {word}: {file}: no such file.", "Name the plugin's Python file.")
    return given


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mmdump")
@click.option(
    "--plugin",
    multiple=True,
    metavar="FILE",
    is_eager=True,
    callback=_there,
    shell_complete=files,
    help="Load this plugin too; NAME=FILE gives it another name than the file's.",
)
@click.option(
    "--disable-plugin",
    multiple=True,
    metavar="NAME",
    is_eager=True,
    shell_complete=words_of_plugins(lambda plugins: [each.name for each in plugins.found]),
    help="Leave this plugin out; * leaves out all that do not come with mmdump.",
)
@click.option("--debug", is_flag=True, is_eager=True, help="Show tracebacks and drgn's log.")
@click.pass_context
def cli(ctx: click.Context, plugin: Sequence[str], disable_plugin: Sequence[str], debug: bool) -> None:  # noqa: ARG001
    """Page-level analysis of Linux memory, from a vmcore or the live kernel.

    Who owns a page, who pins it, how it is mapped: read from struct page, page_ext and the stack depot.
    """
    shared = shared_of(ctx)
    if shared.attached is not None:
        return
    if ctx.invoked_subcommand != "shell":
        # Commands for drgn's shell are not ours to load; and while they load, drgn swallows an interrupt.
        os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
    logging.basicConfig(
        level=logging.DEBUG if shared.debug else logging.CRITICAL, format="%(name)s: %(message)s"
    )


for _command in (
    info_command,
    cat_command,
    page_command,
    check_command,
    report_command,
    plugins_command,
    snapshot_command,
    demo_command,
    shell_command,
):
    cli.add_command(_command)


def _explain(error: MmdumpError) -> None:
    from mmdump.render import escape

    click.echo(f"mmdump: {escape(error.message)}", err=True)
    if error.hint:
        click.echo(escape(error.hint), err=True)


def _drop_output() -> None:
    """What is still to be written to standard output would fail again at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Wherever it stands: it is asked for by adding it to a command that failed.
    debug = "--debug" in words
    words = ["--debug"] * debug + [word for word in words if word != "--debug"]
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    shared: Shared | None = None
    try:
        with cli.make_context("mmdump", words) as ctx:
            shared = shared_of(ctx)
            status = cli.invoke(ctx)
            status = status if isinstance(status, int) else ExitStatus.DONE
    except click.exceptions.Exit as done:
        status = done.exit_code
    except click.Abort:
        click.echo("mmdump: interrupted", err=True)
        status = 128 + signal.SIGINT
    except click.ClickException as error:
        error.show()
        status = ExitStatus.USAGE
    except MmdumpError as error:
        if debug:
            traceback.print_exc()
        _explain(error)
        status = error.status
        if isinstance(error, OutputError):
            _drop_output()
    except _TerminatedError as ended:
        status = 128 + ended.number
    except KeyboardInterrupt:
        click.echo("mmdump: interrupted", err=True)
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        _drop_output()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if debug:
            traceback.print_exc()
        what = f"{error.filename}: " if error.filename else ""
        _explain(MmdumpError(f"{what}{error.strerror or error}"))
        status = ExitStatus.INTERNAL
        if is_full(error):
            status = ExitStatus.OUTPUT
            _drop_output()
    except Exception as error:
        if debug:
            traceback.print_exc()
        _explain(
            MmdumpError(
                f"internal error: {type(error).__name__}: {error}",
                "This is a bug in mmdump: run it again with --debug and report what it prints.",
            )
        )
        status = ExitStatus.INTERNAL
    for sentence in shared.plugin_failures() if shared is not None else ():
        click.echo(f"mmdump: {sentence}", err=True)
    return int(status)


class _TerminatedError(KeyboardInterrupt):
    """The process shall end: as an exception, so that nothing half-written stays behind.

    :ivar number: The signal that says so.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _terminate(number: int, frame: object) -> None:  # noqa: ARG001
    raise _TerminatedError(number)


def entry() -> None:
    """The program ``mmdump``."""
    completed = complete(cli)
    if completed is not None:
        sys.exit(completed)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup the one is ignored, and stays so.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)
    sys.exit(main())


if __name__ == "__main__":
    entry()
