"""The tables of ``mmdump pageblocks``, and what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from mmdump.amounts import agreeing, bytes_text, counted
from mmdump.analysis import Parts
from mmdump.kernel.holes import hole_note
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from mmdump_page_owner.stacks import stack_table

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["BLOCKS", "blocks_by_cost", "blocks_by_type", "fold_polluters", "pageblocks_result"]

BLOCKS = Schema(
    "blocks",
    (
        Column("pfn", Kind.PFN, "first page of the block"),
        Column("node", Kind.ID, "NUMA node"),
        Column("zone", Kind.TEXT, "zone; a block that two share has a row for each"),
        Column("migratetype", Kind.TEXT, "migratetype of the block"),
        Column("pages", Kind.COUNT, "its pages; what no zone spans is none"),
        Column("free", Kind.COUNT, "of these, free ones, those of per-CPU lists included"),
        Column("allocated", Kind.COUNT, "allocated ones"),
        Column("polluting", Kind.COUNT, "of those, the ones that another type of block is for"),
        Column("other", Kind.COUNT, "reserved, unreadable or without a record: neither free nor allocated"),
        Column("chains", Kind.COUNT, "how many call chains the polluting pages are from"),
        Column("mixed", Kind.BOOL, "whether the kernel counts it among the mixed blocks"),
    ),
    "Blocks",
)

TYPES = Schema(
    "types",
    (
        Column("node", Kind.ID, "NUMA node"),
        Column("zone", Kind.TEXT, "zone"),
        Column("migratetype", Kind.TEXT, "migratetype of the blocks"),
        Column("blocks", Kind.COUNT, "how many"),
        Column("whole", Kind.COUNT, "of these, entirely free ones"),
        Column("polluted", Kind.COUNT, "those with pages that another type of block is for"),
        Column("mixed", Kind.COUNT, "those that the kernel counts as mixed: also CMA's that are in use"),
        Column("pages", Kind.COUNT, "pages of all blocks"),
        Column("free", Kind.COUNT, "free pages"),
        Column("allocated", Kind.COUNT, "allocated pages"),
        Column("polluting", Kind.COUNT, "of these, the ones that another type of block is for"),
        Column("other", Kind.COUNT, "pages neither free nor allocated", in_text=False),
    ),
    "Blocks by type",
)

COST = Schema(
    "cost",
    (
        Column("obstacles", Kind.TEXT, "how many pages that cannot be moved a block has"),
        Column("blocks", Kind.COUNT, "how many such blocks"),
        Column("pages_to_free", Kind.COUNT, "the pages that would have to be freed for all of them"),
        Column("pages_to_move", Kind.COUNT, "those that compaction could then move away"),
        Column("bytes", Kind.BYTES, "size of the whole blocks this would make"),
    ),
    "What it would take to free the polluted movable blocks",
)

POLLUTERS = Schema(
    "polluters",
    (
        Column("blocks", Kind.COUNT, "blocks that it pollutes, alone or with others"),
        Column("alone", Kind.COUNT, "of these, the blocks that nothing else pollutes", weight=True),
        Column("pages", Kind.COUNT, "its pages in them", weight=True),
        Column("bytes", Kind.BYTES, "the same in bytes", weight=True),
        Column("page_type", Kind.TEXT, "migratetype that its gfp_mask asked for"),
        Column("block_type", Kind.TEXT, "migratetype of the blocks"),
        Column("stack_id", Kind.ID, "stack depot handle; absent where chains are too many to keep apart"),
        Column("frames", Kind.STACK, "call chain, innermost first"),
    ),
    "Pages in blocks of another type, by call chain",
)

#: Upper ends of the buckets of table cost.
_ENDS = (1, 4, 16, 64, 256)
_LABELS = ("1", "2-4", "5-16", "17-64", "65-256", "257 or more")
#: The bucket of blocks that cannot become whole, whatever is freed.
_STUCK = len(_LABELS)
_STUCK_LABEL = "any, and reserved or unknown pages"
#: Obstacles that are few.
_FEW = 1
#: Chains that the finding may name as the few that pollute most.
_FEW_CHAINS = 3
#: Of movable blocks, from which on pollution is more than a note.
_MUCH = 0.25
#: Chains kept apart at most; garbage in a damaged dump could make each page one of its own.
_MAX_CHAINS = 1 << 16


def blocks_by_type(blocks: pl.DataFrame, block_pages: int) -> pl.DataFrame:
    """Sum rows of table ``blocks`` by node, zone and type.

    :param block_pages: Pages that a whole block has.
    """
    return blocks.group_by("node", "zone", "migratetype", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("blocks"),
        (pl.col("free") == block_pages).sum().cast(pl.Int64).alias("whole"),
        (pl.col("polluting") > 0).sum().cast(pl.Int64).alias("polluted"),
        pl.col("mixed").sum().cast(pl.Int64),
        pl.col("pages", "free", "allocated", "polluting", "other").sum(),
    )


def blocks_by_cost(blocks: pl.DataFrame, block_pages: int) -> pl.DataFrame:
    """Sum the polluted ones of some blocks by how many pages stand in their way.

    :param block_pages: Pages that a whole block has.
    """
    bucket = pl.lit(0, dtype=pl.Int64)
    for end in _ENDS:
        bucket = bucket + (pl.col("polluting") > end).cast(pl.Int64)
    stuck = (pl.col("other") > 0) | (pl.col("pages") < block_pages)
    return (
        blocks.filter(pl.col("polluting") > 0)
        .with_columns(pl.when(stuck).then(_STUCK).otherwise(bucket).cast(pl.Int64).alias("bucket"))
        .group_by("bucket", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("blocks"),
            pl.col("polluting").sum().alias("pages_to_free"),
            (pl.col("allocated") - pl.col("polluting")).sum().alias("pages_to_move"),
        )
    )


def fold_polluters(rows: pl.DataFrame) -> pl.DataFrame:
    """Sum by call chain and types."""
    keys = ["stack_id", "page_type", "block_type"]
    sums = rows.group_by(keys, maintain_order=True).agg(pl.col("pages", "blocks", "alone").sum())
    if len(sums) <= _MAX_CHAINS:
        return sums
    sums = sums.sort("pages", descending=True)
    rest = sums.tail(-(_MAX_CHAINS // 2)).with_columns(pl.lit(None, dtype=pl.Int64).alias("stack_id"))
    rest = rest.group_by(keys, maintain_order=True).agg(pl.col("pages", "blocks", "alone").sum())
    return pl.concat([sums.head(_MAX_CHAINS // 2), rest])


def pageblocks_result(
    kernel: Kernel, parts: Parts, order: int, types: tuple[str, ...], movable: int
) -> Result:
    """The answer, from the sums of all ranges."""
    page_size = kernel.target.page_size
    block_bytes = page_size << order
    by_type = parts["types"].sort("node", maintain_order=True)
    polluters, notes = _polluters(kernel, parts["polluters"], types, movable)
    cost = _cost(parts["cost"], block_bytes)
    name = types[movable] if movable < len(types) else ""
    blocks = int(by_type["blocks"].sum())
    polluted = int(by_type["polluted"].sum())
    summary = (
        f"{counted(blocks, 'block')} of order {order} ({bytes_text(block_bytes)}), "
        f"{int(by_type['whole'].sum())} of them free; "
        f"{polluted} polluted by {counted(int(by_type['polluting'].sum()), 'page')} of other types"
    )
    return Result(
        "pageblocks",
        summary=[summary],
        tables={
            "types": Table(TYPES, by_type.select(TYPES.names)),
            "cost": Table(COST, cost.select(COST.names)),
            "polluters": polluters,
        },
        primary=BLOCKS.name,
        text_tables=["types", "cost", "polluters"],
        findings=[
            *_pollution(by_type.filter(migratetype=name), polluters.frame.filter(block_type=name), name),
            *_cheap(cost, name, order),
            *_garbage(parts["garbage"]),
        ],
        notes=[*notes, *hole_note(int(parts["outside"]["pages"].sum()), page_size)],
    )


def _polluters(
    kernel: Kernel, rows: pl.DataFrame, types: tuple[str, ...], movable: int
) -> tuple[Table, list[str]]:
    """Call chains, those first whose pages cannot be moved."""
    stacks, notes = stack_table(kernel, rows["stack_id"].drop_nulls().to_list())
    names = pl.Series([*types, None], dtype=pl.String)
    frame = (
        rows.join(stacks.frame.select("stack_id", "frames"), on="stack_id", how="left", maintain_order="left")
        .sort(
            pl.col("page_type") == movable,
            "blocks",
            "pages",
            "stack_id",
            descending=[False, True, True, False],
            nulls_last=True,
        )
        .with_columns((pl.col("pages") * kernel.target.page_size).alias("bytes"))
    )
    frame = frame.with_columns(
        names.gather(frame[key].clip(upper_bound=len(types))).alias(key)
        for key in ("page_type", "block_type")
    )
    return Table(POLLUTERS, frame.select(POLLUTERS.names)), notes


def _cost(rows: pl.DataFrame, block_bytes: int) -> pl.DataFrame:
    labels = pl.Series([*_LABELS, _STUCK_LABEL])
    rows = rows.sort("bucket")
    gained = pl.when(pl.col("bucket") == _STUCK).then(0).otherwise(pl.col("blocks") * block_bytes)
    return rows.with_columns(labels.gather(rows["bucket"]).alias("obstacles"), gained.alias("bytes"))


def _pollution(types: pl.DataFrame, polluters: pl.DataFrame, name: str) -> list[Finding]:
    """How many movable blocks are polluted, and by how many call chains most of that is done."""
    blocks, polluted = int(types["blocks"].sum()), int(types["polluted"].sum())
    if not polluted:
        return []
    by_chain = polluters.group_by("stack_id").agg(pl.col("pages").sum()).sort("pages", descending=True)
    few = by_chain.filter(pl.col("stack_id").is_not_null()).head(_FEW_CHAINS)
    share = 100 * int(few["pages"].sum()) // max(int(by_chain["pages"].sum()), 1)
    chains = counted(len(few), "call chain")
    return [
        Finding(
            "pageblocks-polluted",
            Severity.WARNING if polluted >= _MUCH * blocks else Severity.NOTE,
            f"{polluted} of {counted(blocks, f'{name} block')} {agreeing(polluted, 'is', 'are')} polluted by "
            "pages that cannot be moved; "
            f"{share} % of these pages are of {chains}.",
            POLLUTERS.name,
            f"block_type = '{name}'",
        )
    ]


def _cheap(cost: pl.DataFrame, name: str, order: int) -> list[Finding]:
    """What the blocks would take that only few pages stand in the way of."""
    few = cost.filter(pl.col("bucket") <= _FEW)
    blocks, pages = int(few["blocks"].sum()), int(few["pages_to_free"].sum())
    if not blocks:
        return []
    return [
        Finding(
            "pageblocks-cheap",
            Severity.NOTE,
            f"In {counted(blocks, f'{name} block')} at most {_ENDS[_FEW]} pages cannot be moved: without "
            f"{agreeing(pages, 'this', 'these')} {counted(pages, 'page')} compaction could make "
            f"{counted(blocks, 'more free block')} of order {order}.",
            COST.name,
        )
    ]


def _garbage(garbage: pl.DataFrame) -> list[Finding]:
    pages = int(garbage["pages"].sum())
    if not pages:
        return []
    return [
        Finding(
            "page-owner-garbage",
            Severity.WARNING,
            f"{counted(pages, 'page has', 'pages have')} a page_owner record of an impossible order; "
            f"{agreeing(pages, 'it pollutes', 'they pollute')} nothing here.",
        )
    ]
