"""``/proc/pagetypeinfo``: free blocks by list, and pageblocks by migratetype (mm/vmstat.c)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.errors import IncompleteError
from mmdump.kernel.arrays import I64
from mmdump.kernel.freelists import FreeLists, find_lists, free_blocks
from mmdump.kernelfile import KernelFile
from mmdump_page_owner.mixed import mixed_blocks
from mmdump_page_owner.record import why_no_owner

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.freelists import ListHeads
    from mmdump.kernel.page import PageRange
    from mmdump.scan import Ranges

__all__ = ["PAGETYPEINFO", "Pageblocks"]

#: The kernel stops counting there (5.4).
_MANY = 100000


class Pageblocks:
    """Counts pageblocks by zone and migratetype, as ``pagetypeinfo_showblockcount_print()`` does.

    It goes through a zone in steps of a block from the zone's first page on, which need not begin a block,
    and looks at these pages alone: whether they are there, and of this zone.
    """

    def __init__(self, heads: ListHeads, order: int, migratetypes: int) -> None:
        self._heads = heads
        self._step = 1 << order
        #: Of shape (zones, migratetypes), int64.
        self.counts = np.zeros((len(heads.zones), migratetypes), np.int64)

    def add(self, pages: PageRange) -> None:
        """Count the blocks of a range."""
        for slot, zone in enumerate(self._heads.zones):
            first = max(pages.start, zone.start_pfn)
            first += -(first - zone.start_pfn) % self._step
            rows = np.arange(first, min(pages.end, zone.start_pfn + zone.spanned), self._step) - pages.start
            rows = rows[pages.readable[rows]]
            own = self._heads.slots(pages.node_of(rows), pages.zone_of(rows).astype(np.int64)) == slot
            types = pages.migratetype_of(rows[own])
            found = np.bincount(types[types < self.counts.shape[1]], minlength=self.counts.shape[1])
            self.counts[slot] += found


def _read(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:
    heads, layout = kernel.list_heads, kernel.pageblocks
    if not heads.readable.all():
        raise IncompleteError("the heads of some free lists are not in the dump")
    blocks: list[pl.DataFrame] = []
    pageblocks = Pageblocks(heads, layout.order, heads.migratetypes)

    def seen() -> Iterator[PageRange]:
        for pages in ranges:
            blocks.append(pl.DataFrame(dict(free_blocks(pages, heads))))
            pageblocks.add(pages)
            yield pages

    mixed = _mixed_blocks(kernel, seen())
    names = [
        layout.names[kind] if kind < len(layout.names) else str(kind) for kind in range(heads.migratetypes)
    ]
    yield from _text(find_lists(heads, pl.concat(blocks)), names, layout.order, pageblocks.counts, mixed)


def _mixed_blocks(kernel: Kernel, ranges: Iterable[PageRange]) -> Mapping[tuple[int, int], I64] | None:
    """Mixed pageblocks by node and zone index, as page_owner counts them; None where it does not.

    :param ranges: All ranges of pages; they are used up in any case.
    """
    if why_no_owner(kernel) is not None:
        for _ in ranges:
            pass
        return None
    return mixed_blocks(kernel, ranges)


def _text(
    lists: FreeLists,
    names: list[str],
    block_order: int,
    pageblocks: I64,
    mixed: Mapping[tuple[int, int], I64] | None,
) -> Iterator[bytes]:
    """``pagetypeinfo_show()``, node by node."""
    heads, counts = lists.heads, lists.counts
    named = "".join(f"{name:>12} " for name in names)
    nodes: dict[int, list[int]] = {}
    for slot, zone in enumerate(heads.zones):
        nodes.setdefault(zone.node, []).append(slot)
    for slots in nodes.values():
        lines = [
            f"Page block order: {block_order}",
            f"Pages per block:  {1 << block_order}",
            "",
            f"{'Free pages count per migrate type at order':<43} "
            + "".join(f"{order:6} " for order in range(heads.orders)),
        ]
        for slot in slots:
            zone = heads.zones[slot]
            for kind, name in enumerate(names):
                row = "".join(_capped(count) for count in counts[slot, :, kind].tolist())
                lines.append(f"Node {zone.node:4}, zone {zone.name:>8}, type {name:>12} {row}")
        lines += ["", f"{'Number of blocks type ':<23}{named}"]
        for slot in slots:
            zone = heads.zones[slot]
            row = "".join(f"{count:12} " for count in pageblocks[slot].tolist())
            lines.append(f"Node {zone.node}, zone {zone.name:>8} {row}")
        if mixed is not None:
            lines += ["", f"{'Number of mixed blocks ':<23}{named}"]
            for slot in slots:
                zone = heads.zones[slot]
                found = mixed.get((zone.node, zone.index))
                row = "".join(f"{0 if found is None else found[kind]:12} " for kind in range(len(names)))
                lines.append(f"Node {zone.node}, zone {zone.name:>8} {row}")
        yield ("\n".join(lines) + "\n").encode()


def _capped(count: int) -> str:
    """A count of blocks; of a list that is very long the kernel only says so (5.4, and stable before)."""
    return f">{_MANY:6} " if count >= _MANY else f"{count:6} "


PAGETYPEINFO = KernelFile("/proc/pagetypeinfo", "free blocks by migratetype, and pageblocks", _read, ext=True)
