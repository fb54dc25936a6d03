"""``mmdump pinned``: pages that could not be migrated, and who holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Columns, Parts, option
from mmdump.errors import IncompleteError, UnsupportedError, UsageError
from mmdump.kernel.arrays import I64, Struct
from mmdump.kernel.pageblock import UNKNOWN
from mmdump.kernel.references import KIND_NAMES
from mmdump.result import Column, Kind, Result, Schema
from mmdump.scan import OutOfTimeError
from mmdump_holders.analysis import Sought, search_parts, start_search, tell
from mmdump_holders.balance import BALANCE
from mmdump_holders.ranges import joined_runs
from mmdump_holders.tables import HELD_BY, HOLDERS
from mmdump_page_owner.record import OWNER_COLUMNS, Owners, members_of, no_owners, read_owners, why_no_owner
from mmdump_page_owner.stacks import STACKS, stack_table
from mmdump_page_pinner.android import PINNER_COLUMNS, caveats, decode_records, record_columns
from mmdump_page_pinner.cma import CMA, area_of, cma_findings, cma_runs, cma_table
from mmdump_page_pinner.evidence import EVIDENCE, GOT, MIGRATION_FAILED, STATES, find_lasting, untold
from mmdump_page_pinner.groups import (
    EVIDENCE_LISTS,
    GROUPS,
    fold_groups,
    group_table,
    groups_of,
    headline,
    released,
)
from mmdump_page_pinner.history import HISTORY, ROW_COLUMNS, TIMELINES
from mmdump_page_pinner.marks import CLIENTS, marks_unreadable, why_no_marks
from mmdump_page_pinner.savedtrace import read_saved_trace
from mmdump_page_pinner.sentences import history_tables
from mmdump_page_pinner.witnesses import read_witnesses, saved_on_log_clock

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.cma import CmaArea
    from mmdump.kernel.names import FlagNames
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.references import FolioBatches
    from mmdump_page_pinner.evidence import Held
    from mmdump_page_pinner.witnesses import Witnesses

__all__ = ["Pinned"]

#: What one wants to know comes first: a terminal may have no room for the rest.
PAGES = Schema(
    "pages",
    (
        Column("pfn", Kind.PFN, "the page"),
        Column("order", Kind.ID, "order of the folio"),
        Column(
            "evidence",
            Kind.TEXT,
            "page_pinner (marked), foll_pin (FOLL_PIN pins), excess (unexplained); "
            "Android: migration_failed (marked), get (got by get_user_pages())",
            values=EVIDENCE,
        ),
        Column(
            "state",
            Kind.TEXT,
            "held; released: marked, but nothing holds it any more; unknown: unreadable",
            values=STATES,
        ),
        *OWNER_COLUMNS[:3],
        Column("cma_area", Kind.TEXT, "CMA area it lies in"),
        Column("excess", Kind.COUNT, "references that nothing known explains"),
        Column("refcount", Kind.COUNT, "references to the folio"),
        Column("mapcount", Kind.COUNT, "of these, mappings into page tables"),
        Column("pincount", Kind.COUNT, "FOLL_PIN pins of the folio"),
        Column("explained", Kind.COUNT, "references with a known reason, pins included"),
        Column("head_pfn", Kind.PFN, "the first page of its folio"),
        Column("flags", Kind.TEXT, "page flags"),
        Column("kind", Kind.TEXT, "anon, file, shmem, ksm, or other", values=KIND_NAMES),
        Column("node", Kind.ID, "NUMA node"),
        Column("zone", Kind.TEXT, "zone"),
        Column("migratetype", Kind.TEXT, "migratetype of the pageblock"),
        *OWNER_COLUMNS[3:],
        *PINNER_COLUMNS,
    ),
    "Pages",
)


#: Pages of the largest machine whose memory a report searches for holders: 32 GiB.
_MAX_SEARCHED = 1 << 23


@dataclass(frozen=True)
class State:
    """What the scan needs. Plain data.

    :param areas: CMA areas.
    :param only: Indices of the areas that rows are limited to; None for no limit.
    :param sought: What the search for holders needs; None where there is none.
    :param witnesses: What the trace saw of pages.
    """

    areas: tuple[CmaArea, ...]
    only: tuple[int, ...] | None
    batches: FolioBatches
    owners: Owners | None
    witnesses: Witnesses
    flag_names: FlagNames
    zone_names: tuple[str, ...]
    migratetypes: tuple[str, ...]
    sought: Sought | None = None
    handle_mask: int = 0xFFFFFFFF


@dataclass(frozen=True)
class Pinned(Analysis):
    """Pages that resist migration, with the evidence, and what is known of who holds them."""

    name = "pinned"
    summary = "pages that could not be migrated, and who holds them"
    report_rank = 20
    page_ext = ("page_owner", *(client.name for client in CLIENTS))
    stream = PAGES
    tables = (GROUPS, STACKS, CMA, HISTORY, TIMELINES, HOLDERS, HELD_BY, BALANCE)

    cma: str | None = option(
        "--cma",
        "only pages in this CMA area (in any, when no NAME is given), and the state of the area",
        metavar="NAME",
        optional_value="*",
        tables=(CMA.name,),
    )
    holders: bool = option(
        "--holders",
        "search memory for what holds them: see mmdump holders",
        default=False,
        tables=(HOLDERS.name, HELD_BY.name, BALANCE.name),
    )
    trace: str | None = option(
        "--trace",
        "read the page pinner's events from FILE (a copy of trace, or trace-cmd report), not the dump",
        metavar="FILE",
    )

    @classmethod
    def for_report(cls, kernel: Kernel) -> Pinned:
        """With the holders, where memory is not so large that the search takes minutes, and does not move."""
        return cls(holders=not kernel.target.live and kernel.memmap.pages <= _MAX_SEARCHED)

    def start(self, kernel: Kernel) -> State:
        """Read areas, batches and names."""
        areas = tuple(kernel.cma_areas)
        zones = {zone.index: zone.name for zone in kernel.zones}
        return State(
            areas=areas,
            only=self._only(areas, kernel.cma_garbage),
            batches=kernel.folio_batches,
            owners=read_owners(kernel),
            witnesses=self._witnesses(kernel),
            flag_names=kernel.page_flag_names,
            zone_names=tuple(zones.get(index, f"zone{index}") for index in range(256)),
            migratetypes=kernel.pageblocks.names,
            sought=start_search(kernel) if self.holders else None,
            handle_mask=kernel.stack_depot.layout.mask if kernel.stack_depot is not None else 0xFFFFFFFF,
        )

    def _witnesses(self, kernel: Kernel) -> Witnesses:
        if self.trace is None:
            return read_witnesses(kernel)
        return saved_on_log_clock(kernel, read_saved_trace(Path(self.trace)))

    def _ranges(self, state: State) -> list[tuple[int, int]] | None:
        """The pages that are asked about; None for all."""
        if state.only is None:
            return None
        areas = [state.areas[index] for index in state.only]
        return [(area.base_pfn, area.end_pfn) for area in areas]

    def _only(self, areas: tuple[CmaArea, ...], garbage: int) -> tuple[int, ...] | None:
        if self.cma is None:
            return None
        if not areas and garbage:
            raise IncompleteError("no CMA area of this kernel could be read")
        if not areas:
            raise UnsupportedError("this kernel has no CMA area")
        found = tuple(index for index, area in enumerate(areas) if self.cma in ("*", area.name))
        if not found:
            names = ", ".join(area.name for area in areas)
            raise UsageError(f"there is no CMA area {self.cma}", f"This kernel has: {names}")
        return found

    def scan(self, pages: PageRange, state: State) -> Mapping[str, Columns]:
        """Rows of held and marked pages, and the CMA areas in runs."""
        pages, held = find_lasting(pages, state.batches)
        parts: dict[str, Columns] = {"pages": _rows(pages, held, state)}
        if state.witnesses.seen:
            parts["untold"] = {"pfn": untold(pages, state.witnesses.pfns)}
        if state.areas:
            parts["cma"] = cma_runs(pages, held, state.areas)
        if state.sought is not None:
            parts |= search_parts(pages, state.sought, _held_heads(pages, held, state))
        return parts

    def batch(self, rows: Parts, state: State) -> Parts:
        """Decode the rows' codes, and sum them by evidence and owner."""
        found = rows["pages"]
        if state.only is not None:
            found = found.filter(pl.col("area").is_in(state.only))
        decoded = _decode(found, state)
        parts = {"pages": decoded.select(PAGES.names), "groups": groups_of(decoded)}
        if state.witnesses.seen:
            seen = pl.col("pfn").is_in(pl.Series(state.witnesses.pfns).implode())
            parts["seen"] = decoded.filter(seen).select(ROW_COLUMNS)
        return parts | {name: rows[name] for name in ("cma", "memory", "sought", "untold") if name in rows}

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum groups, and join runs of memory."""
        if part == "memory":
            return joined_runs(frame)
        return fold_groups(frame) if part == "groups" else frame

    def finish(self, kernel: Kernel, state: State, parts: Parts) -> Result:
        """Groups, stacks and CMA areas."""
        groups = parts["groups"]
        incomplete = _unreadable(kernel)
        handles = pl.concat([groups["stack_id"], groups["get_stack_id"]]).drop_nulls()
        stacks, notes = stack_table(kernel, handles.to_list())
        evidence = groups["folio_evidence"]
        notes += caveats(
            kernel,
            failed=bool((evidence & MIGRATION_FAILED != 0).any()),
            got=bool((evidence & GOT != 0).any()),
        )
        tables = {"groups": group_table(groups, kernel.target.page_size), "stacks": stacks}
        text_tables = ["groups"]
        findings = released(groups)
        incomplete += state.witnesses.incomplete
        summary, holders = [headline(groups)], None
        if state.sought is not None:
            try:
                found = tell(kernel, state.sought, parts)
            except OutOfTimeError as error:
                # Who allocated the pages is worth having without.
                incomplete.append(f"their holders were not searched for to the end: {error}")
            else:
                summary.append(found.summary)
                holders = found.tables["holders"].frame
                tables |= {name: table for name, table in found.tables.items() if name != "stacks"}
                text_tables.append("held_by")
                findings += found.findings
                notes += found.notes
                incomplete += found.incomplete
        if state.witnesses.seen:
            unknown = None if marks_unreadable(kernel) else parts["untold"]["pfn"]
            more, told = history_tables(
                kernel, state.witnesses, parts["seen"], self._ranges(state), unknown, holders
            )
            tables |= more
            findings = [*told, *findings]
            text_tables.insert(1, "timelines")
        if state.areas:
            areas = state.areas if state.only is None else [state.areas[index] for index in state.only]
            cma, missing = cma_table(kernel, areas, parts["cma"])
            findings += cma_findings(cma, groups, kernel.target.page_size, holders)
            incomplete += missing
            if state.only is not None:
                tables["cma"] = cma
                text_tables.insert(1, "cma")
        notes += state.witnesses.notes
        for lacking, why in (
            ("page_pinner evidence", why_no_marks(kernel)),
            ("owners", why_no_owner(kernel)),
        ):
            if why is not None:
                notes.append(f"No {lacking}: {why}.")
        if groups["stack_id"].is_not_null().any() and not {"pid", "comm"} & set(members_of(kernel)):
            notes.append(_no_task(searched=self.holders))
        if groups["owner_pid"].is_not_null().any():
            notes.append("OWNER allocated the pages; who else got a reference to them is not recorded.")
        if not state.batches.complete:
            notes.append("Some per-CPU folio batches could not be read: what they hold shows as excess.")
        return Result(
            self.name,
            summary=summary,
            tables=tables,
            primary=PAGES.name,
            text_tables=text_tables,
            findings=findings,
            notes=notes,
            incomplete=incomplete,
        )


def _no_task(*, searched: bool) -> str:
    """What to do with owners that have no name: pid came to page_owner with 5.11, comm with 5.18."""
    search = "" if searched else "; --holders searches memory for what holds them"
    return (
        "OWNER is unknown: page_owner of this kernel records no pid and no comm, only the call chain. "
        f"STACK_ID names the chain that allocated the pages, --table stacks has its frames{search}."
    )


def _held_heads(pages: PageRange, held: Held, state: State) -> I64:
    """Rows of the heads of held folios whose holders are searched for."""
    wanted = held.held
    if state.only is not None:
        wanted = wanted & np.isin(area_of(state.areas, held.rows + pages.start), state.only)
    return np.unique(held.heads[wanted])


def _unreadable(kernel: Kernel) -> list[str]:
    """One sentence for each sort of evidence that this kernel has, but the dump has not."""
    lost = [name for name, state in kernel.page_ext.clients.items() if state.unreadable]
    found = [f"whether {name} is on could not be read" for name in lost]
    if kernel.page_ext.garbage:
        found.append("page_ext's layout in this dump is garbage: marks and owners are unknown")
    garbage = kernel.cma_garbage
    if garbage:
        found.append(f"{garbage} CMA areas are garbage or could not be read")
    return found


def _rows(pages: PageRange, held: Held, state: State) -> dict[str, Struct]:
    """The rows of one range, with codes for what has names."""
    rows, account = held.rows, held.account
    columns: dict[str, Struct] = {
        "pfn": rows + pages.start,
        "head_pfn": held.heads + pages.start,
        "order": pages.folio_order[held.heads].astype(np.int64),
        "evidence": held.evidence,
        "state": np.where(held.unknown, 2, held.held).astype(np.uint8),
        "refcount": account.references,
        "mapcount": account.mapcount,
        "pincount": account.pincount,
        "explained": account.explained,
        "excess": account.excess,
        "flags": pages.flags[rows],
        "kind": account.kinds.codes(),
        "node": pages.node_of(rows).astype(np.int64),
        "zone": pages.zone_of(rows),
        "migratetype": pages.migratetype_of(rows),
        "area": area_of(state.areas, rows + pages.start),
        "folio_evidence": held.folio_evidence,
        "counted": held.counted,
    }
    columns |= record_columns(pages, rows, state.handle_mask)
    return columns if state.owners is None else columns | state.owners.columns(pages, rows)


def _decode(rows: pl.DataFrame, state: State) -> pl.DataFrame:
    """The columns of table ``pages``, and those that only the groups need."""
    zones, areas = pl.Series(state.zone_names), [area.name for area in state.areas]
    migratetypes = [*state.migratetypes, *[None] * (UNKNOWN + 1 - len(state.migratetypes))]
    owners = no_owners(len(rows)) if state.owners is None else state.owners.decode(rows)
    return rows.select(
        "pfn",
        "head_pfn",
        "order",
        EVIDENCE_LISTS.gather(rows["evidence"]).alias("evidence"),
        _STATES.gather(rows["state"]).alias("state"),
        "refcount",
        "mapcount",
        "pincount",
        "explained",
        "excess",
        state.flag_names.series(rows["flags"]).alias("flags"),
        _KINDS.gather(rows["kind"]).alias("kind"),
        "node",
        zones.gather(rows["zone"]).alias("zone"),
        pl.Series(migratetypes, dtype=pl.String).gather(rows["migratetype"]).alias("migratetype"),
        pl.Series([*areas, None], dtype=pl.String)
        .gather(rows["area"].replace(-1, len(areas)))
        .alias("cma_area"),
        *owners,
        *decode_records(rows),
        "folio_evidence",
        "counted",
    )


_STATES = pl.Series(list(STATES))
_KINDS = pl.Series(list(KIND_NAMES))
