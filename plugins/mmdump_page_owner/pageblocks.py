"""``mmdump pageblocks``: blocks of one migratetype polluted by another, by whom, and what would free them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Columns, Need, Parts, option
from mmdump.errors import UsageError
from mmdump.kernel.arrays import I64, Bools, Struct
from mmdump.kernel.holes import in_hole, zone_spans
from mmdump.kernel.pageblock import UNKNOWN
from mmdump.result import Result
from mmdump_page_owner.blocks import BlockRules, Blocks, read_block_rules
from mmdump_page_owner.pollution import (
    BLOCKS,
    COST,
    POLLUTERS,
    TYPES,
    blocks_by_cost,
    blocks_by_type,
    fold_polluters,
    pageblocks_result,
)
from mmdump_page_owner.state import why_missing

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["Pageblocks"]


@dataclass(frozen=True)
class State:
    """What the scan needs. Plain data.

    :param zones: Names of zones by (node, index).
    :param types: Names of migratetypes by number.
    :param only: Nodes, (node, index) of zones, and migratetypes that are wanted; None for all.
    :param handle_mask: The bits of a handle that name a stack.
    :param spans: Where zones are, of :func:`~mmdump.kernel.holes.zone_spans`.
    """

    rules: BlockRules
    zones: Mapping[tuple[int, int], str]
    types: tuple[str, ...]
    nodes: tuple[int, ...] | None
    zone_indices: tuple[int, ...] | None
    migratetypes: tuple[int, ...] | None
    handle_mask: int
    spans: I64 | None

    def wanted(self, blocks: Blocks) -> Bools:
        """The blocks that are wanted."""
        found = np.ones(len(blocks.start), bool)
        for values, only in (
            (blocks.node, self.nodes),
            (blocks.zone, self.zone_indices),
            (blocks.migratetype, self.migratetypes),
        ):
            if only is not None:
                found &= np.isin(values, only)
        return found


@dataclass(frozen=True)
class Pageblocks(Analysis):
    """Pageblocks by migratetype, and the pages in them that belong into blocks of another type.

    A movable block can be emptied by compaction; one page in it that cannot be moved, and it never becomes a
    huge page again. Which call chains put such pages there, and how few of them stand in the way.
    """

    name = "pageblocks"
    summary = "blocks of one migratetype polluted by another, and by whom"
    report_rank = 50
    needs = (Need(why_missing),)
    page_ext = ("page_owner",)
    stream = BLOCKS
    tables = (TYPES, COST, POLLUTERS)

    zone: tuple[str, ...] = option("--zone", "only blocks in zones of this name", default=(), metavar="NAME")
    node: tuple[str, ...] = option("--node", "only blocks of this NUMA node", default=(), metavar="N")
    migratetype: tuple[str, ...] = option(
        "--migratetype", "only blocks of this migratetype", default=(), metavar="NAME"
    )

    def start(self, kernel: Kernel) -> State:
        """Read the names of zones and migratetypes, and find those that are wanted among them."""
        zones = {(zone.node, zone.index): zone.name for zone in kernel.zones}
        types = kernel.pageblocks.names
        depot = kernel.stack_depot
        indices = sorted({index for _, index in zones})
        nodes = sorted({node for node, _ in zones})
        names = {index: name for (_, index), name in zones.items()}
        return State(
            read_block_rules(kernel),
            zones,
            types,
            _wanted("--node", self.node, [(node, str(node)) for node in nodes]),
            _wanted("--zone", self.zone, [(index, names[index]) for index in indices]),
            _wanted("--migratetype", self.migratetype, list(enumerate(types))),
            depot.layout.mask if depot is not None else 0xFFFFFFFF,
            zone_spans(kernel),
        )

    def scan(self, pages: PageRange, state: State) -> Mapping[str, Columns]:
        """A row for each block, and one for each call chain that pollutes one."""
        if pages.ext is None:
            return {}
        blocks = Blocks(pages, state.rules)
        hole = in_hole(pages, state.spans) & ~pages.in_free_block & ~blocks.allocated
        free, allocated = blocks.free & ~hole, blocks.allocated
        outside = blocks.sum(hole)
        # What lies in a hole as a whole is no block.
        asked = state.wanted(blocks)
        wanted = asked & (outside < blocks.length)
        polluters = _polluters(blocks, wanted, state)
        chains = np.bincount(polluters["block"], minlength=len(blocks.start))
        polluters["alone"] = (chains[polluters["block"]] == 1).astype(np.int64)
        polluters["block_type"] = blocks.migratetype[polluters.pop("block")]
        rows: dict[str, Struct] = {
            "pfn": pages.start + blocks.start,
            "node": blocks.node,
            "zone": blocks.zone,
            "migratetype": blocks.migratetype,
            "pages": blocks.length - outside,
            "free": blocks.sum(free),
            "allocated": blocks.sum(allocated & ~free),
            "polluting": blocks.sum(blocks.polluting),
            "other": blocks.sum(~free & ~allocated & ~hole),
            "chains": chains,
            "mixed": blocks.mixed,
        }
        return {
            "blocks": {name: values[wanted] for name, values in rows.items()},
            "polluters": polluters,
            "garbage": {"pages": np.array([np.count_nonzero(blocks.garbage)])},
            "outside": {"pages": np.array([outside[asked].sum()])},
        }

    def batch(self, rows: Parts, state: State) -> Parts:
        """Name what has names; sum the blocks by type and by what it takes to free them."""
        blocks = _named(rows["blocks"], state)
        movable = state.types[state.rules.movable] if state.rules.movable < len(state.types) else ""
        return {
            BLOCKS.name: blocks,
            "types": blocks_by_type(blocks, 1 << state.rules.order),
            "cost": blocks_by_cost(blocks.filter(migratetype=movable), 1 << state.rules.order),
            "polluters": fold_polluters(rows["polluters"]),
            "garbage": rows["garbage"].sum(),
            "outside": rows["outside"].sum(),
        }

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum the sums."""
        if part == "polluters":
            return fold_polluters(frame)
        keys = {"types": ["node", "zone", "migratetype"], "cost": ["bucket"]}.get(part)
        return frame.sum() if keys is None else frame.group_by(keys, maintain_order=True).sum()

    def finish(self, kernel: Kernel, state: State, parts: Parts) -> Result:
        """The tables, and what is to be learned from them."""
        return pageblocks_result(kernel, parts, state.rules.order, state.types, state.rules.movable)


def _polluters(blocks: Blocks, wanted: Bools, state: State) -> dict[str, Struct]:
    """One row for each block, call chain and type of its pages: how many pages and allocations."""
    assert blocks.pages.ext is not None
    rows = np.flatnonzero(blocks.polluting)
    if not len(rows):
        return dict.fromkeys(("block", "page_type", "stack_id", "pages", "blocks"), np.zeros(0, np.int64))
    rows = rows[blocks.of_page(wanted)[rows]]
    by = blocks.record_of(rows)
    record = blocks.pages.ext["page_owner"].rows(by)
    block = np.searchsorted(blocks.start, rows, side="right") - 1
    handle = record["handle"].astype(np.int64) & state.handle_mask
    # 29 bits are more than enough for the blocks of a range, and 2 for the types that a gfp mask can ask for.
    key = block << 34 | blocks.page_type[by].astype(np.int64) << 32 | handle
    keys, counts = np.unique(key, return_counts=True)
    return {
        "block": keys >> 34,
        "page_type": keys >> 32 & 3,
        "stack_id": keys & 0xFFFFFFFF,
        "pages": counts.astype(np.int64),
        "blocks": np.ones(len(keys), np.int64),
    }


def _named(blocks: pl.DataFrame, state: State) -> pl.DataFrame:
    """The rows of table ``blocks``."""
    zones = pl.DataFrame(
        {
            "node": [node for node, _ in state.zones],
            "zone": [index for _, index in state.zones],
            "name": list(state.zones.values()),
        },
        schema={"node": pl.Int64, "zone": pl.Int64, "name": pl.String},
    )
    types: list[str | None] = [*state.types[:UNKNOWN], *[None] * (UNKNOWN + 1 - len(state.types))]
    named = blocks.join(zones, on=["node", "zone"], how="left", maintain_order="left")
    return named.with_columns(
        pl.col("name").alias("zone"),
        pl.Series(types, dtype=pl.String).gather(blocks["migratetype"]).alias("migratetype"),
    ).select(BLOCKS.names)


def _wanted(flag: str, given: Iterable[str], known: Sequence[tuple[int, str]]) -> tuple[int, ...] | None:
    """The numbers of what is asked for by name, in any case; None when nothing is.

    :raises UsageError: This kernel has nothing of that name.
    """
    found: list[int] = []
    given = [word.strip() for each in given for word in each.split(",")]
    for word in given:
        same = [number for number, name in known if name.lower() == word.lower()]
        if not same:
            names = ", ".join(dict.fromkeys(name for _, name in known))
            raise UsageError(f"{flag} {word}: this kernel has none", f"It has: {names}")
        found += same
    return tuple(found) if given else None
