"""The count of mixed pageblocks in ``/proc/pagetypeinfo``: ``pagetypeinfo_showmixedcount_print()``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import I64
from mmdump_page_owner.blocks import BlockRules, Blocks, read_block_rules

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["MixedBlocks", "mixed_blocks"]


class MixedBlocks:
    """Counts blocks that hold a page of another migratetype, range by range."""

    def __init__(self, rules: BlockRules) -> None:
        self._rules = rules
        self._found: list[I64] = []

    def add(self, pages: PageRange) -> None:
        """Count the blocks of a range. One without page_ext has none."""
        if pages.ext is None:
            return
        blocks = Blocks(pages, self._rules)
        rows = np.flatnonzero(blocks.mixed & (blocks.zone >= 0))
        kind = blocks.migratetype[rows]
        # Pages in CMA blocks are movable ones, so that every used block of CMA is a mixed movable one.
        kind = np.where(kind == self._rules.cma, self._rules.movable, kind)
        columns = (blocks.number[rows], blocks.node[rows], blocks.zone[rows], kind)
        self._found.append(np.stack(columns, axis=1))

    def counts(self) -> dict[tuple[int, int], I64]:
        """Mixed blocks by node and index of the zone: one int64 for each migratetype, by its number.

        Zones without any are not in it.
        """
        if not self._found:
            return {}
        # A block that begins in one range and ends in another is one block.
        found = np.unique(np.concatenate(self._found), axis=0)
        zones, zone = np.unique(found[:, 1:3], axis=0, return_inverse=True)
        zone = zone.reshape(-1)
        return {
            (int(node), int(index)): np.bincount(found[zone == row, 3], minlength=self._rules.types)
            for row, (node, index) in enumerate(zones.tolist())
        }


def mixed_blocks(kernel: Kernel, ranges: Iterable[PageRange]) -> dict[tuple[int, int], I64]:
    """Mixed blocks of a kernel that has page_owner: see :meth:`MixedBlocks.counts`.

    :param ranges: All pages, with their page_ext entries.
    """
    mixed = MixedBlocks(read_block_rules(kernel))
    for pages in ranges:
        mixed.add(pages)
    return mixed.counts()
