"""The questions of ``mmdump pinned`` and ``page-owner`` through drgn's objects, as one writes them by hand.

This is the yardstick, not a straw man: helpers where drgn has them, stacks cached for each handle,
page_owner's record read only for pages that have something to show. It knows Linux 6.12 alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drgn import Object, Program, cast
from drgn.helpers.linux.mm import compound_head, compound_order, page_to_pfn, pfn_to_page
from drgn.helpers.linux.mmzone import pfn_to_section
from drgn.helpers.linux.stackdepot import stack_depot_fetch

PGTY_HUGETLB = 0xF4
GUP_PIN_COUNTING_BIAS = 1024


class Pinned:
    """Holds what is looked up once."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        flags = {each.name: 1 << each.value for each in prog.type("enum pageflags").enumerators or ()}
        self.lru, self.head, self.reserved = flags["PG_lru"], flags["PG_head"], flags["PG_reserved"]
        self.swapbacked, self.private = flags["PG_swapbacked"], flags["PG_private"]
        self.swapcache = flags["PG_swapcache"]
        self.stride = prog["page_ext_size"].value_()
        self.pinner = 1 << prog.constant("PAGE_EXT_PINNER").value_()
        self.owner_offset = prog["page_owner_ops"].offset.value_()
        self.owner_type = prog.type("struct page_owner")
        self.stacks: dict[int, list[str]] = {}

    def pages(self, start: int, end: int) -> Iterator[dict[str, Any]]:
        """Rows for the marked or held pages in [start, end)."""
        page = pfn_to_page(self.prog, start)
        for pfn in range(start, end):
            row = self.page(pfn, page)
            if row is not None:
                yield row
            page += 1

    def page(self, pfn: int, page: Object) -> dict[str, Any] | None:
        """What is known of a page that is marked or held; None for all others."""
        ext = pfn_to_section(self.prog, pfn).page_ext.value_() + self.stride * pfn
        marked = bool(self.prog.read_u64(ext) & self.pinner)
        head = compound_head(page)
        if not marked and head != page:
            return None
        folio = cast("struct folio *", head)
        references = folio._refcount.counter.value_()
        evidence = ["page_pinner"] if marked else []
        pins = excess = 0
        if references:
            pins, excess = self.account(folio, references)
        if pins:
            evidence.append("foll_pin")
        if excess > 0:
            evidence.append("excess")
        if not evidence:
            return None
        owner = Object(self.prog, self.owner_type, address=ext + self.owner_offset).read_()
        return {
            "pfn": pfn,
            "head_pfn": page_to_pfn(head).value_(),
            "evidence": evidence,
            "refcount": references,
            "owner_pid": owner.pid.value_(),
            "owner_comm": owner.comm.string_().decode(errors="replace"),
            "frames": self.stack(owner.handle.value_()),
        }

    def account(self, folio: Object, references: int) -> tuple[int, int]:
        """FOLL_PIN pins of a user's folio, and its references that nothing explains."""
        flags = folio.flags.value_()
        mapping = folio.mapping.value_()
        mapcount = folio._mapcount.counter.value_()
        large = bool(flags & self.head)
        typed = mapcount < -16777216
        if flags & self.reserved or (typed and (mapcount >> 24) & 0xFF != PGTY_HUGETLB):
            return 0, 0
        if mapping & 3 == 2:
            return 0, 0
        mapped = folio._large_mapcount.counter.value_() + 1 if large else 0 if typed else mapcount + 1
        if not mapping and not flags & self.lru and not mapped:
            return 0, 0
        count = 1 << compound_order(cast("struct page *", folio)).value_() if large else 1
        pins = folio._pincount.counter.value_() if large else references // GUP_PIN_COUNTING_BIAS
        explained = mapped + (pins if large else pins * GUP_PIN_COUNTING_BIAS)
        anon = bool(mapping & 1)
        if (mapping and not anon) or (flags & self.swapcache and flags & self.swapbacked):
            explained += count
        if flags & self.private and not anon:
            explained += 1
        if not flags & self.lru and references > explained:
            explained += 1
        return pins, references - explained

    def stack(self, handle: int) -> list[str]:
        """The frames of a stack, looked up once."""
        if handle not in self.stacks:
            trace = stack_depot_fetch(Object(self.prog, "depot_stack_handle_t", handle))
            self.stacks[handle] = [str(frame) for frame in trace or ()]
        return self.stacks[handle]


class Allocated:
    """The question of ``mmdump page-owner``, record by record; goes on by orders as ``read_page_owner()``."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.stride = prog["page_ext_size"].value_()
        self.allocated = 1 << prog.constant("PAGE_EXT_OWNER_ALLOCATED").value_()
        self.offset = prog["page_owner_ops"].offset.value_()
        self.type = prog.type("struct page_owner")

    def by_stack(self, start: int, end: int) -> dict[int, list[Any]]:
        """Stack handle -> pages, allocations, oldest, newest, names of tasks; of [start, end)."""
        found: dict[int, list[Any]] = {}
        pfn = start
        while pfn < end:
            entry = pfn_to_section(self.prog, pfn).page_ext.value_() + self.stride * pfn
            if not self.prog.read_u64(entry) & self.allocated:
                pfn += 1
                continue
            owner = Object(self.prog, self.type, address=entry + self.offset).read_()
            pages, time = 1 << owner.order.value_(), owner.ts_nsec.value_()
            sums = found.setdefault(owner.handle.value_(), [0, 0, time, time, set()])
            sums[0] += pages
            sums[1] += 1
            sums[2], sums[3] = min(sums[2], time), max(sums[3], time)
            sums[4].add(owner.comm.string_().decode(errors="replace"))
            pfn += pages
        return found
