"""Pinned pages: what resists migration, by the page pinner's marks and by the references themselves.

The page pinner (the RFC of 2021) marks a page that made a contiguous allocation fail, with a flag in
page_ext. Mainline kernels do not have it; the other evidence is there in every kernel.
"""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.kernel.page_ext import PageExtClient
from mmdump.pagenotes import PageNotes
from mmdump_page_pinner.analysis import Pinned
from mmdump_page_pinner.marks import CLIENTS
from mmdump_page_pinner.notes import pinner_notes

__all__ = ["CLIENTS", "Pinned"]


@hookimpl
def mmdump_page_ext_clients() -> list[PageExtClient]:
    """The client that marks pages, by both of its names; it has flags only, no data."""
    return list(CLIENTS)


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump pinned``."""
    return [Pinned]


@hookimpl
def mmdump_page_notes() -> list[PageNotes]:
    """What holds single pages."""
    return [PageNotes("page_pinner", pinner_notes)]
