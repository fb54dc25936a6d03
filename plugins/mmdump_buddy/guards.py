"""Guard pages of debug_pagealloc: halves of split blocks that nobody gets, and that are not free either.

``set_page_guard()`` (mm/page_alloc.c; mm/debug_page_alloc.c since 6.6) keeps the guard's order in
``page->private``. A guard is a page type since 5.3, and was a flag in page_ext before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.page_ext import PageExtClient

if TYPE_CHECKING:
    from mmdump.kernel.arrays import Struct
    from mmdump.kernel.freelists import ListHeads
    from mmdump.kernel.page import PageRange

__all__ = ["DEBUG_GUARDPAGE", "guard_blocks"]

DEBUG_GUARDPAGE = PageExtClient(
    "debug_guardpage",
    ops="debug_guardpage_ops",
    enabled="_debug_guardpage_enabled",
    flags=("PAGE_EXT_DEBUG_GUARD",),
)


def guard_blocks(pages: PageRange, heads: ListHeads) -> dict[str, Struct]:
    """The guards that begin in a range of pages.

    :return: ``zone`` (int64, index into the heads' zones, -1 for none) and ``order`` (int64; garbage reads
        as 0).
    """
    guard = pages.is_type("guard")
    if pages.ext is not None:
        guard = guard | pages.ext.has_flag("PAGE_EXT_DEBUG_GUARD")
    rows = np.flatnonzero(guard)
    order = pages.word_at("private", rows)
    return {
        "zone": heads.slots(pages.node_of(rows), pages.zone_of(rows).astype(np.int64)),
        "order": np.where(order < heads.orders, order, 0).astype(np.int64),
    }
