"""Folios taken off the LRU: compaction, reclaim and migration keep them on lists of their own (mm/vmscan.c).

Nobody has the address of such a folio but its neighbours on the list; the list leads to whoever isolated it.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, offsetof

from mmdump.holders import Case, Counted, Hit, Holder, Owner, State
from mmdump.kernel.layout import find_object
from mmdump.kernel.page import MAPPING_MOVABLE

__all__ = ["find_isolated"]

#: Folios that are asked, and those on one list that are passed.
_MAX_FOLIOS = 1 << 12
_MAX_LIST = 1 << 14


def find_isolated(case: Case) -> Iterator[Holder]:
    """Whose list an isolated folio is on: mostly one on the stack of a task that compacts or reclaims."""
    lru = find_object(case.prog, "PG_lru")
    if lru is None:
        return
    bit, known = int(lru.value_()), _Lists(case)
    for folio, pages in list(case.folios.items())[:_MAX_FOLIOS]:
        try:
            holder = _isolated(case, folio, pages, bit, known)
        except (FaultError, LookupError, AttributeError):
            continue
        if holder is not None:
            yield holder


class _Lists:
    """Where lists of pages begin; each page of a list is passed once."""

    def __init__(self, case: Case) -> None:
        memmap = case.kernel.memmap
        self._prog = case.prog
        self._low, self._high = memmap.address(0), memmap.address(memmap.end_pfn)
        self._lru = offsetof(case.prog.type("struct page"), "lru")
        self._heads: dict[int, int] = {}

    def head(self, page: int) -> int:
        """The address of the list's head, 0 for none: the one link that is no page's."""
        passed = []
        at = page + self._lru
        for _ in range(_MAX_LIST):
            if at in self._heads:
                break
            passed.append(at)
            self._heads[at] = 0
            following = self._prog.read_u64(at)
            # The list is whole: what follows leads back.
            if self._prog.read_u64(following + 8) != at:
                break
            if not self._low <= following < self._high:
                self._heads[at] = following
                break
            at = following
        found = self._heads.get(at, 0)
        self._heads.update(dict.fromkeys(passed, found))
        return found


def _isolated(case: Case, folio: int, pages: int, bit: int, lists: _Lists) -> Holder | None:
    address = case.kernel.memmap.address(folio)
    window = case.kernel.pages(folio, folio + 1, blocks=False)
    if not window.readable[0] or window.refcount[0] <= 0 or window.is_typed()[0] or window.is_type("slab")[0]:
        return None
    mapping = int(window.mapping[0])
    if int(window.flags[0]) >> bit & 1 or not mapping or mapping & 3 == MAPPING_MOVABLE:
        return None
    head = lists.head(address)
    place = case.place(head) if head else None
    if place is None or place.state is State.STALE:
        return None
    hit = Hit(folio, pages, folio, "list", address, 0, 0, head, place)
    task = place.task
    owners = [Owner(task.tgid, task.comm)] if task is not None else []
    what = f"on a list at {place.name}" if task is None else f"on a list {place.why}"
    return Holder(hit, "isolation", State.LIVE, what, "", head, owners, 1, Counted.REFERENCE)
