"""``mmdump pinner-events``: what Android's page pinner recorded, and by which call chains."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from drgn import FaultError

from mmdump.analysis import Analysis, Need, Parts
from mmdump.errors import IncompleteError, MmdumpError
from mmdump.kernel.arrays import decoded
from mmdump.kernel.layout import enumerators, find_object
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from mmdump_page_owner.stacks import STACKS, stack_table
from mmdump_page_pinner.android import FILE, why_no_android_pinner
from mmdump_page_pinner.calls import function_names, put_of
from mmdump_page_pinner.marks import GET
from mmdump_page_pinner.rings import FAILURES, LONGTERM, read_ring, tracks_failures, written

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_page_pinner.rings import Ring

__all__ = ["EVENTS", "PinnerEvents", "Recorded", "recorded", "recorded_or_none"]

EVENTS = Schema(
    "events",
    (
        Column(
            "ring",
            Kind.TEXT,
            "longterm (pages held for long), failures (of pages that were in the way)",
            values=(LONGTERM, FAILURES),
        ),
        Column("state", Kind.TEXT, "failure detected, put, freed; null where the record does not say"),
        Column("time_nsec", Kind.NSEC, "when, by boottime; of a put where it can be told"),
        Column(
            "elapsed_nsec", Kind.NSEC, "of a put, or of a long pin: for how long it had been held, at least"
        ),
        Column("by", Kind.TEXT, "on whose behalf: migration, reclaim, LRU batch, unmapping, user ..."),
        Column("holder", Kind.TEXT, "what sort of user, by the call chain"),
        Column("pfn", Kind.PFN, "the page"),
        Column("flags", Kind.TEXT, "its page flags then"),
        Column("count", Kind.COUNT, "its references then; of a put, what the put left"),
        Column("mapcount", Kind.COUNT, "its mappings then"),
        Column("mapping", Kind.ADDRESS, "the address_space that it belonged to"),
        Column("migratetype", Kind.TEXT, "migratetype of its pageblock (early kernels)", in_text=False),
        Column("cma_area", Kind.TEXT, "CMA area it lies in"),
        Column("stack_id", Kind.ID, "call chain; of a long pin, that of the get"),
        Column("slot", Kind.ID, "its place in the ring", in_text=False),
    ),
    "Events, newest first",
)
GROUPS = Schema(
    "groups",
    (
        Column("ring", Kind.TEXT, "which ring they are in", values=(LONGTERM, FAILURES)),
        Column("state", Kind.TEXT, "what happened"),
        Column("by", Kind.TEXT, "on whose behalf, by the call chain"),
        Column("holder", Kind.TEXT, "what sort of user"),
        Column("events", Kind.COUNT, "how often", weight=True),
        Column("pages", Kind.COUNT, "to how many pages"),
        Column("first_nsec", Kind.NSEC, "when first, by boottime"),
        Column("last_nsec", Kind.NSEC, "when last"),
        Column("longest_nsec", Kind.NSEC, "for how long at most it had been held"),
        Column("stack_id", Kind.ID, "the call chain"),
        Column("frames", Kind.STACK, "call chain, innermost first"),
    ),
    "Events by call chain",
)

#: ``enum pp_state`` in words.
_STATES = {"PUT": "put", "FREE": "freed", "FAIL_DETECTED": "failure detected"}
#: Users that a finding names.
_NAMED = 4
#: Times beyond this are garbage: 146 years.
_MAX_USEC = (1 << 62) // 1000


@dataclass(frozen=True)
class Recorded:
    """Everything that the rings say.

    :param events: Of :data:`EVENTS`, newest first in each ring.
    :param notes: One sentence for each thing to know.
    :param incomplete: One sentence for each thing that could not be had.
    """

    events: pl.DataFrame
    notes: tuple[str, ...]
    incomplete: tuple[str, ...]


def recorded(kernel: Kernel) -> Recorded:
    """Read all rings of this kernel, as far as they are in the dump."""
    frames, notes, incomplete = [], [], []
    for name in (FAILURES, LONGTERM):
        try:
            ring = read_ring(kernel, name)
        except IncompleteError as error:
            incomplete.append(error.message)
            continue
        if ring is None:
            continue
        found = written(kernel, ring)
        frames.append(_events(kernel, ring, found.rows))
        if found.unreadable:
            incomplete.append(f"{found.unreadable} records of {ring.variable} are not in the dump")
        if found.garbage:
            incomplete.append(f"{found.garbage} records of {ring.variable} are garbage, and left out")
        if len(found.rows) == ring.size:
            notes.append(f"{ring.variable} has room for {ring.size} records: older ones are gone.")
    if not tracks_failures(kernel):
        notes.append("failure_tracking was off: what happened meanwhile was not recorded.")
    events = pl.concat(frames) if frames else _no_events()
    return Recorded(events, tuple(notes), tuple(incomplete))


_TYPES: Mapping[Kind, pl.DataType] = {
    Kind.TEXT: pl.String(),
    Kind.NSEC: pl.UInt64(),
    Kind.ADDRESS: pl.UInt64(),
}


def _no_events() -> pl.DataFrame:
    types = {column.name: _TYPES.get(column.kind, pl.Int64()) for column in EVENTS.columns}
    return pl.DataFrame(schema=types | {"flags": pl.List(pl.String)})


def _events(kernel: Kernel, ring: Ring, rows: np.ndarray) -> pl.DataFrame:
    """The records of a ring as :data:`EVENTS`."""
    records = ring.slots[rows]
    usec = records["usec"].astype(np.uint64)
    elapsed = ring.elapsed(records)
    known = (usec <= _MAX_USEC) & ((usec > 0) | elapsed)
    nsec = np.where(known, usec, 0) * np.uint64(1000)
    names = [*kernel.pageblocks.names]
    depot = kernel.stack_depot
    mask = depot.layout.mask if depot is not None else 0xFFFFFFFF
    handles = pl.Series((records["handle"] & np.uint32(mask)).astype(np.int64))
    columns: dict[str, object] = {
        "ring": pl.Series([ring.name], dtype=pl.String).new_from_index(0, len(rows)),
        "state": pl.Series([None], dtype=pl.String).new_from_index(0, len(rows)),
        "time_nsec": pl.Series(nsec).set(pl.Series(elapsed | ~known), None),
        "elapsed_nsec": pl.Series(nsec).set(pl.Series(~elapsed | ~known), None),
        "pfn": records["pfn"].astype(np.int64),
        "flags": kernel.page_flag_names.series(pl.Series(records["flags"].astype(np.uint64))),
        "cma_area": _areas(kernel, records["pfn"].astype(np.int64)),
        "stack_id": handles.replace(0, None),
        "slot": (ring.index - 1 - rows) % ring.size,
    }
    for name in ("count", "mapcount"):
        if name in ring.columns:
            columns[name] = records[name].astype(np.int64)
    if "mapping" in ring.columns:
        columns["mapping"] = pl.Series(records["mapping"].astype(np.uint64)).replace(0, None)
    if "state" in ring.columns:
        columns["state"] = decoded(
            pl.Series(records["state"].astype(np.int64)),
            lambda number: _STATES.get(ring.states[number], ring.states[number].lower()),
            pl.String(),
        )
    elif ring.name == LONGTERM:
        columns["state"] = pl.Series(["put"], dtype=pl.String).new_from_index(0, len(rows))
    if "migratetype" in ring.columns:
        columns["migratetype"] = decoded(
            pl.Series(records["migratetype"].astype(np.int64)),
            lambda number: names[number] if 0 <= number < len(names) else None,
            pl.String(),
        )
    events = pl.DataFrame(columns, schema_overrides={"slot": pl.Int64})
    empty = _no_events()
    events = events.with_columns(
        pl.lit(None, dtype=empty.schema[name]).alias(name) for name in empty.columns if name not in columns
    ).select(empty.columns)
    # A get sets the time of the page's record too, where gets are known.
    if GET not in enumerators(kernel.target.prog, "enum page_ext_flags"):
        events = _date_puts(events)
    return events.select(pl.col(name).cast(dtype) for name, dtype in empty.schema.items())


def _areas(kernel: Kernel, pfn: np.ndarray) -> pl.Series:
    names: list[str | None] = [None] * len(pfn)
    found = pl.Series(names, dtype=pl.String)
    for area in kernel.cma_areas:
        inside = (pfn >= area.base_pfn) & (pfn < area.end_pfn)
        if inside.any():
            found = found.set(pl.Series(inside), area.name)
    return found


def _date_puts(events: pl.DataFrame) -> pl.DataFrame:
    """When puts were: so long after the failure of that page that came before.

    Only where that lies between the times of the records around it.
    """
    state, time = pl.col("state"), pl.col("time_nsec").cast(pl.Int64)
    since = pl.when(state == "failure detected").then(time)
    dated = events.reverse().with_columns(since.forward_fill().over("pfn").alias("since"))
    when = pl.col("since") + pl.col("elapsed_nsec").cast(pl.Int64)
    dated = dated.with_columns(
        when.alias("when"), time.forward_fill().alias("before"), time.backward_fill().alias("after")
    )
    fits = (pl.col("when") >= pl.col("before")) & (pl.col("when") <= pl.col("after").fill_null(1 << 62))
    put = pl.col("time_nsec").is_null() & fits
    return (
        dated.with_columns(
            pl.when(put)
            .then(pl.col("when").cast(pl.UInt64))
            .otherwise(pl.col("time_nsec"))
            .alias("time_nsec")
        )
        .drop("since", "when", "before", "after")
        .reverse()
    )


@dataclass(frozen=True)
class PinnerEvents(Analysis):
    """What happened to pages that were in the way of contiguous allocations, or were held for long."""

    name = "pinner-events"
    tables = (EVENTS, GROUPS, STACKS)
    summary = "Android's page pinner: failures to migrate, puts, frees and long pins of pages, by call chain"
    needs = (Need(why_no_android_pinner),)
    scans = False

    def finish(self, kernel: Kernel, state: object, parts: Parts) -> Result:  # noqa: ARG002
        """Read the rings."""
        found = recorded(kernel)
        stacks, notes = stack_table(kernel, found.events["stack_id"].drop_nulls().to_list())
        notes += found.notes
        if _unsaid(found.events):
            notes.append(
                "Records of this kernel do not say what happened, a failure, a put or the free: their call "
                "chains do."
            )
        lost = _lost_stacks(kernel, found.events)
        if lost:
            notes.append(f"{lost} records have no call chain: the stack depot could not take it.")
        events = found.events.with_columns(_who(found.events, stacks))
        groups = _groups(events, stacks)
        return Result(
            self.name,
            summary=[_headline(found.events)],
            tables={"events": Table(EVENTS, events), "groups": groups, "stacks": stacks},
            primary=EVENTS.name,
            text_tables=["groups"],
            findings=_findings(kernel, events),
            notes=notes,
            incomplete=found.incomplete,
        )


#: Who asks for contiguous memory: its own references to pages are no user's.
_ATTEMPT = ("alloc_contig_", "__alloc_contig_", "cma_alloc", "__cma_alloc")


def _who(events: pl.DataFrame, stacks: Table) -> list[pl.Series]:
    """Columns ``by`` and ``holder``: on whose behalf each event was, by its call chain; null without one."""
    kinds: dict[int, str] = {}
    holders: dict[int, str | None] = {}
    for stack_id, frames in stacks.frame.select("stack_id", "frames").iter_rows():
        if not frames:
            continue
        chain = function_names(frames)
        put = put_of(chain)
        attempt = put.kind == "user" and any(each.startswith(_ATTEMPT) for each in chain)
        kinds[stack_id] = "migration" if attempt else put.kind
        holders[stack_id] = None if attempt else (put.holder or put.by if put.kind == "user" else None)
    return [
        events["stack_id"].replace_strict(found, default=None, return_dtype=pl.String).alias(name)
        for name, found in (("by", kinds), ("holder", holders))
    ]


def _unsaid(events: pl.DataFrame) -> bool:
    return bool(events["state"].is_null().any())


def _lost_stacks(kernel: Kernel, events: pl.DataFrame) -> int:
    """Records with the chain that stands for those the depot did not take: ``failure_handle``."""
    handle = find_object(kernel.target.prog, "failure_handle", FILE)
    depot = kernel.stack_depot
    if handle is None or depot is None:
        return 0
    try:
        wanted = int(handle.value_()) & depot.layout.mask
    except FaultError:
        return 0
    return int((events["stack_id"] == wanted).sum()) if wanted else 0


def _groups(events: pl.DataFrame, stacks: Table) -> Table:
    groups = (
        events.group_by("ring", "state", "by", "holder", "stack_id")
        .agg(
            pl.len().cast(pl.Int64).alias("events"),
            pl.col("pfn").n_unique().cast(pl.Int64).alias("pages"),
            pl.col("time_nsec").min().alias("first_nsec"),
            pl.col("time_nsec").max().alias("last_nsec"),
            pl.col("elapsed_nsec").max().alias("longest_nsec"),
        )
        .join(stacks.frame.select("stack_id", "frames"), on="stack_id", how="left")
        .sort("ring", -pl.col("events"), "state", "stack_id", nulls_last=True)
    )
    return Table(GROUPS, groups.select(GROUPS.names))


def _headline(events: pl.DataFrame) -> str:
    if not len(events):
        return "The page pinner has recorded nothing."
    counts = [
        f"{count} {'of pages in the way' if ring == FAILURES else 'of pages held for long'}"
        for ring, count in events.group_by("ring", maintain_order=True).len().iter_rows()
    ]
    return f"{len(events)} records: {', '.join(counts)}"


def failed_puts(events: pl.DataFrame) -> pl.DataFrame:
    """What users did to pages that were in the way: put them, as a rule."""
    return events.filter((pl.col("ring") == FAILURES) & (pl.col("by") == "user"))


def _pages(events: pl.DataFrame) -> str:
    count = events["pfn"].n_unique()
    return f"{count} page{'s' if count != 1 else ''}"


def _findings(kernel: Kernel, events: pl.DataFrame) -> list[Finding]:
    findings = []
    failed = events.filter(pl.col("state") == "failure detected")
    if len(failed):
        # Newest first: a page whose newest failure or free is a failure has not been freed since.
        last = (
            events.filter(pl.col("state").is_in(["failure detected", "freed"]))
            .group_by("pfn", maintain_order=True)
            .first()
        )
        still = int((last["state"] == "failure detected").sum())
        findings.append(
            Finding(
                "migration-failed",
                Severity.PROBLEM if still else Severity.NOTE,
                f"{_pages(failed)} could not be migrated for a contiguous allocation; "
                f"{still} of them {'has' if still == 1 else 'have'} not been freed since.",
                "events",
                "state = 'failure detected'",
            )
        )
    puts = failed_puts(events)
    if len(puts):
        named = puts["holder"].value_counts(sort=True).head(_NAMED)
        whose = ", ".join(f"{holder} ({count})" for holder, count in named.iter_rows())
        findings.append(
            Finding(
                "holders-puts",
                Severity.NOTE,
                f"Users let go of {_pages(puts)} after a contiguous allocation had failed there: {whose}.",
                "events",
                "ring = 'failures' AND by = 'user'",
            )
        )
    long = events.filter(pl.col("ring") == LONGTERM)
    if len(long):
        threshold = find_object(kernel.target.prog, "threshold_usec", FILE)
        words = ""
        with contextlib.suppress(FaultError):
            words = f" ({int(threshold.value_()) / 1e6:g} s)" if threshold is not None else ""
        longest = long["elapsed_nsec"].max()
        most = f", the longest for {longest / 1e9:.3f} s" if isinstance(longest, int) else ""
        findings.append(
            Finding(
                "longterm-pins",
                Severity.NOTE,
                f"{len(long)} times a page was got for longer than the threshold{words}{most}.",
                "events",
                "ring = 'longterm'",
            )
        )
    return findings


def recorded_or_none(kernel: Kernel) -> Recorded | None:
    """What the rings say; None where this kernel has none, or they cannot be read at all."""
    if why_no_android_pinner(kernel) is not None:
        return None
    try:
        return recorded(kernel)
    except MmdumpError:
        return None
