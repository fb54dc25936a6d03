"""Whether the page pinner has marked single pages, and whether something holds them, for ``mmdump page``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.clock import latest_nsec
from mmdump.pagenotes import AskedPages, Fact, Section
from mmdump_page_owner.record import no_owners, read_owners
from mmdump_page_pinner.android_notes import event_facts, record_facts
from mmdump_page_pinner.events import recorded_or_none
from mmdump_page_pinner.evidence import EVIDENCE, find_held
from mmdump_page_pinner.history import ROW_TYPES, history_of, story, timelines_of
from mmdump_page_pinner.marks import marked, why_no_marks
from mmdump_page_pinner.witnesses import read_witnesses

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["pinner_notes"]

_RANK = 25


def pinner_notes(kernel: Kernel, asked: AskedPages) -> dict[int, Sequence[Section]]:
    """The evidence that ``mmdump pinned`` has for each page or its folio."""
    reason = why_no_marks(kernel)
    events = recorded_or_none(kernel)
    found: dict[int, Sequence[Section]] = {}
    stories = _stories(kernel, asked) if reason is None else {}
    for pages, rows in asked.ranges():
        held = find_held(pages, kernel.folio_batches)
        marks = marked(pages.ext) if pages.ext is not None else np.zeros(len(pages), bool)
        for row, head in zip(rows.tolist(), pages.head_rows(at=rows).tolist(), strict=True):
            of_folio = np.flatnonzero(held.heads == head)
            code = int(held.folio_evidence[of_folio[0]]) if len(of_folio) else 0
            is_held = bool(len(of_folio)) and bool(held.held[of_folio[0]])
            names = [name for bit, name in enumerate(EVIDENCE) if code >> bit & 1]
            facts = []
            # Nobody holds a free page.
            if pages.refcount[head] > 0:
                words = "yes, by something" if is_held else "no, all its references are accounted for"
                facts += [Fact("held", words), Fact("evidence", ", ".join(names) or "none")]
            if reason is None:
                words = "yes: a contiguous allocation failed here once" if marks[row] else "no"
                facts.append(Fact("marked by page_pinner", words))
                facts += record_facts(kernel, pages, row)
                facts += event_facts(kernel, events, pages.start + row)
                if pages.start + row in stories:
                    facts.append(Fact("history", stories[pages.start + row]))
            else:
                facts.append(Fact("marks", reason))
            found[pages.start + row] = [Section("pinned", facts, _RANK)]
    return found


def _stories(kernel: Kernel, asked: AskedPages) -> dict[int, list[str]]:
    """What the trace tells of the pages it saw."""
    witnesses = read_witnesses(kernel)
    if not witnesses.seen:
        return {}
    ranges = [(pfn, pfn + 1) for pfn in asked.pfns]
    pages = _rows(kernel, asked)
    events = history_of(witnesses, pages, ranges, latest_nsec(kernel))
    clock = [] if witnesses.related else ["these times cannot be compared with those of page_owner"]
    return {
        row["pfn"]: [*story(row).split("; "), *clock]
        for row in timelines_of(events, pages).iter_rows(named=True)
    }


def _rows(kernel: Kernel, asked: AskedPages) -> pl.DataFrame:
    """The pages, as far as their history has to know them: when they were allocated."""
    owners = read_owners(kernel)
    found = [pl.DataFrame(schema=ROW_TYPES)]
    for pages, rows in asked.ranges():
        stored = {} if owners is None else owners.columns(pages, rows)
        frame = pl.DataFrame({"pfn": rows + pages.start} | stored)
        decoded = no_owners(len(frame)) if owners is None else owners.decode(frame)
        found.append(frame.select("pfn", decoded["owner_ts_nsec"]))
    return pl.concat(found, how="diagonal")
