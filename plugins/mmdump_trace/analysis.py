"""``mmdump trace``: the events in the ring buffers, as rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from mmdump.analysis import Analysis, Need, Parts, option
from mmdump.errors import UsageError
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from mmdump_trace.layout import why_no_trace
from mmdump_trace.read import TraceEvents, read_events
from mmdump_trace.reading import check_trace

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["TraceAnalysis", "about_pfn", "frames_of"]

EVENTS = Schema(
    "events",
    (
        Column("time", Kind.NSEC, "when, by the trace clock, as the kernel prints it"),
        Column("cpu", Kind.ID, "the CPU that wrote it"),
        Column("pid", Kind.ID, "the task that was running"),
        Column("comm", Kind.TEXT, "its name, as far as the tracer remembers it"),
        Column("system", Kind.TEXT, "what the event is part of", in_text=False),
        Column("event", Kind.TEXT, "its name"),
        Column("pfn", Kind.PFN, "the (first) page it is about, where it has one", in_text=False),
        Column("text", Kind.TEXT, "what the kernel prints of it"),
        Column("stack", Kind.STACK, "call chain, innermost first, where one was recorded", in_text=False),
        Column("user_stack", Kind.ADDRESS, "call chain of user space, as addresses", in_text=False),
    ),
    "Events",
)
COUNTS = Schema(
    "counts",
    (
        Column("event", Kind.TEXT, "system and name"),
        Column("events", Kind.COUNT, "how many"),
        Column("first", Kind.NSEC, "the first of them"),
        Column("last", Kind.NSEC, "the last of them"),
    ),
    "",
)
#: Fields that say which pages an event is about.
_PFN, _RANGES = "field.pfn", (("field.start_pfn", "field.end_pfn"), ("field.start", "field.fin_pfn"))


def _missing(kernel: Kernel) -> str | None:
    reason = why_no_trace(kernel.target.prog)
    if reason is None:
        check_trace(kernel)
    return reason


@dataclass(frozen=True)
class TraceAnalysis(Analysis):
    """Trace events in the ring buffers of ftrace, with their call chains."""

    name = "trace"
    tables = (EVENTS, COUNTS)
    summary = "trace events in the ring buffers of ftrace"
    scans = False
    in_report = False
    needs = (Need(_missing),)

    instance: str | None = option("--instance", "the trace instance of that name", metavar="NAME")
    event: tuple[str, ...] = option(
        "--event",
        "only events of that name, or system:name; * and ? stand for others",
        default=(),
        metavar="GLOB",
    )
    pfn: str | None = option("--pfn", "only events about that page", metavar="PFN")

    def finish(self, kernel: Kernel, state: Any, parts: Parts) -> Result:  # noqa: ARG002
        """Events in order of time, and their counts."""
        found = read_events(kernel, self.event or ("*",), self.instance)
        frame = found.frame.with_row_index("row")
        if self.pfn is not None:
            frame = frame.filter(about_pfn(frame, _number(self.pfn)))
        pfn = pl.col(_PFN).cast(pl.Int64, strict=False) if _PFN in frame.columns else pl.lit(None, pl.Int64)
        frame = frame.with_columns(pfn.alias("pfn"), found.texts(frame["row"].to_list()).alias("text"))
        chains = frames_of(kernel, found)
        addresses = pl.Series([list(each) for each in found.stacks], dtype=pl.List(pl.UInt64))
        events = frame.with_columns(
            chains.gather(frame["stack"]).alias("stack"),
            addresses.gather(frame["user_stack"]).alias("user_stack"),
        ).select(EVENTS.names)
        counts = (
            events.group_by(event=pl.concat_str("system", pl.lit(":"), "event"))
            .agg(
                pl.len().cast(pl.Int64).alias("events"),
                pl.col("time").min().alias("first"),
                pl.col("time").max().alias("last"),
            )
            .sort("events", "event", descending=[True, False])
        )
        where = "" if self.instance is None else f" of instance {self.instance}"
        return Result(
            self.name,
            summary=[f"{len(events):,} events{where}" + (f" about page {self.pfn}." if self.pfn else ".")],
            tables={"events": Table(EVENTS, events), "counts": Table(COUNTS, counts)},
            primary=EVENTS.name,
            text_tables=["counts", "events"],
            findings=_findings(found),
            notes=[*found.notes, *([found.clock.relation] if found.clock.relation else [])],
            incomplete=list(found.incomplete),
        )


def _findings(found: TraceEvents) -> list[Finding]:
    if not found.overrun:
        return []
    words = f"{found.overrun:,} events are lost: later ones were written over them."
    return [Finding("overrun", Severity.WARNING, words)]


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"{text} is no PFN", "A PFN is a number, such as 114193 or 0x1be11.") from None


def about_pfn(frame: pl.DataFrame, pfn: int) -> pl.Expr:
    """Events that are about a page: that name it, or a block or a range in which it lies."""
    tests = [pl.lit(False)]
    if _PFN in frame.columns:
        first = pl.col(_PFN).cast(pl.Int64, strict=False)
        size = pl.lit(1)
        if "field.order" in frame.columns:
            order = pl.col("field.order").cast(pl.Int64, strict=False).clip(0, 30)
            size = pl.when(pl.col("system") == "kmem").then(2 ** order.fill_null(0)).otherwise(1)
        if "field.count" in frame.columns:
            count = pl.col("field.count").cast(pl.Int64, strict=False).clip(1, 1 << 40)
            size = pl.when(pl.col("system") == "cma").then(count.fill_null(1)).otherwise(size)
        tests.append(((first <= pfn) & (pfn < first + size)).fill_null(False))
    for low, high in _RANGES:
        if low in frame.columns and high in frame.columns:
            begin, end = (pl.col(each).cast(pl.Int64, strict=False) for each in (low, high))
            tests.append(((begin <= pfn) & (pfn < end)).fill_null(False))
    return pl.any_horizontal(tests)


def frames_of(kernel: Kernel, found: TraceEvents) -> pl.Series:
    """The call chains of ``found.stacks`` as the kernel prints addresses, each once."""
    texts = [[kernel.symbols.text(address) for address in chain] for chain in found.stacks]
    return pl.Series(texts, dtype=pl.List(pl.String))
