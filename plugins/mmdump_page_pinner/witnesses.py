"""What the trace saw of pages: failed migrations, and gets and puts of references.

From a dump's ring buffers (:mod:`mmdump_trace`) or from a saved text (:mod:`mmdump_page_pinner.savedtrace`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from mmdump.amounts import nsec_text
from mmdump.errors import IncompleteError, UnsupportedError
from mmdump_page_pinner.calls import function_names
from mmdump_page_pinner.marks import why_no_marks
from mmdump_trace import TraceClock, read_events, trace_clock, why_no_trace

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = [
    "EVENTS",
    "WITNESS_TYPES",
    "Witnesses",
    "kind_of_page_ref",
    "no_witnesses",
    "on_log_clock",
    "read_witnesses",
    "saved_on_log_clock",
]

#: What each event of the page pinner is; the second version of the RFC renamed them, and reports any failed
#: migration.
EVENTS = {
    "page_pinner_failure": "failure",
    "page_pinner_put": "put",
    "report_page_pinners": "failure",
    "page_pin_owner_put": "put",
}
#: CONFIG_DEBUG_PAGE_REF: every change of a reference count, where somebody turned them on.
_PAGE_REF = "page_ref_"
_PATTERNS = (*EVENTS, "page_ref:page_ref_*")
#: One row per event: ``pfn``, when (nanoseconds; see ``related``), what, by whom, the count after it, and the
#: chain's row.
WITNESS_TYPES = pl.Schema(
    {
        "pfn": pl.Int64(),
        "time": pl.UInt64(),
        "event": pl.String(),
        "name": pl.String(),
        "pid": pl.Int64(),
        "comm": pl.String(),
        "refcount": pl.Int64(),
        "reason": pl.String(),
        "chain": pl.Int64(),
    }
)

_LAST = pl.lit((1 << 64) - 1, pl.UInt64)


@dataclass(frozen=True)
class Witnesses:
    """Events about pages, in order of time.

    :param frame: Columns as in :data:`WITNESS_TYPES`.
    :param chains: Call chains as the kernel prints them, innermost first, for column ``chain``.
    :param functions: The bare names of the chains' functions.
    :param source: Where they are from, as a sentence says it.
    :param overrun: Events that are lost, as far as anybody counted.
    :param related: Whether column ``time`` is on the clock of page_owner's times and of the kernel's log.
    :param resolution: Nanoseconds that its last digit stands for: a saved text has microseconds.
    """

    frame: pl.DataFrame
    chains: Sequence[tuple[str, ...]]
    functions: Sequence[tuple[str, ...]]
    source: str = "the trace"
    overrun: int = 0
    notes: Sequence[str] = ()
    incomplete: Sequence[str] = ()
    related: bool = True
    resolution: int = 1

    @property
    def seen(self) -> bool:
        """Whether there are any."""
        return len(self.frame) > 0

    @cached_property
    def pfns(self) -> list[int]:
        """The pages that events are about."""
        return self.frame["pfn"].unique().sort().to_list()


def no_witnesses(notes: Sequence[str] = (), incomplete: Sequence[str] = ()) -> Witnesses:
    """No events at all."""
    return Witnesses(pl.DataFrame(schema=WITNESS_TYPES), (), (), notes=notes, incomplete=incomplete)


def read_witnesses(kernel: Kernel) -> Witnesses:
    """Read them from the dump's ring buffers. Does not raise: what is missing is said.

    Of a kernel without a page pinner nothing is said: that has no history is no news.
    """
    pinner = why_no_marks(kernel) is None
    reason = why_no_trace(kernel.target.prog)
    if reason is not None:
        return no_witnesses([f"No history: {reason}."] if pinner else [])
    try:
        found = read_events(kernel, _PATTERNS)
    except UnsupportedError as error:
        return no_witnesses([f"No history: {error.message}."] if pinner else [])
    except IncompleteError as error:
        return no_witnesses(incomplete=[f"no history: {error.message}"])
    chains = [tuple(kernel.symbols.text(address) for address in chain) for chain in found.stacks]
    frame = found.frame
    columns = {
        name: _column(frame, f"field.{name}") for name in ("pfn", "count", "reason", "err", "val", "ret")
    }
    rows = frame.select(
        columns["pfn"].cast(pl.Int64, strict=False).alias("pfn"),
        "time",
        _event(columns).alias("event"),
        pl.col("event").alias("name"),
        "pid",
        "comm",
        columns["count"].cast(pl.Int64, strict=False).alias("refcount"),
        pl.concat_str(
            columns["reason"].cast(pl.String),
            pl.format("error {}", columns["err"].cast(pl.String)),
            separator=", ",
            ignore_nulls=True,
        )
        .replace("", None)
        .alias("reason"),
        pl.col("stack").alias("chain"),
    )
    notes = list(found.notes)
    if pinner and not len(rows):
        notes.append("No history: the ring buffers hold no event of the page pinner.")
    witnesses = Witnesses(
        rows.filter(pl.col("pfn").is_not_null()).cast(WITNESS_TYPES),
        chains,
        [function_names(chain) for chain in chains],
        overrun=found.overrun,
        notes=notes if pinner or len(rows) else (),
        incomplete=[f"trace: {each}" for each in found.incomplete],
    )
    return on_log_clock(witnesses, found.clock)


def saved_on_log_clock(kernel: Kernel, saved: Witnesses) -> Witnesses:
    """Events of a saved text on the clock of the kernel's log; their own, which it lacks, is the dump's."""
    try:
        clock = trace_clock(kernel)
    except (IncompleteError, UnsupportedError):
        clock = TraceClock(None, True, None)
    taken = "" if clock.name is None else f": it is taken for {clock.title}, as in the dump"
    note = f"{saved.source} does not say which clock its times are of{taken}."
    return on_log_clock(replace(saved, notes=[*saved.notes, note]), clock)


def on_log_clock(witnesses: Witnesses, clock: TraceClock) -> Witnesses:
    """Turn times of a trace clock into those of the kernel's log and page_owner, where it can be done."""
    if not witnesses.seen or clock.to_log == 0:
        return witnesses
    if clock.to_log is None:
        return replace(witnesses, notes=[*witnesses.notes, str(clock.relation)], related=False)
    time, by = pl.col("time"), pl.lit(abs(clock.to_log), pl.UInt64)
    moved = (
        pl.when(time <= _LAST - by).then(time + by).otherwise(_LAST)
        if clock.to_log > 0
        else pl.when(time >= by).then(time - by).otherwise(pl.lit(0, pl.UInt64))
    )
    note = (
        f"Times of {witnesses.source} are shown on the clock of the kernel's log and of page_owner: "
        f"{nsec_text(abs(clock.to_log))} {'more' if clock.to_log > 0 else 'less'} than by {clock.title}."
    )
    return replace(
        witnesses, frame=witnesses.frame.with_columns(moved.alias("time")), notes=[*witnesses.notes, note]
    )


def _column(frame: pl.DataFrame, name: str) -> pl.Expr:
    return pl.col(name) if name in frame.columns else pl.lit(None)


def _event(columns: dict[str, pl.Expr]) -> pl.Expr:
    name = pl.col("event")
    value, done = (columns[each].cast(pl.Int64, strict=False) for each in ("val", "ret"))
    change = (
        pl.when(name.str.ends_with("_unless") & (done == 0))
        .then(pl.lit("change"))
        .when(value > 0)
        .then(pl.lit("get"))
        .when(value < 0)
        .then(pl.lit("put"))
        .otherwise(pl.lit("change"))
    )
    # page_ref_set, page_ref_freeze and page_ref_unfreeze set the count to what they say.
    moved = name.str.starts_with(f"{_PAGE_REF}mod")
    known = name.replace_strict(EVENTS, default=None, return_dtype=pl.String)
    return pl.when(known.is_not_null()).then(known).when(moved).then(change).otherwise(pl.lit("change"))


def kind_of_page_ref(name: str, value: int | None, done: int | None) -> str:
    """The same for one event of page_ref: what a change of the count by ``val`` (with ``ret``) is."""
    if not name.startswith(f"{_PAGE_REF}mod") or value is None or (name.endswith("_unless") and not done):
        return "change"
    return "get" if value > 0 else "put" if value < 0 else "change"
