"""Which processes map a large folio, and how: by the page tables of all of them.

The reverse map (anon_vma and i_mmap trees) says where a folio may be mapped; the page tables say where it is.
They are walked table by table, in bulk, and only what belongs to large folios is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.mms import AddressSpaces, read_address_spaces
from mmdump.kernel.usertables import Leaves, UserTables, read_table_format

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I32, I64

__all__ = ["NO_MAPPINGS", "Mappings", "read_mappings"]

#: Ranges of pages of which it is kept which pages belong to large folios: 256 KiB each.
_KEPT_RANGES = 128
#: Pairs of a folio and an address space that are kept: 20 bytes each.
_MAX_PAIRS = 1 << 22


@dataclass(frozen=True)
class Mappings:
    """Pairs of a large folio and an address space that maps it, ascending by folio. Plain data.

    :param head: PFN of the folio's head, int64.
    :param mm: Index of the address space, int32.
    :param ptes: PTEs in that address space that map pages of the folio, int32.
    :param pmds: PMDs (or PUDs) in it that map the folio as a whole, int32.
    :param processes: A row for each process: ``mm``, ``pid``, ``comm``.
    :param mm_ids: ``mm->mm_id`` of each address space; zeros before 6.15.
    :param incomplete: One sentence for each thing that could not be seen.
    :param why_not: Why no page table was read at all; None where they were.
    """

    head: I64
    mm: I32
    ptes: I32
    pmds: I32
    processes: pl.DataFrame
    mm_ids: I64
    incomplete: tuple[str, ...] = ()
    why_not: str | None = None

    def of(self, heads: I64) -> pl.DataFrame:
        """The pairs of some folios, given by the PFNs of their heads: ``row`` (into ``heads``), ``mm`` ..."""
        low = np.searchsorted(self.head, heads, "left")
        count = np.searchsorted(self.head, heads, "right") - low
        starts = np.cumsum(count) - count
        which = np.repeat(low - starts, count) + np.arange(int(count.sum()))
        return pl.DataFrame(
            {
                "row": np.repeat(np.arange(len(heads), dtype=np.int64), count),
                "mm": self.mm[which],
                "ptes": self.ptes[which].astype(np.int64),
                "pmds": self.pmds[which].astype(np.int64),
            }
        )


_PROCESSES = {"mm": pl.Int32, "pid": pl.Int64, "comm": pl.String}


def _none(why: str | None) -> Mappings:
    nothing = np.empty(0, np.int32)
    return Mappings(
        np.empty(0, np.int64),
        nothing,
        nothing,
        nothing,
        pl.DataFrame(schema=_PROCESSES),
        np.empty(0, np.int64),
        why_not=why,
    )


#: Nobody's: no page table was read, because that was not wanted.
NO_MAPPINGS = _none("page tables were not read, as asked")


def read_mappings(kernel: Kernel) -> Mappings:
    """Walk the page tables of all processes."""
    form = read_table_format(kernel)
    if form is None:
        return _none("mmdump cannot walk the page tables of this architecture")
    spaces = read_address_spaces(kernel.target.prog)
    if not spaces.spaces:
        return _none("no process with an address space was found")
    tables, large, found = UserTables(kernel, form), _LargePages(kernel), _Pairs()
    for index, space in enumerate(spaces.spaces):
        for leaves in tables.walk(space.pgd):
            found.add(leaves, large)
        found.close(index)
        if found.full:
            break
    head, mm, ptes, pmds = found.sorted()
    processes = [
        (index, pid, comm) for index, space in enumerate(spaces.spaces) for pid, comm in space.processes
    ]
    return Mappings(
        head,
        mm,
        ptes,
        pmds,
        pl.DataFrame(processes, schema=_PROCESSES, orient="row"),
        np.array([space.mm_id & 0x7FFFFFFF for space in spaces.spaces], np.int64),
        tuple(_missing(spaces, tables, found)),
    )


def _missing(spaces: AddressSpaces, tables: UserTables, found: _Pairs) -> list[str]:
    reasons = []
    if not spaces.complete:
        reasons.append("the list of tasks breaks off: who maps a folio may be missing")
    if tables.lost:
        reasons.append(f"{tables.lost} page tables of processes could not be read")
    if found.full:
        reasons.append(f"more than {_MAX_PAIRS} pairs of folio and process: further ones are not listed")
    return reasons


@dataclass
class _Pairs:
    """Gathers the mappings of one address space after the other."""

    full: bool = False
    _pairs: int = 0
    _open: list[tuple[I64, I64, I64]] = field(default_factory=list)
    _closed: list[tuple[I64, I32, I32, I32]] = field(default_factory=list)

    def add(self, leaves: Leaves, large: _LargePages) -> None:
        """Take leaves of the address space that is being walked."""
        heads = large.heads(leaves.pfn)
        if leaves.order:
            # A leaf above the PTEs maps a folio, whatever the folio looks like.
            heads = np.where(heads >= 0, heads, leaves.pfn)
        heads, count = np.unique(heads[heads >= 0], return_counts=True)
        if len(heads):
            none = np.zeros(len(heads), np.int64)
            self._open.append((heads, none, count) if leaves.order else (heads, count, none))

    def close(self, mm: int) -> None:
        """That was all of an address space."""
        if not self._open:
            return
        heads, ptes, pmds = (np.concatenate(part) for part in zip(*self._open, strict=True))
        self._open = []
        distinct, inverse = np.unique(heads, return_inverse=True)
        sums = [np.zeros(len(distinct), np.int32) for _ in range(2)]
        np.add.at(sums[0], inverse, ptes.astype(np.int32))
        np.add.at(sums[1], inverse, pmds.astype(np.int32))
        self._closed.append((distinct, np.full(len(distinct), mm, np.int32), sums[0], sums[1]))
        self._pairs += len(distinct)
        self.full = self._pairs > _MAX_PAIRS

    def sorted(self) -> tuple[I64, I32, I32, I32]:
        """All pairs, by folio."""
        if not self._closed:
            nothing = np.empty(0, np.int32)
            return np.empty(0, np.int64), nothing, nothing, nothing
        head, mm, ptes, pmds = (np.concatenate(part) for part in zip(*self._closed, strict=True))
        order = np.argsort(head, kind="stable")
        return head[order], mm[order], ptes[order], pmds[order]


class _LargePages:
    """Which pages belong to large folios: looked up range by range, the last used ranges being kept."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        chunks = np.array(list(kernel.memmap.chunks()), np.int64).reshape(-1, 2)
        self._starts, self._ends = chunks[:, 0], chunks[:, 1]
        #: Range -> how far behind its head each page is, -1 for small ones; None where all are small.
        self._known: OrderedDict[int, I32 | None] = OrderedDict()

    def heads(self, pfn: I64) -> I64:
        """PFN of the head of each page's folio; -1 for small folios (int64)."""
        found = np.full(len(pfn), -1, np.int64)
        order = np.argsort(pfn, kind="stable")
        ascending = pfn[order]
        chunk = np.searchsorted(self._starts, ascending, "right") - 1
        for number in np.unique(chunk).tolist():
            low, high = np.searchsorted(chunk, (number, number + 1))
            distance = self._distance(number) if number >= 0 else None
            if distance is None:
                continue
            rows = ascending[low:high] - self._starts[number]
            good = rows < len(distance)
            behind = np.where(good, distance[np.where(good, rows, 0)], -1)
            found[order[low:high]] = np.where(behind >= 0, ascending[low:high] - behind, -1)
        return found

    def _distance(self, number: int) -> I32 | None:
        if number in self._known:
            self._known.move_to_end(number)
            return self._known[number]
        pages = self._kernel.pages(int(self._starts[number]), int(self._ends[number]), blocks=False)
        large = pages.is_head | pages.is_tail
        distance = None
        if large.any():
            distance = np.where(large, pages.pfn - pages.head_pfn, -1).astype(np.int32)
        self._known[number] = distance
        if len(self._known) > _KEPT_RANGES:
            self._known.popitem(last=False)
        return distance
