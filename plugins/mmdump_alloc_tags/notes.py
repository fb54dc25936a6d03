"""The line of code that allocated single pages, for ``mmdump page``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdump.errors import MmdumpError
from mmdump.kernel.arrays import printable
from mmdump.pagenotes import AskedPages, Fact, Section
from mmdump.result import Kind
from mmdump.target.reader import ReadStatus
from mmdump_alloc_tags.slabs import read_slab_reader
from mmdump_alloc_tags.state import ALLOC_TAGGING, TagRefs, read_tag_refs, why_no_profiling
from mmdump_alloc_tags.tags import EMPTY, NONE, AllocTags, read_tags
from mmdump_page_owner.record import PAGE_OWNER, Owners, read_owners

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["tag_notes"]

_TITLE, _RANK = "allocated at", 32


def tag_notes(kernel: Kernel, asked: AskedPages) -> dict[int, Sequence[Section]]:
    """The line that each page's allocation refers to, and that of the slab object that was asked for.

    A kernel that is not profiled has nothing to say here.
    """
    if why_no_profiling(kernel) is not None:
        return {}
    try:
        tags = read_tags(kernel)
    except MmdumpError as error:
        unknown = Section(_TITLE, [Fact("not known", error.message)], _RANK)
        return {pfn: [unknown] for pfn in asked.pfns}
    refs, owners = read_tag_refs(kernel, tags), read_owners(kernel)
    found: dict[int, Sequence[Section]] = {}
    for pages, rows in asked.ranges():
        numbers = refs.of_pages(pages)
        if numbers is None:
            return {}
        for row in rows.tolist():
            facts = _page(kernel, pages, row, tags, refs, owners)
            for address in asked.addresses.get(pages.start + row, ()):
                facts += _object(kernel, pages, row, address, tags, refs)
            found[pages.start + row] = [Section(_TITLE, facts, _RANK)]
    return found


def _page(
    kernel: Kernel, pages: PageRange, row: int, tags: AllocTags, refs: TagRefs, owners: Owners | None
) -> list[Fact]:
    first = pages.start + row
    if pages.is_tail[row]:
        first = int(pages.head_pfn[row])
    elif owners is not None and pages.ext is not None and owners.allocated(pages)[row]:
        order = int(pages.ext[PAGE_OWNER.name].rows(np.array([row]))["order"][0])
        first &= ~((1 << order) - 1) if order <= owners.max_order else -1
    if not pages.start <= first < pages.end:
        # A gigantic folio began in another range.
        pages = kernel.pages(first, first + 1, ext=True)
    row = first - pages.start
    if refs.shift < 0 and (pages.ext is None or pages.ext.status[row] != ReadStatus.READ):
        return [Fact("not known", "its page_ext entry is not in the dump")]
    numbers = refs.of_pages(pages)
    assert numbers is not None
    number = int(numbers[row])
    if number >= 0:
        return _facts(tags, number)
    if number == NONE:
        if pages.in_free_block[row]:
            return []
        return [Fact("no tag", "allocated before profiling was ready, or out of its sight")]
    if number == EMPTY:
        return [Fact("no tag", "meant to have none (CODETAG_EMPTY)")]
    return [Fact("garbage", f"what stands in {_where(refs)} is no tag of this kernel")]


def _where(refs: TagRefs) -> str:
    return f"page_ext ({ALLOC_TAGGING.ops})" if refs.shift < 0 else "page->flags"


def _object(
    kernel: Kernel, pages: PageRange, row: int, address: int, tags: AllocTags, refs: TagRefs
) -> list[Fact]:
    """The line that allocated the slab object at an address."""
    head = int(pages.head_pfn[row])
    reader = read_slab_reader(kernel)
    if reader is None or head < pages.start:
        return []
    slab = head - pages.start
    if not pages.is_type("slab", at=np.array([slab]))[0]:
        return []
    page_size = kernel.target.page_size
    offset = (pages.start + row - head) * page_size + address % page_size
    reference = reader.reference(head, int(pages.folio_order[slab]), offset)
    number = int(refs.numbers(np.array([reference or 0], np.uint64))[0])
    return _facts(tags, number, "object: ") if number >= 0 else []


def _facts(tags: AllocTags, number: int, prefix: str = "") -> list[Fact]:
    function, file, module = (
        None if each is None else printable(each)
        for each in (tags.function[number], tags.filename[number], tags.modname[number])
    )
    facts = [
        Fact(f"{prefix}line", f"{file or '?'}:{tags.lineno[number]}"),
        Fact(f"{prefix}function", function or "?"),
    ]
    if module is not None:
        facts.append(Fact(f"{prefix}module", module))
    if tags.counted[number]:
        facts.append(Fact(f"{prefix}all of that line", int(tags.bytes[number]), Kind.BYTES))
    return facts
