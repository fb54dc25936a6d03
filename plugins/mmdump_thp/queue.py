"""The queues of folios to split (mm/huge_memory.c), checked as columns: ``next.prev == self`` everywhere.

Where the queues begin changed often (a node's list up to 5.3, a node's or a memory cgroup's ``struct
deferred_split`` since, a ``struct list_lru`` since 7.2), but the links in the folios did not: what a link
leads to that is no folio is the head of a queue, and every head leads back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.layout import byteorder
from mmdump.result import Finding, Severity

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["MAX_LINKS", "broken_queues"]

#: Links that are kept for the check: 24 bytes each.
MAX_LINKS = 1 << 20
#: Heads of queues that are read: one for each node and memory cgroup with such folios.
_MAX_HEADS = 1 << 12


def broken_queues(kernel: Kernel, links: pl.DataFrame) -> tuple[list[Finding], list[str]]:
    """Check the links of all folios on queues.

    :param links: ``node``, ``next``, ``prev``: addresses as int64.
    :return: What is wrong, and one sentence for what could not be checked.
    """
    if not len(links) or kernel.target.live:
        # A live kernel's queues move while they are read.
        return [], []
    if len(links) > MAX_LINKS:
        return [], [f"The links of more than {MAX_LINKS} folios on queues to split were not checked."]
    node, after, before = (links[name].to_numpy() for name in ("node", "next", "prev"))
    order = np.argsort(node)
    node, after, before = node[order], after[order], before[order]
    broken = np.zeros(len(node), bool)
    for there, back_is_prev in ((after, True), (before, False)):
        row = np.minimum(np.searchsorted(node, there), len(node) - 1)
        known = node[row] == there
        back = (before if back_is_prev else after)[row]
        broken |= known & (back != node)
        heads = np.unique(there[~known])
        if len(heads) > _MAX_HEADS:
            broken |= ~known
            continue
        words = np.array([_head(kernel, int(head))[1 if back_is_prev else 0] for head in heads], np.int64)
        at = np.minimum(np.searchsorted(heads, there), max(len(heads) - 1, 0))
        if len(heads):
            broken |= ~known & (words[at] != node)
    count = int(broken.sum())
    if not count:
        return [], []
    message = f"{count} folio{'s are' if count != 1 else ' is'} on a queue to split whose links do not match."
    return [Finding("deferred-list-broken", Severity.PROBLEM, message, "folios", "deferred")], []


def _head(kernel: Kernel, address: int) -> tuple[int, int]:
    """``next`` and ``prev`` of a list_head, as int64; zeros where there is nothing."""
    chunk = kernel.target.reader.read(address & 0xFFFFFFFFFFFFFFFF, 16)
    if not chunk.complete:
        return 0, 0
    words = chunk.data.view(f"{byteorder(kernel.target.prog)}i8")
    return int(words[0]), int(words[1])
