"""Pinned pages: what resists migration, by the page pinner's marks and by the references themselves.

The page pinner (the RFC of 2021) marks a page that made a contiguous allocation fail, with a flag in
page_ext. Mainline kernels do not have it; the other evidence is there in every kernel. Android's kernels have
one of their own, which keeps records as well.
"""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.kernel.page_ext import PageExtClient
from mmdump.kernelfile import KernelFile
from mmdump.pagenotes import PageNotes
from mmdump_page_pinner.analysis import Pinned
from mmdump_page_pinner.events import PinnerEvents
from mmdump_page_pinner.files import FILES
from mmdump_page_pinner.marks import CLIENTS
from mmdump_page_pinner.notes import pinner_notes

__all__ = ["CLIENTS", "FILES", "Pinned", "PinnerEvents"]


@hookimpl
def mmdump_page_ext_clients() -> list[PageExtClient]:
    """The client that marks pages, by both of its names."""
    return list(CLIENTS)


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump pinned``, and of Android ``mmdump pinner-events``."""
    return [Pinned, PinnerEvents]


@hookimpl
def mmdump_kernel_files() -> list[KernelFile]:
    """``/sys/kernel/debug/page_pinner/*`` of Android."""
    return list(FILES)


@hookimpl
def mmdump_page_notes() -> list[PageNotes]:
    """What holds single pages."""
    return [PageNotes("page_pinner", pinner_notes)]
