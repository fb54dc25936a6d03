"""The command line: commands are built from analyses, errors become sentences and exit statuses."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from mmdump import __version__
from mmdump.errors import ExitStatus, IncompleteError, MmdumpError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from mmdump.analysis import Analysis
    from mmdump.kernel import Kernel
    from mmdump.kernelfile import KernelFile
    from mmdump.plugins import Plugins
    from mmdump.render import Renderer
    from mmdump.result import Result
    from mmdump.scan import Progress

__all__ = ["main"]


class _Context:
    """What all commands share: the plugins, loaded when first needed."""

    def __init__(self, files: Sequence[str], disabled: Sequence[str], debug: bool) -> None:
        self.files = files
        self.disabled = disabled
        self.debug = debug
        self._plugins: Plugins | None = None

    @property
    def plugins(self) -> Plugins:
        if self._plugins is None:
            from mmdump.plugins import load_plugins

            self._plugins = load_plugins(self.files, self.disabled)
        return self._plugins

    def plugin_failures(self) -> list[str]:
        """One sentence for each plugin that failed so far."""
        if self._plugins is None:
            return []
        return [f"plugin {each.name} ({each.source}) failed: {each.error}" for each in self._plugins.failed]


class _Group(click.Group):
    """The built-in commands, and one for each analysis of the plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, sorted."""
        return sorted({*super().list_commands(ctx), *_context(ctx).plugins.analyses()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A built-in command, or the one made from the analysis of that name."""
        built_in = super().get_command(ctx, name)
        if built_in is not None:
            return built_in
        analysis = _context(ctx).plugins.analyses().get(name)
        return None if analysis is None else _analysis_command(analysis)


def _context(ctx: click.Context) -> _Context:
    if not isinstance(ctx.obj, _Context):
        # Group options are parsed before commands are looked up, but their callback runs after.
        ctx.obj = _Context(
            ctx.params.get("plugin") or (),
            ctx.params.get("disable_plugin") or (),
            bool(ctx.params.get("debug")),
        )
    return ctx.obj


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mmdump")
@click.option("--plugin", multiple=True, metavar="[NAME=]FILE", is_eager=True, help="Load this plugin too.")
@click.option(
    "--disable-plugin",
    multiple=True,
    metavar="NAME",
    is_eager=True,
    help="Leave this plugin out; * leaves out all that do not come with mmdump.",
)
@click.option("--debug", is_flag=True, is_eager=True, help="Show tracebacks and drgn's log.")
@click.pass_context
def cli(ctx: click.Context, plugin: Sequence[str], disable_plugin: Sequence[str], debug: bool) -> None:  # noqa: ARG001
    """Page-level analysis of Linux memory, from a vmcore or the live kernel.

    Who owns a page, who pins it, how it is mapped: read from struct page, page_ext and the stack depot.
    """
    shared = _context(ctx)
    logging.basicConfig(
        level=logging.DEBUG if shared.debug else logging.CRITICAL, format="%(name)s: %(message)s"
    )


def _target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
        click.option(
            "--force-symbols",
            is_flag=True,
            help="Use the debug info given with -s although its build ID is not the dump's.",
        ),
        click.option("--live", is_flag=True, help="Analyse the running kernel, by /proc/kcore."),
        click.option(
            "-s",
            "--symbols",
            multiple=True,
            metavar="PATH",
            help="The kernel's debug info (vmlinux), or a directory to look in. Otherwise it is looked for "
            "beside the dump, in the standard places by build ID, and with debuginfod where that is set up.",
        ),
        click.argument("vmcore", required=False),
    ):
        command = decorate(command)
    return command


def _output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option(
            "--limit", type=click.IntRange(min=0), metavar="N", help="Show at most N rows; 0 is all."
        ),
        click.option("--columns", metavar="NAMES", help="Columns to show, separated by commas."),
        click.option("--sort", metavar="NAMES", help="Sort by these columns; -NAME is descending."),
        click.option(
            "--where",
            metavar="EXPR",
            help='Only rows for which this SQL condition holds, such as "order >= 9 AND pfn < 0x1be00".',
        ),
        click.option("--table", metavar="NAME", help="Only this table."),
        click.option("--force", is_flag=True, help="Replace the output file if it exists."),
        click.option("-o", "--output", metavar="FILE", help="Write to FILE; its suffix chooses the format."),
        click.option("-f", "--format", "format_", metavar="FORMAT", help="text, json, jsonl or csv."),
    ):
        command = decorate(command)
    return command


def _analysis_command(analysis: type[Analysis]) -> click.Command:
    """The command of an analysis; its options are the analysis' fields."""
    from mmdump.analysis import options

    @_target_options
    @_output_options
    @click.pass_context
    def run(ctx: click.Context, /, **given: Any) -> None:
        names = [name for name, *_ in options(analysis)]
        words = {name: given.pop(name) for name in names}
        if not given["vmcore"] and not given["live"]:
            given["vmcore"] = _swallowed(analysis, words)
        chosen = analysis(**words)
        _run(ctx, partial(_scan, chosen), **given)

    doc = (analysis.__doc__ or analysis.summary).strip()
    command = click.command(analysis.name, help=doc, short_help=analysis.summary)(run)
    for name, kind, default, described in options(analysis):
        flag: dict[str, Any] = {"help": described.help, "default": default}
        if kind is bool:
            flag["is_flag"] = True
        elif kind == tuple[str, ...]:
            flag |= {"multiple": True, "metavar": described.metavar}
        else:
            flag |= {"type": int if kind in (int, int | None) else str, "metavar": described.metavar}
        if described.optional_value is not None:
            flag |= {"is_flag": False, "flag_value": described.optional_value}
        command.params.append(click.Option([described.flag, name], **flag))
    return command


def _swallowed(analysis: type[Analysis], words: dict[str, Any]) -> str | None:
    """The dump, when an option whose value may be left out stood before it and took it for its value."""
    from mmdump.analysis import options

    for name, _, _, described in options(analysis):
        word = words[name]
        if described.optional_value not in (None, word) and isinstance(word, str) and os.path.isfile(word):
            words[name] = described.optional_value
            return word
    return None


def _scan(
    analysis: Analysis,
    kernel: Kernel,
    plugins: Plugins,
    sink: Renderer,
    progress: Progress | None,
) -> Result:
    from mmdump.scan import run_one

    try:
        return run_one(kernel, analysis, sink, progress)
    except (MmdumpError, BrokenPipeError):
        raise
    except Exception as error:
        plugin = plugins.of(type(analysis))
        if plugin is None or plugin.own:
            raise
        raise IncompleteError(
            f"{analysis.name}, of plugin {plugin.name} ({plugin.source}), failed: "
            f"{type(error).__name__}: {error}",
            "The plugin's author will want what --debug prints.",
        ) from error


@cli.command("info", short_help="what is in this dump, and which analyses can run on it")
@_target_options
@_output_options
@click.pass_context
def _info_command(ctx: click.Context, /, **given: Any) -> None:
    """Show what is in this dump, and which analyses can run on it."""
    from mmdump.info import info

    _run(ctx, lambda kernel, plugins, _sink, _progress: info(kernel, plugins), **given)


@cli.command("cat", short_help="a kernel file, as of the dump")
@_target_options
@click.argument("file", required=False)
@click.option("--list", "listing", is_flag=True, help="List the files there are.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE.")
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
@click.pass_context
def _cat_command(
    ctx: click.Context,
    /,
    file: str | None,
    listing: bool,
    output: str | None,
    force: bool,
    vmcore: str | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Print a proc, sysfs or debugfs file as the kernel would have printed it at the moment of the dump.

    FILE is its path on a running machine, or the end of it.
    """
    from mmdump.kernelfile import find_kernel_file
    from mmdump.render import open_output

    shared = _context(ctx)
    files = shared.plugins.kernel_files()
    if listing:
        for each in files:
            click.echo(f"{each.path}  {each.summary}")
        return
    if given["live"] and file is None:
        file, vmcore = vmcore, None
    if file is None:
        raise UsageError("no kernel file was named", "mmdump cat --list shows those there are.")
    wanted = find_kernel_file(files, file)
    with (
        open_output(output, force) as out,
        _opened(shared, vmcore, **given) as kernel,
        _progress(quiet or (output is None and sys.stdout.isatty())) as progress,
    ):
        missing = _write_file(wanted, kernel, out, progress)
    for sentence in missing:
        click.echo(f"mmdump: {sentence}", err=True)
    if missing or shared.plugins.failed:
        ctx.exit(ExitStatus.INCOMPLETE)


def _write_file(file: KernelFile, kernel: Kernel, out: BinaryIO, progress: Progress | None) -> Sequence[str]:
    """Write a kernel file; returns one sentence for each thing that could not be read."""
    from mmdump.scan import Ranges

    reason = file.why_not(kernel)
    if reason is not None:
        raise UnsupportedError(f"{file.path}: {reason}")
    ranges = Ranges(kernel, ext=file.ext, progress=progress)
    for piece in file.read(kernel, ranges):
        out.write(piece)
    return ranges.missing()


@cli.command("plugins", short_help="what is loaded, from where, what failed")
@_output_options
@click.pass_context
def _plugins_command(ctx: click.Context, /, **given: Any) -> None:
    """Show which plugins were found, and what they contribute."""
    from mmdump.plugins import plugin_table

    shared = _context(ctx)
    result = plugin_table(shared.plugins)
    with _renderer(**given) as renderer:
        renderer.finish(result)
    ctx.exit(ExitStatus.INCOMPLETE if shared.plugins.failed else ExitStatus.DONE)


def _run(
    ctx: click.Context,
    analyse: Callable[[Kernel, Plugins, Renderer, Progress | None], Result],
    *,
    vmcore: str | None,
    symbols: Sequence[str],
    live: bool,
    force_symbols: bool,
    quiet: bool,
    **output: Any,
) -> None:
    """Open the target, analyse it, and write the result."""
    shared = _context(ctx)
    with (
        _renderer(**output) as renderer,  # first: it refuses bad options before anything is read
        _opened(shared, vmcore, symbols=symbols, live=live, force_symbols=force_symbols) as kernel,
    ):
        # The bar is gone before the answer is written, and never between rows on their way to a terminal.
        rows_pass = not isinstance(renderer, _text_renderer()) and output["output"] is None
        with _progress(quiet or (rows_pass and sys.stdout.isatty())) as progress:
            result = analyse(kernel, shared.plugins, renderer, progress)
        renderer.finish(result)
    if not isinstance(renderer, _text_renderer()):
        # Rows alone cannot say what is missing from them.
        for sentence in result.incomplete:
            click.echo(f"mmdump: {sentence}", err=True)
    if result.incomplete or shared.plugins.failed:
        ctx.exit(ExitStatus.INCOMPLETE)


@contextlib.contextmanager
def _opened(
    shared: _Context,
    vmcore: str | None,
    *,
    symbols: Sequence[str],
    live: bool,
    force_symbols: bool,
) -> Iterator[Kernel]:
    """The kernel that was named."""
    from mmdump.kernel import Kernel
    from mmdump.target import open_target

    if not vmcore and not live:
        raise UsageError("no vmcore was given", "Name a dump, or --live for the running kernel.")
    if vmcore is not None and live:
        raise UsageError("both a vmcore and --live were given", "Only one kernel at a time.")
    with open_target(vmcore, symbols=symbols, force=force_symbols, live=live) as target:
        yield Kernel(target, shared.plugins.page_ext_clients())


def _text_renderer() -> type[Renderer]:
    from mmdump.render.text import TextRenderer

    return TextRenderer


@contextlib.contextmanager
def _renderer(
    *,
    format_: str | None,
    output: str | None,
    force: bool,
    table: str | None,
    where: str | None,
    sort: str | None,
    columns: str | None,
    limit: int | None,
) -> Iterator[Renderer]:
    from mmdump.render import FORMATS, Query, RenderOptions, format_of, open_output, open_renderer

    chosen = format_ or (format_of(output) if output else None) or "text"
    if chosen not in FORMATS:
        raise UsageError(f"there is no format {chosen}", f"Formats: {', '.join(FORMATS)}.")
    terminal = output is None and sys.stdout.isatty()
    width = None
    if terminal:
        import shutil

        width = shutil.get_terminal_size().columns
    options = RenderOptions(
        query=Query.parse(where, sort, columns, limit),
        table=table,
        width=width,
        color=terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb",
    )
    with open_output(output, force) as out:
        yield open_renderer(chosen, out, options)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Progress | None]:
    """Progress on standard error, when that is a terminal."""
    if quiet or not sys.stderr.isatty():
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


def _explain(error: MmdumpError) -> None:
    from mmdump.render import escape

    click.echo(f"mmdump: {escape(error.message)}", err=True)
    if error.hint:
        click.echo(escape(error.hint), err=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Wherever it stands: it is asked for by adding it to a command that failed.
    debug = "--debug" in words
    words = ["--debug"] * debug + [word for word in words if word != "--debug"]
    # Commands for drgn's shell are not ours to load; and while they load, drgn swallows an interrupt.
    os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    shared: _Context | None = None
    try:
        with cli.make_context("mmdump", words) as ctx:
            shared = _context(ctx)
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
    except KeyboardInterrupt:
        click.echo("mmdump: interrupted", err=True)
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has seen enough. Nothing must be flushed into the pipe at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if debug:
            traceback.print_exc()
        what = f"{error.filename}: " if error.filename else ""
        _explain(MmdumpError(f"{what}{error.strerror or error}"))
        status = ExitStatus.INTERNAL
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


def entry() -> None:
    sys.exit(main())


if __name__ == "__main__":
    entry()
