"""Memory allocation profiling: the line of code that allocated each page (mm/alloc_tag.c)."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.kernel.page_ext import PageExtClient
from mmdump.kernelfile import KernelFile
from mmdump.pagenotes import PageNotes
from mmdump_alloc_tags.analysis import AllocTagsAnalysis
from mmdump_alloc_tags.files import ALLOCINFO
from mmdump_alloc_tags.notes import tag_notes
from mmdump_alloc_tags.state import ALLOC_TAGGING

__all__ = ["ALLOC_TAGGING", "AllocTagsAnalysis"]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump alloc-tags``."""
    return [AllocTagsAnalysis]


@hookimpl
def mmdump_page_ext_clients() -> list[PageExtClient]:
    """The client that keeps a reference to the tag of each page's allocation."""
    return [ALLOC_TAGGING]


@hookimpl
def mmdump_kernel_files() -> list[KernelFile]:
    """``/proc/allocinfo``."""
    return [ALLOCINFO]


@hookimpl
def mmdump_page_notes() -> list[PageNotes]:
    """The line of code that allocated single pages."""
    return [PageNotes("alloc_tags", tag_notes)]
