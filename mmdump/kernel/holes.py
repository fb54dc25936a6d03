"""Pages that have a ``struct page`` and are no memory: they lie in no zone.

Whole memory sections are mapped, and memory may end within one; it may also have holes (firmware, devices).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdump.amounts import bytes_text
from mmdump.errors import MmdumpError
from mmdump.kernel.arrays import I64, Bools

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["hole_note", "in_hole", "zone_spans"]


def zone_spans(kernel: Kernel) -> I64 | None:
    """PFN ranges [first, last) that zones span, int64 of shape (n, 2); None where not all could be read."""
    try:
        zones, garbage = kernel.zones, kernel.zone_garbage
    except MmdumpError:
        return None
    if garbage or not zones:
        return None
    return np.array([(zone.start_pfn, zone.start_pfn + zone.spanned) for zone in zones], np.int64)


def in_hole(pages: PageRange, spans: I64 | None) -> Bools:
    """Pages that no zone spans and nobody uses: reserved, or never written (up to 5.5).

    :param spans: Of :func:`zone_spans`; where those are not known no page is in a hole.
    """
    if spans is None or ((spans[:, 0] <= pages.start) & (spans[:, 1] >= pages.end)).any():
        return np.zeros(len(pages), bool)
    found = np.ones(len(pages), bool)
    for first, last in (spans - pages.start).clip(0, len(pages)).tolist():
        found[first:last] = False
    if found.any():
        never = (pages.flags == 0) & (pages.refcount == 0) & ~pages.in_free_block
        found &= pages.has_flag("PG_reserved") | never | ~pages.readable
    return found


def hole_note(pages: int, page_size: int) -> list[str]:
    """What is said of so many pages that are not counted."""
    size = bytes_text(pages * page_size)
    text = (
        f"Not counted: {size} that have a struct page but lie in no zone, such as the rest of a memory "
        "section beyond the end of memory: there is no memory."
    )
    return [text] if pages else []
