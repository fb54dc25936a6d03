"""How fragmented a zone's free memory is (mm/vmstat.c)."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["fragmentation_index", "unusable_free_index"]


def fragmentation_index(nr_free: Sequence[int], order: int) -> int:
    """``fragmentation_index()``: why a block of an order cannot be had, in thousandths.

    Towards 0 (and, with very little memory, below) for lack of memory, towards 1000 because of fragmentation;
    -1000 where there is such a block, 0 where nothing is free.

    :param nr_free: Free blocks by order.
    """
    blocks = sum(nr_free)
    if not blocks:
        return 0
    if any(nr_free[order:]):
        return -1000
    pages = sum(count << each for each, count in enumerate(nr_free))
    return 1000 - (1000 + pages * 1000 // (1 << order)) // blocks


def unusable_free_index(nr_free: Sequence[int], order: int) -> int:
    """``unusable_free_index()``: how much of the free memory is in smaller blocks, in thousandths.

    1000 where nothing is free.

    :param nr_free: Free blocks by order.
    """
    pages = sum(count << each for each, count in enumerate(nr_free))
    if not pages:
        return 1000
    suitable = sum(count << each for each, count in enumerate(nr_free) if each >= order)
    return (pages - suitable) * 1000 // pages
