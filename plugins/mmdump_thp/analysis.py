"""``mmdump thp``: every large folio, how it is mapped, by whom, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from drgn import FaultError

from mmdump.analysis import Analysis, Columns, Parts, option
from mmdump.kernel.layout import find_object
from mmdump.result import Result
from mmdump_thp.findings import headline, notes_on_counters, states, wasted, wrong_counters
from mmdump_thp.folios import TORN, LargeFolios
from mmdump_thp.layout import read_large_layout
from mmdump_thp.mappings import NO_MAPPINGS, read_mappings
from mmdump_thp.orphans import ORPHANS, fold_orphans, has_orphans, orphan_rows, orphan_table
from mmdump_thp.queue import MAX_LINKS, broken_queues
from mmdump_thp.rows import FOLIOS, decode_rows, folio_rows, link_rows
from mmdump_thp.sums import (
    GROUPS,
    ORDERS,
    PROCESSES,
    fold_groups,
    fold_processes,
    group_table,
    groups_of,
    order_table,
    process_table,
    processes_of,
)

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.memcg import MemoryCgroups
    from mmdump.kernel.names import FlagNames
    from mmdump.kernel.page import PageRange
    from mmdump_thp.layout import LargeLayout
    from mmdump_thp.mappings import Mappings

__all__ = ["Thp"]

#: Readings of a live kernel's memory before what is torn is believed, and the seconds between them.
_READINGS, _MOMENT = 3, 0.02


@dataclass(frozen=True)
class State:
    """What the scan needs: plain data, but for ``cgroups``, which only a batch asks.

    :param huge_zero_pfn: PFN of the huge zero folio; -1 where there is none.
    """

    layout: LargeLayout
    huge_zero_pfn: int
    page_size: int
    zone_names: tuple[str, ...]
    flag_names: FlagNames
    cgroups: MemoryCgroups | None
    mappings: Mappings

    def __getstate__(self) -> dict[str, Any]:
        """Without what leads to the dump: names of cgroups are found where it is open."""
        return self.__dict__ | {"cgroups": None}


@dataclass(frozen=True)
class Thp(Analysis):
    """Large folios: how they are mapped, by which processes, and what splitting them would free."""

    name = "thp"
    summary = "huge pages and other large folios: how they are mapped, by whom, what they waste"
    stream = FOLIOS
    tables = (GROUPS, ORDERS, PROCESSES, ORPHANS)

    hugetlb: bool = option("--hugetlb", "also hugetlb pages", default=False)
    no_processes: bool = option(
        "--no-processes", "do not read page tables: who maps a folio is not said", default=False
    )

    def start(self, kernel: Kernel) -> State:
        """Read the page tables of all processes, and names."""
        zones = {zone.index: zone.name for zone in kernel.zones}
        return State(
            layout=read_large_layout(kernel.target.prog, kernel.memmap.vmemmap),
            huge_zero_pfn=_huge_zero_pfn(kernel),
            page_size=kernel.target.page_size,
            zone_names=tuple(zones.get(index, f"zone{index}") for index in range(256)),
            flag_names=kernel.page_flag_names,
            cgroups=kernel.memory_cgroups,
            mappings=NO_MAPPINGS if self.no_processes else read_mappings(kernel),
        )

    def scan(self, pages: PageRange, state: State) -> Mapping[str, Columns]:
        """Rows of large folios, their links, and tails without a head."""
        found, orphans = self._find(pages, state)
        for _ in range(_READINGS - 1):
            # On a live kernel, what is torn for good still is a moment later.
            if pages.again is None or not ((found.state == TORN).any() or has_orphans(orphans)):
                break
            time.sleep(_MOMENT)
            pages = pages.again()
            found, orphans = self._find(pages, state)
        memcg = None if state.cgroups is None else state.cgroups.words_at(pages, found.rows)
        return {
            "folios": folio_rows(pages, found, state.layout, memcg),
            "links": link_rows(pages, found, state.layout),
            "orphans": orphans,
        }

    def _find(self, pages: PageRange, state: State) -> tuple[LargeFolios, Columns]:
        found = LargeFolios.find(pages, state.layout, state.huge_zero_pfn, hugetlb=self.hugetlb)
        return found, orphan_rows(pages)

    def batch(self, rows: Parts, state: State) -> Parts:
        """Decode the rows' codes, find out who maps them, and sum."""
        decoded = decode_rows(
            rows["folios"],
            state.page_size,
            state.zone_names,
            state.flag_names,
            state.cgroups,
            state.mappings,
        )
        return {
            "folios": decoded.select(FOLIOS.names),
            "groups": groups_of(decoded),
            "processes": processes_of(decoded, state.mappings, state.page_size),
            "links": rows["links"],
            "orphans": rows["orphans"].select("head_pfn", "first_pfn", "last_pfn", "pages", "reason"),
        }

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum what can be summed, and keep no more links than can be checked."""
        if part == "groups":
            return fold_groups(frame)
        if part == "processes":
            return fold_processes(frame)
        if part == "orphans":
            return fold_orphans(frame)
        return frame.head(MAX_LINKS + 1)

    def finish(self, kernel: Kernel, state: State, parts: Parts) -> Result:
        """Groups, orders, processes, and what is wrong."""
        groups, mappings = parts["groups"], state.mappings
        orphans = orphan_table(kernel, parts["orphans"])
        broken, notes = broken_queues(kernel, parts["links"])
        tables_whole = mappings.why_not is None and not mappings.incomplete
        memory = kernel.memmap.pages * state.page_size
        tables = [group_table(groups), order_table(groups), process_table(parts["processes"]), orphans]
        text = ["groups", *(["processes"] if len(parts["processes"]) else [])]
        if mappings.why_not is not None:
            notes.append(f"Who maps a folio is not known: {mappings.why_not}.")
        return Result(
            self.name,
            summary=[headline(groups)],
            tables={table.name: table for table in tables},
            primary=FOLIOS.name,
            text_tables=[*text, *(["orphans"] if len(orphans.frame) else [])],
            findings=[
                *wrong_counters(groups, live=kernel.target.live, tables_whole=tables_whole),
                *broken,
                *wasted(groups, memory),
                *states(groups, orphans),
            ],
            notes=[*notes, *notes_on_counters(groups)],
            incomplete=list(mappings.incomplete),
        )


def _huge_zero_pfn(kernel: Kernel) -> int:
    """PFN of the huge zero folio, which is anybody's who reads memory that was never written."""
    found = find_object(kernel.target.prog, "huge_zero_pfn")
    try:
        value = int(found.value_()) if found is not None else -1
    except FaultError:
        return -1
    return value if value < kernel.memmap.end_pfn else -1
