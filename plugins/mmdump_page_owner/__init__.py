"""page_owner: who allocated each page (kernel: mm/page_owner.c)."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.checks import Check
from mmdump.kernel.page_ext import PageExtClient
from mmdump.kernelfile import KernelFile
from mmdump.pagenotes import PageNotes
from mmdump_page_owner.analysis import PageOwner
from mmdump_page_owner.checks import CHECKS
from mmdump_page_owner.depot import StackDepotAnalysis
from mmdump_page_owner.mixed import MixedBlocks, mixed_blocks
from mmdump_page_owner.notes import owner_notes
from mmdump_page_owner.pageblocks import Pageblocks
from mmdump_page_owner.record import PAGE_OWNER, Owners, why_no_owner
from mmdump_page_owner.stack_files import STACK_FILES
from mmdump_page_owner.text import PAGE_OWNER_FILE

__all__ = ["PAGE_OWNER", "MixedBlocks", "Owners", "PageOwner", "Pageblocks", "mixed_blocks", "why_no_owner"]


@hookimpl
def mmdump_page_ext_clients() -> list[PageExtClient]:
    """The client that keeps an allocation record for each page."""
    return [PAGE_OWNER]


@hookimpl
def mmdump_kernel_files() -> list[KernelFile]:
    """The allocations of all pages as the kernel lists them, and its counts by stack."""
    return [PAGE_OWNER_FILE, *STACK_FILES]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump page-owner``, ``mmdump pageblocks`` and ``mmdump stackdepot``."""
    return [PageOwner, Pageblocks, StackDepotAnalysis]


@hookimpl
def mmdump_checks() -> list[type[Check]]:
    """Records against the pages that they are of."""
    return list(CHECKS)


@hookimpl
def mmdump_page_notes() -> list[PageNotes]:
    """Who allocated and freed single pages."""
    return [PageNotes("page_owner", owner_notes)]
