"""Free memory: the buddy allocator's blocks and lists, per-CPU pages, watermarks, fragmentation.

Mirrors mm/page_alloc.c and mm/vmstat.c.
"""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.kernel.page_ext import PageExtClient
from mmdump.kernelfile import KernelFile
from mmdump_buddy.analysis import Buddy
from mmdump_buddy.files import FILES
from mmdump_buddy.guards import DEBUG_GUARDPAGE
from mmdump_buddy.pagetypeinfo import PAGETYPEINFO

__all__ = ["DEBUG_GUARDPAGE", "Buddy"]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump buddy``."""
    return [Buddy]


@hookimpl
def mmdump_page_ext_clients() -> list[PageExtClient]:
    """The client that marked guard pages up to 5.2."""
    return [DEBUG_GUARDPAGE]


@hookimpl
def mmdump_kernel_files() -> list[KernelFile]:
    """``/proc/buddyinfo``, ``/proc/pagetypeinfo`` and the indices of fragmentation."""
    return [*FILES, PAGETYPEINFO]
