"""Pages summed by what the scan tells apart, and then by the keys that were asked for.

The scan's sums are finer than what is shown: of each call chain by order, migratetype and task too, so that
filters and keys that need names are applied to some thousands of sums, never to pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.arrays import Struct, counts
from mmdump.result import Column, Kind, Schema, Table
from mmdump_page_owner.codes import MEMBERS
from mmdump_page_owner.keys import KEYS, STACKTRACE, Sums, named, text_of
from mmdump_page_owner.record import comms_of

if TYPE_CHECKING:
    from mmdump.analysis import Columns
    from mmdump.kernel import Kernel
    from mmdump_page_owner.chains import Chains
    from mmdump_page_owner.codes import Rows

__all__ = ["ANY_GROUPS", "LUMPED", "fold_sums", "group_table", "name_sums", "sum_rows"]

#: Sums kept apart at most; garbage in a damaged dump could make each page one of its own.
_MAX_SUMS = 1 << 17
#: The code of what is lumped together beyond that: a handle has 32 bits.
LUMPED = (1 << 64) - 1
#: A chain's code: its handle, the order (5 bits, see record.py's limit) and the migratetype (3 bits).
_ORDER_SHIFT, _HANDLE_SHIFT = 3, 8
#: Tasks that a group names, those with most pages first.
_NAMED = 8

#: What is summed; all other columns of a sum are what it is of.
_SUMS = ("pages", "allocations", "oldest", "newest")


def sum_rows(rows: Rows, codes: Sequence[str], pages: Struct, first: Struct, handle_mask: int) -> Columns:
    """Sums of runs of rows, for :func:`fold_sums`.

    :param codes: To be told apart besides chain, order, migratetype and task.
    :param pages: How many pages each row stands for, int64.
    :param first: Whether an allocation begins with it.
    """
    low, high = rows.comm()
    parts: dict[str, Struct] = {
        "handle": rows.member("handle"),
        "order": rows.column("order"),
        "migratetype": rows.code("migratetype"),
        "comm_low": low,
        "comm_high": high,
        **{code: rows.code(code) for code in codes},
    }
    # Neighbours often are one allocation, or were allocated one after the other.
    begins = np.zeros(len(rows.rows), bool)
    begins[:1] = True
    for part in parts.values():
        begins[1:] |= part[1:] != part[:-1]
    starts = np.flatnonzero(begins)
    keys = {name: part[starts] for name, part in parts.items()}
    handle = (keys.pop("handle") & np.uint32(handle_mask)).astype(np.uint64)
    order, migratetype = keys.pop("order").astype(np.uint64), keys.pop("migratetype")
    chain = (handle << np.uint64(_HANDLE_SHIFT)) | (order << np.uint64(_ORDER_SHIFT))
    known = MEMBERS["ts"][rows.facts.free] in rows.record.names
    ts = rows.code("ts") if known else np.zeros(len(rows.rows), np.uint64)
    return (
        {"chain": chain | migratetype}
        | keys
        | {
            "pages": np.add.reduceat(pages, starts),
            "allocations": counts(first, starts),
            "oldest": np.minimum.reduceat(ts, starts),
            "newest": np.maximum.reduceat(ts, starts),
        }
    )


def fold_sums(frame: pl.DataFrame) -> pl.DataFrame:
    """Sum rows or sums of equal codes; beyond a limit the smallest are taken together."""
    summed = _sum(frame)
    if len(summed) <= _MAX_SUMS:
        return summed
    half = _MAX_SUMS // 2
    summed = summed.sort("pages", "chain", descending=[True, False])
    kept, rest = summed.head(half), summed.tail(-half)
    # Less is lost without the tasks than without the chains.
    fewer = _sum(_made_equal(rest, "comm_low", "comm_high"))
    if len(fewer) > half // 2:
        others = [name for name in rest.columns if name not in _SUMS and name != "chain"]
        lumped = rest.with_columns(pl.lit(LUMPED, pl.UInt64).alias("chain"))
        fewer = _sum(_made_equal(lumped, *others))
    return pl.concat([kept, fewer])


def _sum(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.group_by([name for name in frame.columns if name not in _SUMS]).agg(
        pl.col("pages").sum(),
        pl.col("allocations").sum(),
        pl.col("oldest").min(),
        pl.col("newest").max(),
    )


def _made_equal(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    return frame.with_columns(pl.lit(None, frame.schema[name]).alias(name) for name in names)


def name_sums(sums: pl.DataFrame, *, has_comm: bool, has_ts: bool) -> pl.DataFrame:
    """The sums with ``stack_id``, ``order``, ``migratetype`` (a code) and ``comm`` instead of packed codes.

    :param has_comm: Whether the records have a task's name; the column is null otherwise.
    :param has_ts: Likewise of times.
    """
    chain, lumped = pl.col("chain"), pl.col("chain") == LUMPED
    frame = sums.with_columns(
        pl.when(~lumped).then(chain // (1 << _HANDLE_SHIFT)).cast(pl.Int64).alias("stack_id"),
        pl.when(~lumped).then(chain // (1 << _ORDER_SHIFT) % 32).cast(pl.Int64).alias("order"),
        pl.when(~lumped).then(chain % (1 << _ORDER_SHIFT)).cast(pl.Int64).alias("migratetype"),
    )
    comm = comms_of(frame) if has_comm else pl.Series("comm", [None] * len(frame), dtype=pl.String)
    frame = frame.with_columns(comm.alias("comm")).drop("chain", "comm_low", "comm_high")
    if not has_ts:
        frame = frame.with_columns(pl.lit(None, pl.UInt64).alias(name) for name in ("oldest", "newest"))
    return frame


def group_table(
    kernel: Kernel, sums: pl.DataFrame, chains: Chains, keys: Sequence[str], *, free: bool
) -> Table:
    """Sums by the keys, largest first.

    :param sums: As :func:`name_sums` makes them.
    """
    by_chain = STACKTRACE in keys
    named_keys = pl.DataFrame(
        [KEYS[key].name(Sums(kernel, sums, chains)).alias(KEYS[key].columns[0].name) for key in keys]
    )
    types = text_of(sums["migratetype"], lambda index: named(kernel, index))
    rows = sums.select("stack_id", "order", *_SUMS).rename({"stack_id": "of_stack", "order": "of_order"})
    rows = pl.concat(
        [rows, sums.select(pl.col("comm").alias("of_comm")), named_keys], how="horizontal"
    ).with_columns(types.alias("of_type"))
    names = named_keys.columns
    groups = rows.group_by(names).agg(
        pl.col("pages").sum(),
        (pl.col("pages").sum() * kernel.target.page_size).alias("bytes"),
        pl.col("allocations").sum(),
        pl.col("oldest").min().alias("oldest_ts_nsec"),
        pl.col("newest").max().alias("newest_ts_nsec"),
        pl.col("of_order").drop_nulls().unique().sort().alias("orders"),
        pl.col("of_type").drop_nulls().unique().sort().alias("migratetypes"),
        pl.col("of_stack").n_unique().cast(pl.Int64).alias("stacks"),
    )
    groups = groups.join(_tasks(rows, names), on=names, how="left", nulls_equal=True)
    if by_chain:
        groups = groups.with_columns(
            chains.of(groups["stack_id"], "frames").alias("frames"),
            chains.of(groups["stack_id"], "special").alias("special"),
        )
    groups = groups.sort(["bytes", *names], descending=[True, *[False] * len(names)], nulls_last=True)
    schema = _schema(keys, free=free, special=by_chain and not groups["special"].is_null().all())
    return Table(schema, groups.select(schema.names))


def _tasks(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The tasks with most pages of each group."""
    tasks = rows.group_by(*names, "of_comm").agg(pl.col("pages").sum()).drop_nulls("of_comm")
    tasks = tasks.sort(["pages", "of_comm"], descending=[True, False])
    return tasks.group_by(names, maintain_order=True).agg(pl.col("of_comm").head(_NAMED).alias("comms"))


def _schema(keys: Sequence[str], *, free: bool, special: bool) -> Schema:
    by_chain = STACKTRACE in keys
    first = [each for key in keys if key != STACKTRACE for each in KEYS[key].columns]
    columns = [
        *first,
        Column("pages", Kind.COUNT, "pages freed" if free else "pages allocated and not freed", weight=True),
        Column("bytes", Kind.BYTES, "the same in bytes", weight=True),
        Column("allocations", Kind.COUNT, "how many allocations they are or were", aliases=("times", "t")),
        Column(
            "oldest_ts_nsec",
            Kind.NSEC,
            "when the first was freed" if free else "when the oldest was made",
            aliases=("ts", "alloc_ts", "at", "oldest"),
        ),
        Column(
            "newest_ts_nsec",
            Kind.NSEC,
            "when the last was freed" if free else "when the newest was made",
            aliases=("newest",),
        ),
    ]
    if by_chain:
        columns += KEYS[STACKTRACE].columns
        columns.append(
            Column("special", Kind.TEXT, "the name of a handle that is page_owner's own", in_text=special)
        )
    else:
        columns.append(Column("stacks", Kind.COUNT, "how many call chains they come from"))
    if "order" not in keys:
        columns.append(Column("orders", Kind.ID, "orders of the allocations"))
    if "comm" not in keys:
        columns.append(Column("comms", Kind.TEXT, f"tasks that allocated most of them, {_NAMED} at most"))
    if "migratetype" not in keys:
        columns.append(Column("migratetypes", Kind.TEXT, "migratetypes that their gfp_masks asked for"))
    if by_chain:
        columns.append(Column("frames", Kind.STACK, "call chain, innermost first"))
    what = "Freed" if free else "Allocated"
    by = ", ".join("call chain" if key == STACKTRACE else key for key in keys)
    return Schema("groups", tuple(columns), f"{what} pages by {by}")


#: What the table can have, whatever it is by.
ANY_GROUPS = Schema(
    "groups",
    tuple(
        {
            column.name: column
            for keys in ([*KEYS], [STACKTRACE], ["pid"])
            for column in _schema(keys, free=False, special=True).columns
        }.values()
    ),
)
