"""Which folios are held, and by what evidence: the heart of ``mmdump pinned``, per range of pages."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.page import MAPPING_MOVABLE
from mmdump.kernel.references import FolioBatches, FolioKinds, ReferenceAccount, account_references
from mmdump.target import ReadStatus
from mmdump_page_pinner.marks import FAILED, GET, RFC_FLAGS, flagged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmdump.kernel.arrays import I64, U8, Bools
    from mmdump.kernel.page import PageRange

__all__ = [
    "EVIDENCE",
    "EXCESS",
    "FOLL_PIN",
    "GOT",
    "MIGRATION_FAILED",
    "PINNER",
    "STATES",
    "Held",
    "find_held",
    "find_lasting",
    "untold",
]

#: Bits of an evidence code, and their names in the order of those bits.
PINNER, FOLL_PIN, EXCESS, MIGRATION_FAILED, GOT = 1, 2, 4, 8, 16
EVIDENCE = ("page_pinner", "foll_pin", "excess", "migration_failed", "get")
#: What a page of such evidence can be.
STATES = ("released", "held", "unknown")
#: Of these, what makes a page a row whether or not anything holds it; and what is no sign of the references.
_MARKS, _RECORDED = PINNER | MIGRATION_FAILED, PINNER | MIGRATION_FAILED | GOT


@dataclass(frozen=True)
class Held:
    """Pages of a range with a mark, or folios with a reference too many.

    Arrays have one value per row of the answer; a folio's own row comes before those of its marked tails.

    :param rows: Row numbers within the range, ascending, int64.
    :param heads: Row number of each page's head.
    :param evidence: Bits of :data:`PINNER` and so on for that page.
    :param folio_evidence: The same for its whole folio.
    :param held: Whether something holds the folio now.
    :param unknown: Whether that cannot be told, because its ``struct page`` could not be read.
    :param counted: The row that stands for its folio when folios are counted.
    :param account: The references of each row's folio.
    """

    rows: I64
    heads: I64
    evidence: U8
    folio_evidence: U8
    held: Bools
    unknown: Bools
    counted: Bools
    account: ReferenceAccount

    def only(self, rows: Bools, *, still_held: Bools) -> Held:
        """Some of the rows; those that are not still held only carry their mark."""
        account = ReferenceAccount(
            FolioKinds(**{name: value[rows] for name, value in vars(self.account.kinds).items()}),
            **{name: value[rows] for name, value in vars(self.account).items() if name != "kinds"},
        )
        lost = ~(still_held & self.held)[rows]
        marks = np.uint8(_RECORDED)
        return Held(
            self.rows[rows],
            self.heads[rows],
            np.where(lost, self.evidence[rows] & marks, self.evidence[rows]),
            np.where(lost, self.folio_evidence[rows] & marks, self.folio_evidence[rows]),
            ~lost,
            self.unknown[rows],
            self.counted[rows],
            account,
        )


def find_held(pages: PageRange, batches: FolioBatches) -> Held:
    """Find what is held in a range of pages: once, for all who ask."""
    return pages.once(("held", id(batches)), lambda: _find_held(pages, batches))


def _find_held(pages: PageRange, batches: FolioBatches) -> Held:
    own = _recorded(pages)
    marks = np.flatnonzero(own & np.uint8(_MARKS))
    candidates = _candidates(pages)
    judged = account_references(pages, candidates, batches)
    foll_pin, excess = judged.pincount > 0, judged.excess > 0
    suspects = candidates[foll_pin | excess]

    # A marked tail is a row of its own, and so is the head of its folio when that is held.
    rows = np.union1d(suspects, marks)
    heads = pages.head_rows(at=rows)
    folio = np.zeros(len(pages), np.uint8)
    folio[candidates] = foll_pin * np.uint8(FOLL_PIN) | excess * np.uint8(EXCESS)
    held = folio[heads] != 0
    evidence = own[rows] | folio[heads]
    np.bitwise_or.at(folio, heads, own[rows])

    _, first = np.unique(heads, return_index=True)
    counted = np.zeros(len(rows), bool)
    counted[first] = True
    return Held(
        rows=rows,
        heads=heads,
        evidence=evidence,
        folio_evidence=folio[heads],
        held=held,
        unknown=~pages.readable[heads],
        counted=counted,
        account=account_references(pages, heads, batches),
    )


def untold(pages: PageRange, pfns: Sequence[int]) -> I64:
    """Of these PFNs, ascending, those in a range of which it cannot be told whether they are marked or held.

    That is where the page's ``struct page``, or its page_ext entry, is not in the dump. int64.
    """
    asked = np.array(pfns, np.int64)
    asked = asked[(asked >= pages.start) & (asked < pages.end)]
    rows = asked - pages.start
    lost = ~pages.readable[rows]
    if pages.ext is not None and any(flag in pages.ext.layout.flags for flag in (*RFC_FLAGS, FAILED)):
        lost |= pages.ext.status[rows] != ReadStatus.READ
    return asked[lost]


def find_lasting(pages: PageRange, batches: FolioBatches) -> tuple[PageRange, Held]:
    """The same where memory moves: what is held in every one of some readings, a moment apart.

    A live kernel changes pages while they are read, and takes and drops references all the time: to look up a
    page, to fault it in, to migrate it. What holds a page for good still does a moment later. Of a folio
    whose ``struct page`` is torn, the next reading is not. In a dump there is one reading.

    :return: The last reading, and what lasted.
    """
    held = find_held(pages, batches)
    if pages.again is None:
        return pages, held
    for _ in range(_READINGS - 1):
        if not held.held.any():
            break
        heads = held.heads[held.held]
        was_held, was_mapping = np.zeros(len(pages), bool), np.zeros(len(pages), np.uint64)
        was_held[heads], was_mapping[heads] = True, pages.mapping[heads]
        time.sleep(_MOMENT)
        pages = pages.again() if pages.again is not None else pages
        held = find_held(pages, batches)
        # Of the same folio: a page that was freed and is held for another reason has another mapping.
        lasting = was_held[held.heads] & (was_mapping[held.heads] == pages.mapping[held.heads])
        held = held.only(lasting | ((held.evidence & _MARKS) != 0), still_held=lasting)
    return pages, held


#: Readings of a live kernel's memory, and the seconds between them.
_READINGS, _MOMENT = 3, 0.05


def _recorded(pages: PageRange) -> U8:
    """What the page pinner has recorded of each page: bits of an evidence code."""
    own = np.zeros(len(pages), np.uint8)
    if pages.ext is None:
        return own
    for code, flags in ((PINNER, RFC_FLAGS), (MIGRATION_FAILED, (FAILED,)), (GOT, (GET,))):
        if any(flag in pages.ext.layout.flags for flag in flags):
            own |= flagged(pages.ext, *flags) * np.uint8(code)
    return own


def _candidates(pages: PageRange) -> I64:
    """Folios that are user memory in use: what the kernel itself owns is not pinned, it is just in use.

    That is what has a mapping, or is on the LRU, or is mapped by a process (such as a driver's buffer).
    Movable pages of drivers migrate by callbacks of their own.
    """
    # Tails have no references of their own.
    rows = pages.referenced
    rows = rows[pages.refcount[rows] > 0]
    used = ~pages.is_tail[rows] & ~pages.has_flag("PG_reserved", at=rows)
    used &= ~pages.is_typed(at=rows) | pages.is_type("hugetlb", at=rows)
    rows = rows[used]
    mapping = pages.mapping[rows]
    user = (mapping != 0) | pages.has_flag("PG_lru", at=rows) | (pages.folio_mapcount(rows) > 0)
    return rows[user & ((mapping & np.uint64(3)) != MAPPING_MOVABLE)]
