"""The commands that bring all plugins together: page, check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mmdump.cli.completion import words_of_plugins
from mmdump.cli.session import output_options, run, shared_of, target_options
from mmdump.errors import UsageError

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins
    from mmdump.result import Result
    from mmdump.scan import Progress

__all__ = ["check_command", "page_command"]

#: More pages than these are a question for ``mmdump pages``.
_MAX_PAGES = 256


@click.command("page", short_help="everything known about a page, from every plugin")
@target_options
@click.argument("pages", nargs=-1, metavar="PFN|ADDRESS...")
@click.option("--pid", type=int, metavar="PID", help="Addresses are user addresses of this task.")
@click.option("--holders", is_flag=True, help="Search memory for who holds them: see mmdump holders.")
@output_options
@click.pass_context
def page_command(
    ctx: click.Context, /, pages: Sequence[str], pid: int | None, holders: bool, **given: Any
) -> None:
    """Show everything known about pages.

    A bare number is a PFN, decimal or hexadecimal; phys:0x... is a physical address; an address in the
    kernel's half is a struct page, a direct map address, or whatever the kernel's page tables map; with --pid
    an address is that task's.
    """
    if given["live"] and given["vmcore"] is not None:
        pages, given["vmcore"] = (given["vmcore"], *pages), None
    words = list(pages)
    if not words:
        raise UsageError("no page was named", f"Such as: {ctx.command_path} {_vmcore(ctx)}0x1be00")
    if len(words) > _MAX_PAGES:
        raise UsageError(
            f"{len(words)} pages are too many for one answer", "mmdump pages has a row for each."
        )
    # Unlike other tables, this one is to be read from end to end.
    given["limit"] = 0 if given["limit"] is None else given["limit"]

    def show(kernel: Kernel, plugins: Plugins, progress: Progress | None) -> Result:
        from mmdump.pageinfo import page_info
        from mmdump.pagewords import find_page

        kernel.progress = progress
        asked = [find_page(kernel, word, pid) for word in words]
        return page_info(kernel, plugins, asked, holders=holders)

    run(ctx, lambda kernel, plugins, _sink, progress: show(kernel, plugins, progress), **given)


def _vmcore(ctx: click.Context) -> str:
    return "VMCORE " if shared_of(ctx).attached is None else ""


@click.command("check", short_help="invariants that do not hold: fsck for struct page")
@target_options
@click.option(
    "--only",
    multiple=True,
    metavar="CHECK",
    shell_complete=words_of_plugins(lambda plugins: [each.name for each in plugins.checks()]),
    help="Only this check; repeatable.",
)
@click.option("--list", "listing", is_flag=True, help="List the checks there are.")
@output_options
@click.pass_context
def check_command(ctx: click.Context, /, only: Sequence[str], listing: bool, **given: Any) -> None:
    """Hold what struct page, page_ext, zones and lists say of each other against what always holds.

    A violation is damage, or a bug that has not shown yet. On a healthy machine there is none.
    """
    from mmdump.checking import CheckRun
    from mmdump.scan import run_one

    shared = shared_of(ctx)
    checks = shared.plugins.checks()
    if listing:
        for check in checks:
            click.echo(f"{check.name}  {check.summary}")
        return
    chosen = CheckRun(checks, only)
    run(ctx, lambda kernel, _plugins, sink, progress: run_one(kernel, chosen, sink, progress), **given)
