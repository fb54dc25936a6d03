"""``mmdump pinned``: pages that could not be migrated, and who holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Parts, option
from mmdump.errors import UnsupportedError, UsageError
from mmdump.kernel.pageblock import UNKNOWN
from mmdump.kernel.references import KIND_NAMES
from mmdump.result import Column, Kind, Result, Schema
from mmdump_page_owner.record import OWNER_COLUMNS, Owners, no_owners, read_owners, why_no_owner
from mmdump_page_owner.stacks import stack_table
from mmdump_page_pinner.cma import area_of, cma_findings, cma_runs, cma_table
from mmdump_page_pinner.evidence import EVIDENCE, find_held
from mmdump_page_pinner.groups import fold_groups, group_table, groups_of, headline, released
from mmdump_page_pinner.marks import CLIENTS, why_no_marks

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.cma import CmaArea
    from mmdump.kernel.names import FlagNames
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.references import FolioBatches
    from mmdump_page_pinner.evidence import Held

__all__ = ["Pinned"]

PAGES = Schema(
    "pages",
    (
        Column("pfn", Kind.PFN, "the page"),
        Column("head_pfn", Kind.PFN, "the first page of its folio"),
        Column("order", Kind.ID, "order of the folio"),
        Column("evidence", Kind.TEXT, "page_pinner (marked), foll_pin (FOLL_PIN pins), excess (unexplained)"),
        Column("state", Kind.TEXT, "held, or released: marked, but nothing holds it any more"),
        Column("refcount", Kind.COUNT, "references to the folio"),
        Column("mapcount", Kind.COUNT, "of these, mappings into page tables"),
        Column("pincount", Kind.COUNT, "FOLL_PIN pins of the folio"),
        Column("explained", Kind.COUNT, "references with a known reason, pins included"),
        Column("excess", Kind.COUNT, "references that nothing known explains"),
        Column("flags", Kind.TEXT, "page flags"),
        Column("kind", Kind.TEXT, "anon, file, shmem, ksm, or other"),
        Column("node", Kind.ID, "NUMA node"),
        Column("zone", Kind.TEXT, "zone"),
        Column("migratetype", Kind.TEXT, "migratetype of the pageblock"),
        Column("cma_area", Kind.TEXT, "CMA area it lies in"),
        *OWNER_COLUMNS,
    ),
    "Pages",
)

#: Lists of evidence by code.
_EVIDENCE_LISTS = pl.Series(
    [[name for bit, name in enumerate(EVIDENCE) if code >> bit & 1] for code in range(1 << len(EVIDENCE))],
    dtype=pl.List(pl.String),
)


@dataclass(frozen=True)
class State:
    """What the scan needs. Plain data.

    :param areas: CMA areas.
    :param only: Indices of the areas that rows are limited to; None for no limit.
    """

    areas: tuple[CmaArea, ...]
    only: tuple[int, ...] | None
    batches: FolioBatches
    owners: Owners | None
    flag_names: FlagNames
    zone_names: tuple[str, ...]
    migratetypes: tuple[str, ...]


@dataclass(frozen=True)
class Pinned(Analysis):
    """Pages that resist migration, with the evidence, and what is known of who holds them."""

    name = "pinned"
    summary = "pages that could not be migrated, and who holds them"
    page_ext = ("page_owner", *(client.name for client in CLIENTS))
    stream = PAGES

    cma: str | None = option(
        "--cma",
        "only pages in this CMA area (in any, when no NAME is given), and the state of the area",
        metavar="NAME",
        optional_value="*",
    )

    def start(self, kernel: Kernel) -> State:
        """Read areas, batches and names."""
        areas = tuple(kernel.cma_areas)
        zones = {zone.index: zone.name for zone in kernel.zones}
        return State(
            areas=areas,
            only=self._only(areas),
            batches=kernel.folio_batches,
            owners=read_owners(kernel),
            flag_names=kernel.page_flag_names,
            zone_names=tuple(zones.get(index, f"zone{index}") for index in range(256)),
            migratetypes=kernel.pageblocks.names,
        )

    def _only(self, areas: tuple[CmaArea, ...]) -> tuple[int, ...] | None:
        if self.cma is None:
            return None
        if not areas:
            raise UnsupportedError("this kernel has no CMA area")
        found = tuple(index for index, area in enumerate(areas) if self.cma in ("*", area.name))
        if not found:
            names = ", ".join(area.name for area in areas)
            raise UsageError(f"there is no CMA area {self.cma}", f"This kernel has: {names}")
        return found

    def scan(self, pages: PageRange, state: State) -> Parts:
        """Rows of held and marked pages, their sums by evidence and owner, and the CMA areas in runs."""
        held = find_held(pages, state.batches)
        frame = _rows(pages, held, state)
        if state.only is not None:
            names = [state.areas[index].name for index in state.only]
            frame = frame.filter(pl.col("cma_area").is_in(names))
        parts = {"pages": frame.select(PAGES.names), "groups": groups_of(frame)}
        if state.areas:
            parts["cma"] = cma_runs(pages, held, state.areas)
        return parts

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum groups."""
        return fold_groups(frame) if part == "groups" else frame

    def finish(self, kernel: Kernel, state: State, parts: Parts) -> Result:
        """Groups, stacks and CMA areas."""
        groups = parts["groups"]
        stacks, notes = stack_table(kernel, groups["stack_id"].drop_nulls().to_list())
        tables = {"groups": group_table(groups), "stacks": stacks}
        text_tables = ["groups"]
        findings = released(groups)
        if state.areas:
            areas = state.areas if state.only is None else [state.areas[index] for index in state.only]
            cma, missing = cma_table(kernel, areas, parts["cma"])
            findings += cma_findings(cma)
            notes += missing
            if state.only is not None:
                tables["cma"] = cma
                text_tables.append("cma")
        for why in (why_no_marks(kernel), why_no_owner(kernel)):
            if why is not None:
                notes.append(f"{why[0].upper()}{why[1:]}.")
        if not state.batches.complete:
            notes.append("Some per-CPU folio batches could not be read: what they hold shows as excess.")
        return Result(
            self.name,
            summary=[headline(groups)],
            tables=tables,
            primary=PAGES.name,
            text_tables=text_tables,
            findings=findings,
            notes=notes,
        )


def _rows(pages: PageRange, held: Held, state: State) -> pl.DataFrame:
    """The rows of one range: the columns of table ``pages``, and those that only the groups need."""
    rows, account = held.rows, held.account
    areas = area_of(state.areas, pages.pfn[rows])
    area_names = pl.Series([area.name for area in state.areas], dtype=pl.String)
    migratetype = pages.migratetype[rows]
    migratetypes = pl.Series([*state.migratetypes, *[None] * (UNKNOWN + 1 - len(state.migratetypes))])
    frame = pl.DataFrame(
        {
            "pfn": pages.pfn[rows],
            "head_pfn": pages.pfn[held.heads],
            "order": pages.folio_order[held.heads].astype(np.int64),
            "evidence": _EVIDENCE_LISTS.gather(held.evidence),
            "state": _STATES.gather(held.held.astype(np.uint8)),
            "refcount": account.references,
            "mapcount": account.mapcount,
            "pincount": account.pincount,
            "explained": account.explained,
            "excess": account.excess,
            "flags": state.flag_names.series(pages.flags[rows]),
            "kind": _KINDS.gather(account.kinds.codes()),
            "node": pages.node[rows].astype(np.int64),
            "zone": pl.Series(state.zone_names).gather(pages.zone[rows]),
            "migratetype": migratetypes.cast(pl.String).gather(migratetype),
            "cma_area": area_names.gather(pl.Series(areas).replace(-1, None)),
            "folio_evidence": held.folio_evidence,
            "counted": held.counted,
        }
    )
    if state.owners is None:
        return frame.hstack(no_owners(len(rows)))
    return frame.hstack(state.owners.frame(pages, rows))


_STATES = pl.Series(["released", "held"])
_KINDS = pl.Series(list(KIND_NAMES))
