"""Which page follows which: the words of ``lru`` of all pages that are on a list of the kernel's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIST_POISON", "LinkTable"]

#: What list_del() leaves in an entry: POISON_POINTER_DELTA plus 0x100 and 0x122.
LIST_POISON = (0xDEAD000000000100, 0xDEAD000000000122)

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


class LinkTable:
    """Collects lists of pages (``struct list_head`` in ``lru``), and answers with their links.

    A list is anchored in a ``struct list_head`` outside the page array; :meth:`add` says what stands there.

    :param vmemmap: Address of the ``struct page`` of PFN 0.
    :param stride: ``sizeof(struct page)``.
    :param offset: Of ``lru`` in it.
    """

    def __init__(self, vmemmap: int, stride: int, offset: int) -> None:
        self._base = np.uint64(vmemmap + offset)
        self._stride = np.uint64(stride)
        self._parts: list[tuple[I64, U64, U64]] = []
        self._table: tuple[I64, U64, U64] | None = None

    def add(self, head: int, pfns: I64) -> tuple[int, int]:
        """A list of these pages, in this order, anchored at an address.

        :return: ``next`` and ``prev`` of the anchor.
        """
        if not len(pfns):
            return head, head
        nodes = self._base + pfns.astype(np.uint64) * self._stride
        after, before = np.empty_like(nodes), np.empty_like(nodes)
        after[:-1], after[-1] = nodes[1:], head
        before[1:], before[0] = nodes[:-1], head
        self._parts.append((pfns.astype(np.int64), after, before))
        self._table = None
        return int(nodes[0]), int(nodes[-1])

    def unlisted(self, pfns: I64, words: tuple[int, int]) -> None:
        """Pages that are on no list, but have these words where others have links."""
        count = len(pfns)
        if count:
            self._parts.append(
                (pfns, np.full(count, words[0], np.uint64), np.full(count, words[1], np.uint64))
            )
            self._table = None

    def put(self, start: int, stop: int, links: U64) -> None:
        """Write the links of the listed pages of [start, stop) into an array of shape (n, 2): next, prev."""
        pfns, after, before = self._sorted()
        low, high = np.searchsorted(pfns, (start, stop))
        rows = pfns[low:high] - start
        links[rows, 0] = after[low:high]
        links[rows, 1] = before[low:high]

    def _sorted(self) -> tuple[I64, U64, U64]:
        if self._table is None:
            if not self._parts:
                self._table = np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint64)
            else:
                pfns, after, before = (np.concatenate(part) for part in zip(*self._parts, strict=True))
                order = np.argsort(pfns, kind="stable")
                self._table = pfns[order], after[order], before[order]
                self._parts = [self._table]
        return self._table
