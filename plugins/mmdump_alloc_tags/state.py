"""Whether memory is profiled on this kernel, and where pages keep the reference to their tag.

Mirrors ``include/linux/pgalloc_tag.h`` and ``mm/alloc_tag.c`` (up to 7.2: ``lib/alloc_tag.c``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.kernel.arrays import I64, U64
from mmdump.kernel.layout import find_object, find_type
from mmdump.kernel.page_ext import PageExtClient
from mmdump_alloc_tags.tags import EMPTY, NONE, UNKNOWN, AllocTags

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = [
    "ALLOC_TAGGING",
    "OFF",
    "TagRefs",
    "is_profiling",
    "read_tag_refs",
    "why_no_profiling",
    "why_not_built",
]

#: 6.10. The reference is a union of one pointer, to the tag's ``struct codetag``, which comes first in it.
ALLOC_TAGGING = PageExtClient(
    "page_alloc_tagging",
    ops="page_alloc_tagging_ops",
    struct="union codetag_ref",
    enabled="mem_alloc_profiling_key",
    # 6.13: what does not need page_ext where page->flags has room for the number of a tag.
    disabled="mem_profiling_compressed",
    members={"ct": ("ct",)},
)

#: CODETAG_EMPTY, a pointer of this value: with CONFIG_MEM_ALLOC_PROFILING_DEBUG, "not to be counted".
_EMPTY_POINTER = 1
#: CODETAG_ID_EMPTY and CODETAG_ID_FIRST: what the first numbers in page->flags mean (0: none).
_ID_EMPTY, _ID_FIRST = 1, 2


def why_not_built(kernel: Kernel) -> str | None:
    """Why this kernel has no allocation tags at all, in one sentence; None when it has."""
    prog = kernel.target.prog
    if find_type(prog, "struct alloc_tag") is None or find_object(prog, "mem_alloc_profiling_key") is None:
        return "this kernel was built without memory allocation profiling (CONFIG_MEM_ALLOC_PROFILING, 6.10)"
    return None


OFF = "memory allocation profiling was built in but not enabled: boot with sysctl.vm.mem_profiling=1"


def why_no_profiling(kernel: Kernel) -> str | None:
    """Why nothing is profiled on this kernel, in one sentence; None when something is."""
    reason = why_not_built(kernel)
    if reason is not None:
        return reason
    profiling = is_profiling(kernel)
    if profiling is None:
        return "whether memory allocation profiling is on could not be read"
    return None if profiling else OFF


def is_profiling(kernel: Kernel) -> bool | None:
    """Whether allocations are counted at the moment of the dump; None where that cannot be read."""
    try:
        return is_on(kernel.target.prog, "mem_alloc_profiling_key")
    except FaultError:
        return None


def is_on(prog: Program, name: str) -> bool:
    """Whether a static key is on; a kernel that lacks it has it off.

    :raises drgn.FaultError: It is not in the dump.
    """
    key = find_object(prog, name)
    return key is not None and key.key.enabled.counter.value_() > 0


@dataclass(frozen=True)
class TagRefs:
    """Finds the tags of pages. Plain data.

    The first page of an allocation refers to the tag, and the others have none.

    :param order: Numbers of the tags by ascending address, int64.
    :param address: Those addresses, uint64.
    :param shift: Where page->flags has the number of a tag; -1 where page_ext has a pointer to it.
    :param mask: Of that number.
    :param by_id: Addresses of the tags by that number, uint64.
    """

    order: I64
    address: U64
    shift: int = -1
    mask: int = 0
    kernel_first: int = 0
    kernel_count: int = 0
    module_first: int = 0
    tag_size: int = 0

    def of_pages(self, pages: PageRange) -> I64 | None:
        """The number of each page's tag, or NONE, EMPTY or UNKNOWN; None where pages have no references."""
        if self.shift >= 0:
            return self._of_ids((pages.flags >> np.uint64(self.shift)) & np.uint64(self.mask))
        if pages.ext is None or not pages.ext.layout.enabled(ALLOC_TAGGING.name):
            return None
        return self.numbers(pages.ext[ALLOC_TAGGING.name]["ct"].astype(np.uint64))

    def numbers(self, references: U64) -> I64:
        """The tags that pointers refer to: their numbers, or NONE, EMPTY or UNKNOWN."""
        found = np.full(len(references), NONE, np.int64)
        rows = np.flatnonzero(references)
        wanted = references[rows]
        place = np.minimum(np.searchsorted(self.address, wanted), len(self.address) - 1)
        known = self.address[place] == wanted
        found[rows] = np.where(
            known, self.order[place], np.where(wanted == np.uint64(_EMPTY_POINTER), EMPTY, UNKNOWN)
        )
        return found

    def _of_ids(self, ids: U64) -> I64:
        """``idx_to_ref()``."""
        numbers = ids.astype(np.int64) - _ID_FIRST
        inside = numbers < self.kernel_count
        first = np.where(inside, np.uint64(self.kernel_first), np.uint64(self.module_first))
        place = np.where(inside, numbers, numbers - self.kernel_count)
        address = first + np.maximum(place, 0).astype(np.uint64) * np.uint64(self.tag_size)
        address[ids == 0] = 0
        address[ids == _ID_EMPTY] = _EMPTY_POINTER
        return self.numbers(address)


def read_tag_refs(kernel: Kernel, tags: AllocTags) -> TagRefs:
    """How pages of this kernel refer to their tags."""
    order = np.argsort(tags.address, kind="stable")
    plain = TagRefs(order, tags.address[order])
    prog = kernel.target.prog
    try:
        if not is_on(prog, "mem_profiling_compressed"):
            return plain
        shift, mask = (prog[name].value_() for name in ("alloc_tag_ref_offs", "alloc_tag_ref_mask"))
        section, module = prog["kernel_tags"], find_object(prog, "module_tags")
        if not 0 <= shift < 64 or not 0 < mask < 1 << 64:
            return plain
        return TagRefs(
            order,
            tags.address[order],
            shift=shift,
            mask=mask,
            kernel_first=section.first_tag.value_(),
            kernel_count=min(section.count.value_(), 1 << 62),
            module_first=module.start_addr.value_() if module is not None else 0,
            tag_size=prog.type("struct alloc_tag").size or 0,
        )
    except (FaultError, LookupError, AttributeError):
        return plain
