"""The whole plugin contract, on one page.

A plugin is a module (or a package) that implements any of these hooks and is named by an entry point of
group ``mmdump``, or given with ``--plugin FILE``::

    from mmdump import hookimpl

    @hookimpl
    def mmdump_analyses():
        return [MyAnalysis]

Every hook returns a list of things the plugin contributes. Each call is guarded plugin by plugin: one that
raises is named to the user and left out, and the others go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from mmdump.analysis import Analysis
    from mmdump.checks import Check
    from mmdump.holders import Recogniser
    from mmdump.kernel.page_ext import PageExtClient
    from mmdump.kernelfile import KernelFile
    from mmdump.pagenotes import PageNotes
    from mmdump.render import FormatSpec
    from mmdump_snapshots.scenario import Scenario

__all__ = [
    "mmdump_analyses",
    "mmdump_checks",
    "mmdump_holders",
    "mmdump_kernel_files",
    "mmdump_page_ext_clients",
    "mmdump_page_notes",
    "mmdump_renderers",
    "mmdump_scenarios",
]

hookspec = pluggy.HookspecMarker("mmdump")


@hookspec
def mmdump_analyses() -> list[type[Analysis]]:  # type: ignore[empty-body]
    """Analyses: each becomes a command of the same name, and later a section of the report."""


@hookspec
def mmdump_page_ext_clients() -> list[PageExtClient]:  # type: ignore[empty-body]
    """Users of page_ext, by which ``pages.ext["name"]`` finds their per-page data."""


@hookspec
def mmdump_kernel_files() -> list[KernelFile]:  # type: ignore[empty-body]
    """Files of the kernel that ``mmdump cat`` can print, by the plugin that owns their structures."""


@hookspec
def mmdump_page_notes() -> list[PageNotes]:  # type: ignore[empty-body]
    """What the plugin knows about single pages, for ``mmdump page``."""


@hookspec
def mmdump_checks() -> list[type[Check]]:  # type: ignore[empty-body]
    """Invariants that ``mmdump check`` holds a dump against."""


@hookspec
def mmdump_holders() -> list[Recogniser]:  # type: ignore[empty-body]
    """Those who know what it is that has a page's address, for ``mmdump holders``."""


@hookspec
def mmdump_renderers() -> list[FormatSpec]:  # type: ignore[empty-body]
    """Formats that ``--format`` takes, beside mmdump's own, which none can replace."""


@hookspec
def mmdump_scenarios() -> list[Scenario]:  # type: ignore[empty-body]
    """What can happen to a machine whose dump ``mmdump snapshot generate`` writes."""
