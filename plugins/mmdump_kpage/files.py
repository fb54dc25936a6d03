"""The three files as streams of words, page after page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.kernel.layout import find_object
from mmdump.kernelfile import KernelFile
from mmdump_kpage.flags import KPF_NOPAGE, KpageFacts, precise_mapcount, stable_page_flags

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import U64
    from mmdump.kernel.page import PageRange
    from mmdump.scan import Ranges

__all__ = ["KPAGECGROUP", "KPAGECOUNT", "KPAGEFLAGS"]

#: Words of a hole that are written at once.
_HOLE_WORDS = 1 << 16


def _words(
    kernel: Kernel, ranges: Ranges, of_range: Callable[[PageRange], U64], of_hole: int
) -> Iterator[bytes]:
    """Words of all pages from PFN 0 to ``get_max_dump_pfn()``: max_pfn, rounded up to whole sections."""
    section = kernel.memmap.sections.pages
    found = find_object(kernel.target.prog, "max_pfn")
    try:
        end = int(found.value_()) if found is not None else 0
    except FaultError:
        end = 0
    end = min(-(-end // section) * section or kernel.memmap.end_pfn, kernel.memmap.end_pfn)
    done = 0
    for pages in ranges:
        if pages.start >= end:
            return
        yield from _hole(pages.start - done, of_hole)
        yield of_range(pages)[: end - pages.start].astype("<u8").tobytes()
        done = pages.end
    yield from _hole(end - done, of_hole)


def _hole(words: int, word: int) -> Iterator[bytes]:
    while words > 0:
        piece = min(words, _HOLE_WORDS)
        yield np.full(piece, word, "<u8").tobytes()
        words -= piece


def _kpageflags(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:
    facts = KpageFacts.find(kernel)
    return _words(kernel, ranges, partial(stable_page_flags, facts=facts), 1 << KPF_NOPAGE)


def _kpagecount(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:
    return _words(kernel, ranges, precise_mapcount, 0)


def _kpagecgroup(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:
    cgroups = kernel.memory_cgroups

    def inodes(pages: PageRange) -> U64:
        """``page_cgroup_ino()`` of each page (mm/memcontrol.c); 0 where it is charged to no cgroup."""
        if cgroups is None:
            return np.zeros(len(pages), np.uint64)
        words = cgroups.words(pages)
        return cgroups.inodes(words[pages.head_rows()] if cgroups.by_folio else words)

    return _words(kernel, ranges, inodes, 0)


def _no_memory_cgroups(kernel: Kernel) -> str | None:
    return (
        "this kernel was built without memory cgroups (CONFIG_MEMCG)"
        if kernel.memory_cgroups is None
        else None
    )


KPAGECGROUP = KernelFile(
    "/proc/kpagecgroup",
    "inode of every page's memory cgroup, 64 bits each",
    _kpagecgroup,
    why_not=_no_memory_cgroups,
)
KPAGEFLAGS = KernelFile("/proc/kpageflags", "flags of every page, 64 bits each", _kpageflags)
KPAGECOUNT = KernelFile("/proc/kpagecount", "how often every page is mapped, 64 bits each", _kpagecount)
