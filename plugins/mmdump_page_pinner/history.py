"""The history of pinned pages: allocated, in the way of a migration, and put since then, by whom.

Every reference that is got is put once. A page that a failed migration left marked has all its puts in the
trace: those of the migration itself, which took and put references of its own, and those of others. A page
that is held and has no put of another's is held by a get that is older than the failure, and has no put yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from mmdump.amounts import counted, nsec_text
from mmdump.kernel.clock import LATEST_NSEC
from mmdump.result import Column, Kind, Schema, Table
from mmdump_page_pinner.calls import asker, put_of
from mmdump_page_pinner.evidence import STATES

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_page_pinner.witnesses import Witnesses

__all__ = [
    "HISTORY",
    "ROW_COLUMNS",
    "ROW_TYPES",
    "TIMELINES",
    "history_of",
    "history_table",
    "story",
    "timeline_table",
    "timelines_of",
]

HISTORY = Schema(
    "history",
    (
        Column("pfn", Kind.PFN, "the page"),
        Column("time", Kind.NSEC, "when, by the clock of the kernel's log"),
        Column("event", Kind.TEXT, "allocated, failure (of a migration), put, get, or change of the count"),
        Column("who", Kind.TEXT, "name and PID of the task"),
        Column(
            "class",
            Kind.TEXT,
            "for puts and gets: migration, reclaim, LRU batch, unmapping, truncation, user",
        ),
        Column("holder", Kind.TEXT, "what sort of user, where that is known, such as pipe"),
        Column("function", Kind.TEXT, "the function that says so, and its caller"),
        Column("refcount", Kind.COUNT, "the count then"),
        Column("reason", Kind.TEXT, "why the migration failed, where that was recorded"),
        Column("stack", Kind.STACK, "call chain, innermost first"),
    ),
    "History",
)
TIMELINES = Schema(
    "timelines",
    (
        Column("pfn", Kind.PFN, "the page"),
        Column(
            "state",
            Kind.TEXT,
            "held; released; gone: neither held nor marked any more; unknown: that is not in the dump",
            values=(*STATES, "gone"),
        ),
        Column("allocated", Kind.NSEC, "when it was allocated"),
        Column("story", Kind.TEXT, "what happened to it"),
        Column("cma_area", Kind.TEXT, "CMA area it lies in", in_text=False),
        Column("owner", Kind.TEXT, "name and PID of the task that allocated it", in_text=False),
        Column("stack_id", Kind.ID, "call chain that allocated it", in_text=False),
        Column("failures", Kind.COUNT, "migrations that failed at it", in_text=False),
        Column("first_failure", Kind.NSEC, "the first", in_text=False),
        Column("last_failure", Kind.NSEC, "the last", in_text=False),
        Column("asked_by", Kind.TEXT, "who asked for the range", in_text=False),
        Column("purpose", Kind.TEXT, "what for", in_text=False),
        Column("migration_puts", Kind.COUNT, "puts by the migration", in_text=False),
        Column("other_puts", Kind.COUNT, "puts by others", in_text=False),
        Column("user_puts", Kind.COUNT, "of those, puts by who used the page", in_text=False),
        Column("last_put", Kind.NSEC, "the last put by a user", in_text=False),
        Column("put_by", Kind.TEXT, "the functions that put it then", in_text=False),
        Column("put_who", Kind.TEXT, "and the task", in_text=False),
        Column("holder", Kind.TEXT, "what sort of user that is", in_text=False),
        Column(
            "former",
            Kind.COUNT,
            "events from before it was allocated: of a former use, and counted in no other column",
            in_text=False,
        ),
    ),
    "What happened to the pages",
)
#: Of each page's row that is kept for its history.
ROW_TYPES = pl.Schema(
    {
        "pfn": pl.Int64(),
        "head_pfn": pl.Int64(),
        "state": pl.String(),
        "cma_area": pl.String(),
        "owner_comm": pl.String(),
        "owner_pid": pl.Int64(),
        "owner_ts_nsec": pl.UInt64(),
        "stack_id": pl.Int64(),
    }
)
ROW_COLUMNS = tuple(ROW_TYPES)
_NONE = pl.Series(dtype=pl.Int64)


def history_of(
    witnesses: Witnesses,
    pages: pl.DataFrame,
    ranges: Sequence[tuple[int, int]] | None,
    until: int = LATEST_NSEC,
) -> pl.DataFrame:
    """The events that belong to the history of pages, with what their call chains say.

    :param pages: Rows of pages that are held or marked, with :data:`ROW_COLUMNS`.
    :param ranges: PFNs [first, last) that are asked about; None for all.
    :param until: What is dated later is garbage: :func:`~mmdump.kernel.clock.latest_nsec`.
    :return: The events with ``class``, ``holder``, ``function``, ``purpose`` and ``who``, and whether they
        are ``former``: from before the page was allocated for what it is used for now.
    """
    frame = witnesses.frame
    failed = frame.filter(pl.col("event") == "failure")["pfn"].unique()
    known = pl.concat([failed, pages["pfn"].cast(pl.Int64)]).unique()
    frame = frame.filter(pl.col("pfn").is_in(known.implode()))
    if ranges is not None:
        inside = [pl.col("pfn").is_between(low, high, closed="left") for low, high in ranges]
        frame = frame.filter(pl.any_horizontal(pl.lit(False), *inside))
    frame = frame.with_columns(_former(frame, witnesses, pages, until))
    return frame.join(
        _meanings(witnesses), on="chain", how="left", nulls_equal=True, maintain_order="left"
    ).select(
        "pfn",
        "time",
        "event",
        who_of("comm", "pid").alias("who"),
        pl.when(pl.col("event").is_in(["put", "get"]))
        .then(pl.col("class").fill_null("unknown"))
        .alias("class"),
        pl.when(pl.col("event") != "failure").then(pl.col("holder")).alias("holder"),
        pl.when(pl.col("event") == "failure")
        .then(pl.col("asked"))
        .otherwise(pl.col("function"))
        .alias("function"),
        pl.when(pl.col("event") == "failure").then(pl.col("purpose")).alias("purpose"),
        "refcount",
        "reason",
        "chain",
        "former",
    )


def _former(frame: pl.DataFrame, witnesses: Witnesses, pages: pl.DataFrame, until: int) -> pl.Series:
    """Which events are from before their page was allocated for what it is used for now.

    Not its own first reference, which the allocator sets a little before page_owner takes the time
    (``post_alloc_hook()``), nor anything where the times are of different clocks, or the allocation's is
    garbage.
    """
    if not witnesses.related:
        return pl.repeat(False, len(frame), dtype=pl.Boolean, eager=True).alias("former")
    allocated = pages.select(pl.col("pfn").cast(pl.Int64), pl.col("owner_ts_nsec").cast(pl.UInt64))
    allocated = allocated.filter(pl.col("owner_ts_nsec") <= until).unique("pfn", keep="first")
    rows = frame.select("pfn", "time", "name").join(allocated, on="pfn", how="left", maintain_order="left")
    time, start = pl.col("time"), pl.col("owner_ts_nsec")
    before = ((start > time) & (start - time >= witnesses.resolution)).fill_null(value=False)
    first = before & (pl.col("name") == "page_ref_set")
    own = (first & (time == time.filter(first).max().over("pfn"))).fill_null(value=False)
    return rows.select((before & ~own).alias("former"))["former"]


def who_of(comm: str, pid: str) -> pl.Expr:
    """``work 70``; the PID alone where the name is not known."""
    number = pl.col(pid).cast(pl.String)
    return (
        pl.when(pl.col(comm).is_null())
        .then(pl.format("PID {}", number))
        .otherwise(pl.concat_str(comm, number, separator=" ", ignore_nulls=True))
    )


def _meanings(witnesses: Witnesses) -> pl.DataFrame:
    """What each call chain says."""
    rows = []
    for number, chain in enumerate(witnesses.functions):
        put, asked = put_of(chain), asker(chain)
        rows.append((number, put.kind, put.holder or None, put.by or None, asked.by or None, asked.purpose))
    names = ("class", "holder", "function", "asked", "purpose")
    return pl.DataFrame(rows, schema={"chain": pl.Int64} | dict.fromkeys(names, pl.String), orient="row")


def history_table(kernel: Kernel, events: pl.DataFrame, pages: pl.DataFrame, witnesses: Witnesses) -> Table:
    """All events of each page in order of time, with its allocation where that belongs.

    Where the events' clock cannot be related to page_owner's, the allocation comes first and has no time.
    """
    stacks = pl.Series([list(each) for each in witnesses.chains], dtype=pl.List(pl.String))
    rows = events.with_columns(stacks.gather(events["chain"]).alias("stack")).select(HISTORY.names)
    seen = pages.filter(
        pl.col("pfn").is_in(events["pfn"].unique().implode()) & pl.col("owner_ts_nsec").is_not_null()
    )
    allocated = seen.select(
        pl.col("pfn").cast(pl.Int64),
        pl.when(witnesses.related).then(pl.col("owner_ts_nsec")).cast(pl.UInt64).alias("time"),
        pl.lit("allocated").alias("event"),
        who_of("owner_comm", "owner_pid").alias("who"),
        *[pl.lit(None, pl.String).alias(name) for name in ("class", "holder", "function")],
        pl.lit(None, pl.Int64).alias("refcount"),
        pl.lit(None, pl.String).alias("reason"),
        _allocations(kernel, seen["stack_id"]).alias("stack"),
    )
    frame = pl.concat([allocated, rows]).sort("pfn", "time", maintain_order=True, nulls_last=False)
    return Table(HISTORY, frame)


def _allocations(kernel: Kernel, handles: pl.Series) -> pl.Series:
    depot = kernel.stack_depot
    known: dict[int, list[str]] = {}
    for handle in handles.drop_nulls().unique().to_list():
        frames = depot.stack(handle).frames if depot is not None else ()
        known[handle] = [kernel.symbols.text(address) for address in frames]
    return pl.Series([known.get(each) for each in handles.to_list()], dtype=pl.List(pl.String))


def timelines_of(
    events: pl.DataFrame, pages: pl.DataFrame, unknown: pl.Series | None = _NONE
) -> pl.DataFrame:
    """One row per page: :data:`TIMELINES` but for the story, and the first page of its folio.

    :param unknown: PFNs of pages whose state cannot be told; None for all that are not among ``pages``.
    """
    kind, former = pl.col("class"), pl.col("former")
    failure, put, get = ((pl.col("event") == each) & ~former for each in ("failure", "put", "get"))
    user = put & kind.is_in(["user", "unknown"])
    sums = (
        events.sort("pfn", "time", maintain_order=True)
        .group_by("pfn", maintain_order=True)
        .agg(
            failure.sum().cast(pl.Int64).alias("failures"),
            pl.col("time").filter(failure).min().alias("first_failure"),
            pl.col("time").filter(failure).max().alias("last_failure"),
            pl.concat_str(
                pl.col("function").filter(failure).last(),
                pl.col("who").filter(failure).last(),
                separator=" of ",
                ignore_nulls=True,
            ).alias("asked_by"),
            pl.col("purpose").filter(failure).last().alias("purpose"),
            (put & (kind == "migration")).sum().cast(pl.Int64).alias("migration_puts"),
            (put & (kind != "migration")).sum().cast(pl.Int64).alias("other_puts"),
            user.sum().cast(pl.Int64).alias("user_puts"),
            *[
                pl.col(source).filter(user).last().alias(name)
                for name, source in (
                    ("last_put", "time"),
                    ("put_by", "function"),
                    ("put_who", "who"),
                    ("holder", "holder"),
                )
            ],
            pl.col("time").filter(get).last().alias("last_get"),
            pl.col("function").filter(get).last().alias("get_by"),
            former.sum().cast(pl.Int64).alias("former"),
        )
    )
    rows = pages.select(
        pl.col("pfn").cast(pl.Int64),
        pl.col("head_pfn").cast(pl.Int64),
        "state",
        "cma_area",
        pl.when(pl.col("owner_pid").is_not_null()).then(who_of("owner_comm", "owner_pid")).alias("owner"),
        "stack_id",
        pl.col("owner_ts_nsec").cast(pl.UInt64).alias("allocated"),
    ).unique("pfn", keep="first")
    lost = pl.lit(True) if unknown is None else pl.col("pfn").is_in(unknown.implode())
    absent = pl.when(lost).then(pl.lit("unknown")).otherwise(pl.lit("gone"))
    return sums.join(rows, on="pfn", how="left", maintain_order="left").with_columns(
        pl.col("state").fill_null(absent)
    )


def timeline_table(timelines: pl.DataFrame) -> Table:
    """The timelines, told in words: pages that are held first."""
    rank = pl.col("state").replace_strict(
        {"held": 0, "released": 1, "unknown": 2}, default=3, return_dtype=pl.Int8
    )
    frame = timelines.sort(rank, "pfn")
    stories = pl.Series([story(row) for row in frame.iter_rows(named=True)], dtype=pl.String)
    return Table(TIMELINES, frame.with_columns(stories.alias("story")).select(TIMELINES.names))


def story(row: Mapping[str, Any]) -> str:
    """What happened to one page, as a reader would tell it."""
    parts = []
    if row["failures"]:
        asked = f" of {row['asked_by']}" if row["asked_by"] else ""
        when = span(row["first_failure"], row["last_failure"])
        parts.append(f"blocked {counted(row['failures'], 'attempt')}{asked} {when}")
    own, users = row["migration_puts"], row["user_puts"]
    others = row["other_puts"] - users
    puts = []
    if own:
        puts.append(f"{counted(own, 'time')} by the migration itself")
    if others:
        puts.append(f"{counted(others, 'time')} by the kernel's housekeeping")
    if users:
        by = f" by {row['put_by']}" if row["put_by"] else ""
        more = f", the last of {users}" if users > 1 else ""
        holder = f" ({row['holder']})" if row["holder"] else ""
        puts.append(f"at {seconds(row['last_put'])}{by} of {row['put_who']}{holder}{more}")
    if puts:
        parts.append("put " + ", ".join(puts))
    if row["last_get"] is not None:
        by = f" by {row['get_by']}" if row["get_by"] else ""
        parts.append(f"last got at {seconds(row['last_get'])}{by}")
    if not users and (parts or not row["former"]):
        since = " since" if row["failures"] else ""
        parts.append(f"by no other{since}" if puts else f"no put{since}")
    elif users and row["state"] == "held":
        parts.append("something still holds it")
    if row["former"]:
        parts.append(f"{counted(row['former'], 'event')} from before it was allocated, of a former use")
    return "; ".join(parts)


def seconds(nsec: object) -> str:
    """A time as the trace and the kernel's log print it."""
    return nsec_text(int(str(nsec)))


def span(first: object, last: object) -> str:
    """One time, or the first and the last of several."""
    if first == last:
        return f"at {seconds(first)}"
    return f"from {seconds(first).removesuffix(' s')} to {seconds(last)}"
