"""The built-in commands that look at a dump, or at mmdump itself: info, cat, plugins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from mmdump.cli.completion import files, words_of_plugins
from mmdump.cli.session import opened, output_options, progress_bar, rendering, run, shared_of, target_options
from mmdump.errors import ExitStatus, IncompleteError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernelfile import KernelFile
    from mmdump.scan import Progress

__all__ = ["cat_command", "info_command", "plugins_command"]


@click.command("info", short_help="what is in this dump, and which analyses can run on it")
@target_options
@output_options
@click.pass_context
def info_command(ctx: click.Context, /, **given: Any) -> None:
    """Show what is in this dump, and which analyses can run on it."""
    from mmdump.info import info

    run(ctx, lambda kernel, plugins, _sink, _progress: info(kernel, plugins), bare=True, **given)


@click.command("cat", short_help="a kernel file, as of the dump")
@target_options
@click.argument(
    "file",
    required=False,
    shell_complete=words_of_plugins(lambda plugins: [each.path for each in plugins.kernel_files()]),
)
@click.option("--list", "listing", is_flag=True, help="List the files there are.")
@click.option("-o", "--output", metavar="FILE", shell_complete=files, help="Write to FILE.")
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
@click.pass_context
def cat_command(
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

    FILE is its path on a running machine, or the end of it. A terminal gets control characters escaped; a
    file or a pipe gets the very bytes.
    """
    from mmdump.kernelfile import find_kernel_file
    from mmdump.render import open_output, visible

    shared = shared_of(ctx)
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
        opened(shared, vmcore, **given) as kernel,
        progress_bar(quiet or (output is None and sys.stdout.isatty())) as progress,
    ):
        missing = _write_file(wanted, kernel, visible(out), progress)
        dump = kernel.target.dump
    # Bytes alone cannot say what is missing from them.
    for sentence in [*([dump.truncated] if dump is not None and dump.truncated else ()), *missing]:
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
    written = False
    try:
        for piece in file.read(kernel, ranges):
            out.write(piece)
            written = True
    except IncompleteError as error:
        # What comes before a broken place is worth having.
        if not written:
            raise
        return [error.message, *ranges.missing()]
    return ranges.missing()


@click.command("plugins", short_help="what is loaded, from where, what failed")
@output_options
@click.pass_context
def plugins_command(ctx: click.Context, /, **given: Any) -> None:
    """Show which plugins were found, and what they contribute."""
    from mmdump.plugins import plugin_table

    shared = shared_of(ctx)
    result = plugin_table(shared.plugins)
    with rendering(shared, **given) as renderer:
        renderer.finish(result)
    if shared.attached is not None:
        shared.attached.result = result
    ctx.exit(ExitStatus.INCOMPLETE if shared.plugins.failed else ExitStatus.DONE)
