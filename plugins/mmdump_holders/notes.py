"""What holds single pages, for ``mmdump page --holders``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mmdump.pagenotes import AskedPages, Fact, Section
from mmdump.result import Kind
from mmdump.scan import Ranges
from mmdump_holders.analysis import search_parts, start_search, tell
from mmdump_holders.ranges import joined_runs

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_holders.tables import Report

__all__ = ["holder_notes", "search_for"]

_RANK = 27


def search_for(kernel: Kernel, heads: Sequence[int]) -> Report:
    """Who holds some folios: two passes, one over the page array and one over what memory it leaves.

    :param heads: Their first PFNs.
    """
    sought = start_search(kernel, np.array(sorted(set(heads)), np.int64))
    memory, found = [], []
    for pages in Ranges(kernel):
        parts = search_parts(pages, sought)
        memory.append(pl.DataFrame(parts["memory"]))
        if "sought" in parts:
            found.append(pl.DataFrame(parts["sought"]))
    frames = {"memory": joined_runs(pl.concat(memory))}
    if found:
        frames["sought"] = pl.concat(found)
    return tell(kernel, sought, frames)


def holder_notes(kernel: Kernel, asked: AskedPages) -> dict[int, Sequence[Section]]:
    """The holders of each page's folio; nothing unless they are asked for: it takes a pass over memory."""
    if not asked.holders:
        return {}
    heads = {
        pages.start + row: int(pages.head_pfn[row]) for pages, rows in asked.ranges() for row in rows.tolist()
    }
    report = search_for(kernel, list(heads.values()))
    holders, balance = (
        list(report.tables[name].frame.iter_rows(named=True)) for name in ("holders", "balance")
    )
    facts: dict[int, list[Fact]] = {}
    for row in holders:
        facts.setdefault(row["pfn"], []).append(Fact(f"{row['state']}: {row['kind']}", _words(row)))
    for row in balance:
        facts.setdefault(row["pfn"], []).append(
            Fact("references without a holder", row["missing"], Kind.COUNT)
        )
        if row["surplus"]:
            facts[row["pfn"]].append(Fact("more holders than references", row["surplus"], Kind.COUNT))
    said = [Fact("beware", sentence) for sentence in [*report.notes, *report.incomplete]]
    return {
        pfn: [Section("holders", [*facts.get(head, [Fact("holders", "none found")]), *said], _RANK)]
        for pfn, head in heads.items()
    }


def _words(row: Mapping[str, Any]) -> str:
    """``held by pid 70 (work), fd 4: buffer 8 of 16, pipe:[113], at 0x... in slab kmalloc-cg-1k``."""
    by = f"held by {row['held_by']}: " if row["held_by"] else ""
    said = ", ".join(each for each in (row["what"], row["name"]) if each)
    where = f"at {row['address']:#x} in {row['place']} {row['place_name'] or ''}".rstrip()
    return f"{by}{said}{', ' if said else ''}{where}"
