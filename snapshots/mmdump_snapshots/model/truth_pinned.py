"""Which folios are held by something that mappings and caches do not explain: the truth of ``mmdump pinned``.

It is in the decoder's terms: what can be known at a page at all. A plain reference has no name on it; one
reference to a folio that is not on the LRU may be whoever isolated it; and 1024 plain references to a small
page are one pin for all that a kernel with FOLL_PIN knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .era import Pincounts
from .folio import FolioKind
from .gup import GUP_PIN_COUNTING_BIAS
from .pages import ExtFlag, PageFlag, PageType
from .references import cache_references
from .truth_mapcount import Mappings, page_table_mappings

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["PinnedPage", "pinned_pages"]

#: Evidence, in the order in which it is listed.
PAGE_PINNER, FOLL_PIN, EXCESS = "page_pinner", "foll_pin", "excess"
#: Those of Android's page pinner.
MIGRATION_FAILED, GET = "migration_failed", "get"


@dataclass(frozen=True)
class PinnedPage:
    """One page that is held, or was marked by the page pinner.

    :param pfn: The page: the head of a held folio, or a marked page.
    :param evidence: Of ``page_pinner`` (this very page is marked), ``foll_pin``, ``excess``; with Android
        ``migration_failed`` (marked) and ``get`` (somebody got it by get_user_pages()) instead of the first.
    :param state: ``held``, or ``released``: marked, but nothing holds it any more.
    :param refcount: References to the folio.
    :param mapcount: Mappings of the folio, by the page tables.
    :param pincount: FOLL_PIN pins, as far as the kernel's counters can tell.
    :param excess: References that nothing explains.
    :param owner_pid: By the page_owner record of the page; None without one.
    """

    pfn: int
    head_pfn: int
    order: int
    evidence: tuple[str, ...]
    state: str
    refcount: int
    mapcount: int
    pincount: int
    excess: int
    kind: FolioKind
    owner_comm: str | None
    owner_pid: int | None
    owner_handle: int | None

    @property
    def explained(self) -> int:
        """References with a known reason, pins among them."""
        return self.refcount - self.excess


def pinned_pages(machine: Machine) -> list[PinnedPage]:
    """Every page that is held or marked, by PFN."""
    mappings = page_table_mappings(machine)
    accounts = {head: _account(machine, head, mappings) for head in _candidates(machine, mappings)}
    held = {head for head, account in accounts.items() if account[1] or account[2]}
    marks = set() if machine.page_pinner is None else set(machine.page_pinner.marked())
    found = []
    for pfn in sorted(held | marks):
        head = machine.pages.head(pfn)
        mapcount, pincount, excess = accounts.get(head) or _account(machine, head, mappings)
        if head not in held:
            pincount = excess = 0
        signs = (
            (PAGE_PINNER, pfn in marks and not machine.era.android),
            (FOLL_PIN, pincount),
            (EXCESS, excess),
            (MIGRATION_FAILED, pfn in marks and machine.era.android),
            (GET, machine.page_ext.has(pfn, ExtFlag.GET)),
        )
        comm, pid, handle = _owner(machine, pfn)
        found.append(
            PinnedPage(
                pfn=pfn,
                head_pfn=head,
                order=machine.rmap.order(head),
                evidence=tuple(name for name, sign in signs if sign),
                state="held" if head in held else "released",
                refcount=int(machine.pages.refcount[head]),
                mapcount=mapcount,
                pincount=pincount,
                excess=excess,
                kind=machine.rmap.kind(head),
                owner_comm=comm,
                owner_pid=pid,
                owner_handle=handle,
            )
        )
    return found


def _candidates(machine: Machine, mappings: Mappings) -> list[int]:
    """Folios of user memory: with a mapping, on the LRU, or mapped by a process."""
    pages = machine.pages
    rows = np.flatnonzero(pages.refcount > 0)
    kinds = pages.type[rows]
    rows = rows[
        ((kinds == PageType.NONE) | (kinds == PageType.HUGETLB))
        & ((pages.flags[rows] & np.uint32(PageFlag.RESERVED)) == 0)
    ]
    user = (pages.mapping[rows] != 0) | ((pages.flags[rows] & np.uint32(PageFlag.LRU)) != 0)
    user |= np.isin(rows, mappings.pte_pfns)
    return rows[user].tolist()


def _account(machine: Machine, head: int, mappings: Mappings) -> tuple[int, int, int]:
    """Mappings, pins, and references that nothing explains, of a folio."""
    pages, rmap = machine.pages, machine.rmap
    mapcount = int(mappings.ptes(head, rmap.nr_pages(head)).sum()) + mappings.pmds.get(head, 0)
    batched = machine.batches.references(head)
    extra = int(pages.refcount[head]) - mapcount - cache_references(machine, head) - batched
    pincount = 0
    if machine.gup.counted(head):
        pincount = rmap.folios[head].pincount
        extra -= pincount
    elif machine.era.pincounts is not Pincounts.NONE:
        pincount, extra = divmod(extra, GUP_PIN_COUNTING_BIAS)
    user = rmap.kind(head) is not FolioKind.OTHER
    on_lru = pages.has(head, PageFlag.LRU) or pages.type[head] == PageType.HUGETLB
    if not on_lru and (not user or (batched == 0 and extra > 0)):
        # The allocation's own reference, or that of whoever took the folio off the LRU.
        extra -= 1
    return mapcount, pincount, max(extra, 0)


def _owner(machine: Machine, pfn: int) -> tuple[str | None, int | None, int | None]:
    """Name, PID and stack handle of who allocated a page, as far as the era records them."""
    tracker = machine.page_owner
    if not machine.era.owner_on_every_page:
        pfn = machine.pages.head(pfn)
    if tracker is None or not machine.page_ext.flags[pfn] & tracker.allocated:
        return None, None, None
    owners, era = tracker.owners, machine.era
    return (
        machine.comms[int(owners.comm[pfn])] if era.owner_has_comm else None,
        int(owners.pid[pfn]) if era.owner_has_pid else None,
        int(owners.handle[pfn]),
    )
