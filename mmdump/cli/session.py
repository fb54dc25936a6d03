"""What all commands share: their options, the plugins, the opened dump, the renderer, the progress bar."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from mmdump.cli.attached import Attached
from mmdump.cli.completion import columns, files, tables, words_of_plugins
from mmdump.errors import ExitStatus, IncompleteError, UsageError

if TYPE_CHECKING:
    from mmdump.cli.keeper import Keeper
    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins
    from mmdump.render import Renderer
    from mmdump.result import Result, RowSink, Schema
    from mmdump.scan import Progress
    from mmdump.target import Target

__all__ = [
    "Shared",
    "opened",
    "opened_target",
    "output_options",
    "progress_bar",
    "rendering",
    "run",
    "shared_of",
    "target_options",
]


class Shared:
    """What all commands share: the plugins, loaded when first needed.

    :param attached: The kernel that is open already, where commands are given in drgn's shell.
    """

    def __init__(
        self, files: Sequence[str], disabled: Sequence[str], debug: bool, attached: Attached | None = None
    ) -> None:
        self.files = files
        self.disabled = disabled
        self.debug = debug
        self.attached = attached
        self._plugins: Plugins | None = None

    @property
    def plugins(self) -> Plugins:
        """All plugins."""
        if self._plugins is None:
            from mmdump.plugins import load_plugins

            load = load_plugins if self.attached is None else self.attached.plugins
            self._plugins = load(self.files, self.disabled)
        return self._plugins

    def plugin_failures(self) -> list[str]:
        """One sentence for each plugin that failed so far."""
        if self._plugins is None:
            return []
        return [f"plugin {each.name} ({each.source}) failed: {each.error}" for each in self._plugins.failed]


def shared_of(ctx: click.Context) -> Shared:
    """What the command shares with the others."""
    if not isinstance(ctx.obj, Shared):
        # Group options are parsed before commands are looked up, but their callback runs after.
        ctx.obj = Shared(
            ctx.params.get("plugin") or (),
            ctx.params.get("disable_plugin") or (),
            bool(ctx.params.get("debug")),
            ctx.obj if isinstance(ctx.obj, Attached) else None,
        )
    return ctx.obj


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that opens a dump."""
    for decorate in (
        click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
        click.option(
            "--force-symbols",
            is_flag=True,
            help="Use the debug info given with -s although it is another kernel's: by its build ID or, "
            "where the dump has none (before 5.9), by its release, symbols and structures.",
        ),
        click.option("--live", is_flag=True, help="Analyse the running kernel, by /proc/kcore."),
        click.option(
            "-s",
            "--symbols",
            multiple=True,
            metavar="PATH",
            shell_complete=files,
            help="The kernel's debug info (vmlinux), or a directory to look in. Otherwise it is looked for "
            "beside the dump, in the standard places by build ID, and with debuginfod where that is set up.",
        ),
        click.argument("vmcore", required=False, shell_complete=files),
    ):
        command = decorate(command)
    return command


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that shows a result."""
    for decorate in (
        click.option(
            "--limit", type=click.IntRange(min=0), metavar="N", help="Show at most N rows; 0 is all."
        ),
        click.option(
            "--columns", metavar="NAMES", shell_complete=columns, help="Columns to show, separated by commas."
        ),
        click.option(
            "--sort",
            metavar="NAMES",
            shell_complete=columns,
            help="Sort by these columns; -NAME is descending.",
        ),
        click.option(
            "--where",
            metavar="EXPR",
            help='Only rows for which this SQL condition holds, such as "order >= 9 AND pfn < 0x1be00". '
            "Sizes are bytes and times nanoseconds, unless a unit is given: bytes > 1MiB, ts_nsec > 7.5s.",
        ),
        click.option("--table", metavar="NAME", shell_complete=tables, help="Only this table."),
        click.option(
            "--weight",
            metavar="NAME",
            help="Count call chains by this column (folded, speedscope, pprof): bytes, pages and the like.",
        ),
        click.option("--force", is_flag=True, help="Replace the output file if it exists."),
        click.option(
            "-o",
            "--output",
            metavar="FILE",
            shell_complete=files,
            help="Write to FILE; its suffix chooses the format, unless -f does: text where it has none.",
        ),
        click.option(
            "-f",
            "--format",
            "format_",
            metavar="FORMAT",
            shell_complete=words_of_plugins(lambda plugins: plugins.formats()),
            help="text, json, jsonl, csv or parquet; of call chains also folded, speedscope or pprof.",
        ),
    ):
        command = decorate(command)
    return command


def run(
    ctx: click.Context,
    analyse: Callable[[Kernel, Plugins, RowSink, Progress | None], Result],
    *,
    vmcore: str | None,
    symbols: Sequence[str],
    live: bool,
    force_symbols: bool,
    quiet: bool,
    bare: bool = False,
    known: Sequence[Schema] = (),
    **output: Any,
) -> None:
    """Open the target, analyse it, and write the result.

    :param bare: Whether a target without debug info will do.
    :param known: Tables of the result, as far as they are known before there is one.
    """
    shared = shared_of(ctx)
    schemas = list(known)
    with (
        _columns_elsewhere(schemas),
        rendering(shared, **output) as renderer,  # first: it refuses bad options before anything is read
        opened(shared, vmcore, symbols=symbols, live=live, force_symbols=force_symbols, bare=bare) as kernel,
    ):
        # The bar is gone before the answer is written, and never between rows on their way to a terminal.
        rows_pass = not isinstance(renderer, _text_renderer()) and output["output"] is None
        keeper = None if shared.attached is None else _keeper(renderer)
        with progress_bar(quiet or (rows_pass and sys.stdout.isatty())) as progress:
            result = analyse(kernel, shared.plugins, keeper or renderer, progress)
        schemas += [each.schema for each in result.tables.values()]
        renderer.finish(result)
    if shared.attached is not None and keeper is not None:
        shared.attached.result = keeper.kept(result)
    if not isinstance(renderer, _text_renderer()):
        # Rows alone cannot say what is missing from them.
        for sentence in result.incomplete:
            click.echo(f"mmdump: {sentence}", err=True)
    if result.incomplete or shared.plugins.failed:
        ctx.exit(ExitStatus.INCOMPLETE)


@contextlib.contextmanager
def _columns_elsewhere(schemas: Sequence[Schema]) -> Iterator[None]:
    """Where a column is missing, or never is that, say which of these tables has it."""
    from mmdump.render import ElsewhereError

    try:
        yield
    except ElsewhereError as error:
        raise error.among(schemas) from None


@contextlib.contextmanager
def opened(
    shared: Shared,
    vmcore: str | None,
    *,
    symbols: Sequence[str],
    live: bool,
    force_symbols: bool,
    bare: bool = False,
) -> Iterator[Kernel]:
    """The kernel that was named.

    :param bare: Whether it may lack debug info.
    """
    if shared.attached is not None:
        with _explained_faults():
            yield shared.attached.kernel(shared.plugins, bare=bare)
        return
    with (
        opened_target(vmcore, symbols=symbols, live=live, force_symbols=force_symbols, bare=bare) as target,
        _explained_faults(target),
    ):
        yield shared.plugins.kernel(target)


def opened_target(
    vmcore: str | None,
    *,
    symbols: Sequence[str],
    live: bool,
    force_symbols: bool,
    bare: bool = False,
) -> Target:
    """The dump or the live kernel that was named, to be closed."""
    from mmdump.target import open_target

    if not vmcore and not live:
        raise UsageError("no vmcore was given", "Name a dump, or --live for the running kernel.")
    if vmcore is not None and live:
        raise UsageError("both a vmcore and --live were given", "Only one kernel at a time.")
    return open_target(vmcore, symbols=symbols, force=force_symbols, live=live, bare=bare)


@contextlib.contextmanager
def _explained_faults(target: Target | None = None) -> Iterator[None]:
    """What could not be read becomes an error in words."""
    from drgn import BadDataError, FaultError

    from mmdump.target.faults import damage_hint, fault_words

    try:
        yield
    except (FaultError, BadDataError, OSError) as error:
        # A segment at a negative offset of the file is an invalid argument to drgn's pread().
        if isinstance(error, OSError) and (error.errno != errno.EINVAL or error.filename is not None):
            raise
        raise IncompleteError(
            f"what had to be read is not in the dump, or is broken: {fault_words(error)}",
            damage_hint(None if target is None else target.dump),
        ) from error


def _keeper(renderer: Renderer) -> Keeper:
    from mmdump.cli.keeper import Keeper

    return Keeper(renderer)


def _text_renderer() -> type[Renderer]:
    from mmdump.render.text import TextRenderer

    return TextRenderer


@contextlib.contextmanager
def rendering(
    shared: Shared,
    *,
    format_: str | None,
    output: str | None,
    force: bool,
    table: str | None,
    where: str | None,
    sort: str | None,
    columns: str | None,
    limit: int | None,
    weight: str | None,
) -> Iterator[Renderer]:
    """The renderer that the output options ask for, writing where they say."""
    from mmdump.render import Query, RenderOptions, format_of, open_output, open_renderer

    formats = shared.plugins.formats()
    chosen = format_ or (format_of(output, formats) if output else None) or "text"
    chosen = chosen if chosen in formats else chosen.lower()
    if chosen not in formats:
        known = f"Formats: {', '.join(formats)}."
        document = " mmdump report makes a document, html or md, of all there is."
        raise UsageError(
            f"there is no format {format_}", known + document * (chosen in ("html", "htm", "md", "markdown"))
        )
    terminal = output is None and sys.stdout.isatty()
    # In a script, standard output may be a string.
    as_text = output is None and (terminal or not hasattr(sys.stdout, "buffer"))
    if as_text and formats[chosen].binary:
        raise UsageError(f"format {chosen} is nothing for a terminal", "Name a file with -o, or use a pipe.")
    width = None
    if terminal:
        import shutil

        width = shutil.get_terminal_size().columns
    options = RenderOptions(
        query=Query.parse(where, sort, columns, limit),
        table=table,
        width=width,
        color=terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb",
        weight=weight,
    )
    with open_output(output, force) as out:
        yield open_renderer(chosen, out, options, formats)


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress | None]:
    """Progress on standard error, when that is a terminal."""
    # A dumb terminal cannot take a bar away again.
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("pages"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task: TaskID | None = None

        def report(done: int, total: int) -> None:
            nonlocal task
            # Only what reports progress gets a bar.
            if task is None:
                task = bar.add_task("pages", total=total)
            bar.update(task, completed=done, total=total)

        yield report
