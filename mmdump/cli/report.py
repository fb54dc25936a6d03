"""``mmdump report``: a document to attach to a bug."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mmdump.cli.completion import files, listed, words_of_plugins
from mmdump.cli.session import opened, progress_bar, shared_of, target_options
from mmdump.errors import ExitStatus

if TYPE_CHECKING:
    from mmdump.plugins import Plugins

__all__ = ["report_command"]


def _formats() -> list[str]:
    from mmdump.render.report import REPORT_FORMATS

    return list(REPORT_FORMATS)


def _sections(plugins: Plugins) -> list[str]:
    return ["info", *(name for name, each in plugins.analyses().items() if each.in_report), "check"]


@click.command("report", short_help="a document to attach to the bug")
@target_options
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=files,
    help="Write to FILE; its suffix chooses the format.",
)
@click.option(
    "-f",
    "--format",
    "format_",
    metavar="FORMAT",
    shell_complete=words_of_plugins(lambda _plugins: _formats()),
    help="html, md, txt or json; txt without -o and -f.",
)
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
@click.option(
    "--only",
    multiple=True,
    metavar="NAMES",
    shell_complete=listed(_sections),
    help="Only these sections, separated by commas.",
)
@click.option(
    "--skip", multiple=True, metavar="NAMES", shell_complete=listed(_sections), help="Not these sections."
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Drop a section that takes longer, between two ranges of pages.",
)
@click.option(
    "--redact",
    is_flag=True,
    help="Mask kernel addresses and the names of tasks, cgroups, files, modules and the host.",
)
@click.option("--hash", "digest", is_flag=True, help="Name the dump's SHA-256: takes reading all of it.")
@click.pass_context
def report_command(
    ctx: click.Context,
    /,
    output: str | None,
    format_: str | None,
    force: bool,
    only: Sequence[str],
    skip: Sequence[str],
    time_limit: float | None,
    redact: bool,
    digest: bool,
    vmcore: str | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Write what a colleague needs to understand the memory side of a bug without the dump.

    First what was found, the most important first, each with its evidence; then what every analysis that can
    run has to say; last where it all comes from. All of them run in one pass over memory.
    """
    from mmdump.render import open_output
    from mmdump.render.report import report_format
    from mmdump.report import Choice, make_report

    shared = shared_of(ctx)
    chosen = report_format(format_, output)
    choice = Choice(only=_names(only), skip=_names(skip), seconds=time_limit, redact=redact, digest=digest)
    with open_output(output, force) as out, opened(shared, vmcore, **given) as kernel:
        with progress_bar(quiet or (output is None and sys.stdout.isatty())) as progress:
            report = make_report(kernel, shared.plugins, choice, progress)
        chosen.write(report, out)
    for sentence in report.incomplete:
        click.echo(f"mmdump: {_escaped(sentence)}", err=True)
    if report.incomplete or shared.plugins.failed:
        ctx.exit(ExitStatus.INCOMPLETE)


def _names(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() for word in words for name in word.split(",") if name.strip())


def _escaped(text: str) -> str:
    from mmdump.render import escape

    return escape(text)
