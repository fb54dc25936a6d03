"""Memory allocation profiling: which function allocated what, counted and remembered by page (6.10).

Mirrors ``include/linux/alloc_tag.h`` and ``include/linux/pgalloc_tag.h``. The kernel has a tag for each line
of code that allocates; here a function has one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .pages import column

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["AllocTags", "TagTruth"]

#: Functions that allocate on behalf of whoever called them, beside those whose names end in ``_noprof``.
_ALLOCATOR = frozenset(
    (
        "post_alloc_hook",
        "prep_new_page",
        "get_page_from_freelist",
        "compaction_alloc",
        "isolate_freepages_range",
    )
)


@dataclass(frozen=True)
class TagTruth:
    """What is allocated by a function.

    :ivar bytes: As counted.
    :ivar calls: As counted.
    :ivar pages: Of the allocations that refer to it.
    :ivar objects: Slab objects that do.
    """

    bytes: int
    calls: int
    pages: int
    objects: int = 0


class AllocTags:
    """The tags of a machine that is profiled.

    :ivar functions: Those that have a tag, in the order in which they first allocated.
    :ivar bytes: By CPU and function: what was allocated there less what was freed there.
    :ivar calls: The same of allocations.
    :ivar ref: Its function's index plus one, in the first page of an allocation; 0 elsewhere, uint16.
    :ivar order: Of the allocation that begins there, uint8.
    :ivar objects: Physical address of every slab object that refers to a tag -> its function's index.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._numbers: dict[str, int] = {}
        self.functions: list[str] = []
        self.bytes: list[list[int]] = [[] for _ in range(machine.cpus)]
        self.calls: list[list[int]] = [[] for _ in range(machine.cpus)]
        self.ref: NDArray[np.uint16] = column(machine.pages.count, np.uint16)
        self.order: NDArray[np.uint8] = column(machine.pages.count, np.uint8)
        self.objects: dict[int, int] = {}

    def add(self, pfn: int, order: int) -> None:
        """``pgalloc_tag_add()``: without a place for the reference nothing is counted."""
        if not self._has_place(pfn):
            return
        number = self._tag()
        self._count(number, self._machine.era.page_size << order, 1)
        self.ref[pfn], self.order[pfn] = number + 1, order

    def sub(self, pfn: int, order: int) -> None:
        """``pgalloc_tag_sub()``: what is freed, by whom it was allocated.

        Of a block that was split and is freed as a whole, all parts.
        """
        for part in (np.flatnonzero(self.ref[pfn : pfn + (1 << order)]) + pfn).tolist():
            self._sub(part, self._machine.era.page_size << int(self.order[part]))

    def sub_pages(self, pfn: int, count: int) -> None:
        """``pgalloc_tag_sub_pages()``: the tail of an allocation is freed, and its first page is not."""
        number = int(self.ref[pfn]) - 1
        if number >= 0:
            self._count(number, -count * self._machine.era.page_size, 0)
            self.order[pfn] = 0

    def add_object(self, address: int, size: int) -> None:
        """``alloc_tagging_slab_alloc_hook()``.

        :param size: Of an object of that cache.
        """
        self.objects[address] = number = self._tag()
        self._count(number, size, 1)

    def sub_object(self, address: int, size: int) -> None:
        """``alloc_tagging_slab_free_hook()``."""
        number = self.objects.pop(address, None)
        if number is not None:
            self._count(number, -size, -1)

    def split(self, pfn: int, old_order: int, new_order: int = 0) -> None:
        """``pgalloc_tag_split()``: each part is an allocation of its own."""
        number = int(self.ref[pfn]) - 1
        if number < 0:
            return
        step = 1 << new_order
        for part in range(pfn + step, pfn + (1 << old_order), step):
            self.ref[part] = number + 1
            self._count(number, 0, 1)
        self.order[pfn : pfn + (1 << old_order) : step] = new_order

    def migrate(self, new: int, old: int, order: int) -> None:
        """``pgalloc_tag_swap()``, up to 6.12 ``pgalloc_tag_copy()``: the new page is the old one's successor.

        Up to 6.12 the function that allocated the new page is relieved of as many bytes as there are pages.
        """
        if not self.ref[old]:
            return
        if self._machine.era.alloc_tags_swap:
            if self.ref[new]:
                self.ref[new], self.ref[old] = self.ref[old], self.ref[new]
            return
        self._sub(new, 1 << order)
        self.ref[new], self.order[new] = self.ref[old], order
        self.ref[old] = 0

    def truth(self) -> dict[str, TagTruth]:
        """By function."""
        rows = np.flatnonzero(self.ref)
        pages = np.bincount(
            self.ref[rows] - 1, np.left_shift(1, self.order[rows].astype(np.int64)), len(self.functions)
        )
        objects = Counter(self.objects.values())
        return {
            function: TagTruth(
                sum(cpu[number] for cpu in self.bytes),
                sum(cpu[number] for cpu in self.calls),
                int(pages[number]),
                objects[number],
            )
            for number, function in enumerate(self.functions)
        }

    def _sub(self, pfn: int, size: int) -> None:
        number = int(self.ref[pfn]) - 1
        if number >= 0:
            self._count(number, -size, -1)
            self.ref[pfn] = 0

    def _has_place(self, pfn: int) -> bool:
        return self._machine.boot.mem_profiling_compressed or self._machine.page_ext.lookup(pfn)

    def _count(self, number: int, size: int, calls: int) -> None:
        cpu = self._machine.cpu
        self.bytes[cpu][number] += size
        self.calls[cpu][number] += calls

    def _tag(self) -> int:
        """The number of the tag of whoever called the page allocator."""
        names = (frame.partition("+")[0] for frame in self._machine.stack())
        skipped = _ALLOCATOR
        named = (name for name in names if name not in skipped and not name.endswith("_noprof"))
        # What the model does before anybody runs is the kernel's own.
        function = next(named, "start_kernel")
        found = self._numbers.get(function)
        if found is None:
            found = self._numbers[function] = len(self.functions)
            self.functions.append(function)
            for counters in (*self.bytes, *self.calls):
                counters.append(0)
        return found
