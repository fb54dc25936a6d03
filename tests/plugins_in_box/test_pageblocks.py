"""Pageblocks made by hand: which are mixed to the kernel, which are polluted, and what would free them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump.errors import UsageError
from mmdump.kernel.page import PageRange
from mmdump.kernel.page_ext import PageExtRange
from mmdump.kernel.pageblock import PageblockLayout, PageblockRange
from mmdump.kernel.zones import Zone
from mmdump.result import Result
from mmdump.target import ReadStatus
from mmdump_page_owner.blocks import BlockRules, Blocks
from mmdump_page_owner.mixed import MixedBlocks
from mmdump_page_owner.pageblocks import Pageblocks
from tests.kernel.builders import EXT_DTYPE, EXT_LAYOUT, Ext, Kernelish, Memory, bits, hostile_memory

#: Blocks of eight pages.
ORDER = 3
UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, CMA, ISOLATE = range(6)
NAMES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate")
RULES = BlockRules(ORDER, 6, MOVABLE, CMA, 3, group_by_mobility=True)
GFP = {UNMOVABLE: 0xCC0, MOVABLE: 0xCC8, RECLAIMABLE: 0xCD0}


class Made:
    """Pages in the making, with the types of their blocks."""

    def __init__(self, *types: int, start: int = 0) -> None:
        self.types = types
        self.memory = Memory(len(types) << ORDER, start)
        self.ext = Ext(len(types) << ORDER)

    def own(self, row: int, kind: int, *, order: int = 0, handle: int = 0x11) -> Made:
        """Pages of an allocation whose gfp_mask asks for a migratetype."""
        self.ext.own(row, order=order, handle=handle)
        end = min(row + (1 << order), len(self.ext.rows))
        self.ext.rows["page_owner"]["gfp_mask"][row:end] = GFP[kind]
        self.memory.rows["_refcount"][row:end] = 1
        return self

    def pages(self) -> PageRange:
        first = self.memory.start >> ORDER
        # Where the range does not begin with a block, it ends within one more.
        types = PageblockRange(first, ORDER, np.array([*self.types, self.types[-1]], np.uint8))
        return self.memory.pages(self.ext.range(), types)

    def blocks(self, rules: BlockRules = RULES) -> Blocks:
        return Blocks(self.pages(), rules)

    def mixed(self) -> list[bool]:
        return self.blocks().mixed.tolist()


# Mixed, as the kernel counts


def test_a_block_with_a_page_of_another_type_is_mixed() -> None:
    made = Made(MOVABLE, MOVABLE, UNMOVABLE).own(3, MOVABLE).own(9, MOVABLE).own(12, UNMOVABLE)
    assert made.own(16, UNMOVABLE).mixed() == [False, True, False]


def test_free_and_reserved_pages_are_of_no_type() -> None:
    made = Made(MOVABLE, MOVABLE).own(0, UNMOVABLE).own(8, UNMOVABLE)
    made.memory.set(0, flags=bits("PG_reserved"))
    made.memory.buddy(8, 0)
    assert made.mixed() == [False, False]


def test_freed_pages_are_of_no_type() -> None:
    made = Made(MOVABLE).own(0, UNMOVABLE)
    made.ext.free(0)
    assert made.mixed() == [False]


def test_the_rest_of_an_allocation_is_skipped_whatever_its_records_say() -> None:
    """A large folio that was migrated, up to 6.8: only its head's record is the old one's."""
    made = Made(MOVABLE, MOVABLE).own(0, MOVABLE, order=2).own(8, MOVABLE, order=2)
    made.ext.rows["page_owner"]["gfp_mask"][1:4] = GFP[UNMOVABLE]
    assert made.mixed() == [False, False]
    assert made.own(12, UNMOVABLE).mixed() == [False, True]


def test_a_page_that_could_not_be_read_mixes_nothing() -> None:
    made = Made(MOVABLE).own(3, UNMOVABLE)
    made.memory.status[3] = ReadStatus.UNREADABLE
    assert made.mixed() == [False]


def test_a_block_whose_type_is_not_known_is_not_mixed() -> None:
    assert Made(255).own(0, UNMOVABLE).mixed() == [False]


def test_where_pages_are_not_grouped_by_mobility_every_mask_is_unmovable() -> None:
    rules = BlockRules(ORDER, 6, MOVABLE, CMA, 3, group_by_mobility=False)
    blocks = Made(UNMOVABLE, MOVABLE).own(0, MOVABLE).own(8, MOVABLE).blocks(rules)
    assert blocks.mixed.tolist() == [False, True]


def as_the_kernel_does(made: Made) -> list[bool]:
    """``pagetypeinfo_showmixedcount_print()`` for one zone."""
    pages, records = made.memory, made.ext.rows
    end = len(records)
    mixed = [False] * len(made.types)
    pfn = 0
    while pfn < end:
        block_end = ((pfn >> ORDER) + 1) << ORDER
        block_type = made.types[pfn >> ORDER]
        while pfn < block_end:
            if pages.rows["_mapcount"][pfn] == (0xF0 << 24) - (1 << 32):
                order = int(pages.rows["private"][pfn])
                pfn += (1 << order if order <= 10 else 1) - 1
            elif not pages.rows["flags"][pfn] & bits("PG_reserved") and records["flags"][pfn] & 2:
                record = records["page_owner"][pfn]
                if (int(record["gfp_mask"]) & 0x18) >> 3 != block_type:
                    mixed[(block_end >> ORDER) - 1] = True
                    pfn = block_end
                    break
                pfn += (1 << int(record["order"])) - 1
            pfn += 1
    return mixed


@settings(max_examples=300)
@given(st.data())
def test_mixed_blocks_are_those_the_kernels_own_loop_finds(data: st.DataObject) -> None:
    made = Made(*data.draw(st.lists(st.sampled_from([0, 1, 2, 4]), min_size=1, max_size=6)))
    for row in range(len(made.ext.rows)):
        match data.draw(st.integers(0, 7)):
            case 0:
                made.memory.buddy(row, data.draw(st.sampled_from([0, 1, 2, 4, 10, 11, 1 << 40])))
            case 1:
                made.memory.set(row, flags=bits("PG_reserved"))
            case 2 | 3 | 4:
                made.own(row, data.draw(st.integers(0, 2)))
                made.ext.rows["page_owner"]["order"][row] = data.draw(st.integers(0, 5))
    assert made.mixed() == as_the_kernel_does(made)


def test_before_5_4_only_the_first_page_of_an_allocation_has_a_record() -> None:
    made = Made(MOVABLE, MOVABLE, MOVABLE).own(0, MOVABLE, order=2).own(8, UNMOVABLE, order=2)
    names = ("order", "gfp_mask", "handle")
    record = np.dtype(
        {
            "names": list(names),
            "formats": [EXT_DTYPE["page_owner"][name] for name in names],
            "offsets": [EXT_DTYPE["page_owner"].fields[name][1] for name in names],
            "itemsize": EXT_DTYPE["page_owner"].itemsize,
        }
    )
    offsets = [EXT_DTYPE.fields[name][1] for name in ("flags", "page_owner")]
    dtype = np.dtype(
        {
            "names": ["flags", "page_owner"],
            "formats": ["<u8", record],
            "offsets": offsets,
            "itemsize": EXT_DTYPE.itemsize,
        }
    )
    layout = dataclasses.replace(EXT_LAYOUT, dtype=dtype, flags={"PAGE_EXT_OWNER": 3})
    made.ext.rows["flags"] = 0
    made.ext.rows["flags"][[0, 8]] = 1 << 3
    # What is left of an earlier allocation in a later page.
    made.ext.rows["page_owner"]["gfp_mask"][2] = GFP[UNMOVABLE]
    ext = PageExtRange([made.ext.rows.view(np.uint8).copy()], made.ext.status, layout)
    blocks = Blocks(made.memory.pages(ext, PageblockRange(0, ORDER, np.array(made.types, np.uint8))), RULES)
    assert blocks.mixed.tolist() == [False, True, False]
    assert blocks.sum(blocks.allocated).tolist() == [4, 4, 0]
    assert blocks.sum(blocks.polluting).tolist() == [0, 4, 0]
    assert blocks.sum(blocks.free).tolist() == [4, 4, 8]


@given(hostile_memory(), st.integers(0, 1 << 32))
def test_whatever_the_dump_says_each_page_of_a_block_is_one_thing(memory: Memory, seed: int) -> None:
    generator = np.random.default_rng(seed)
    ext = Ext(len(memory.rows))
    raw = ext.rows.view(np.uint8)
    raw[:] = generator.integers(0, 256, len(raw), np.uint8)
    first = memory.start >> ORDER
    count = ((memory.start + len(memory.rows) - 1) >> ORDER) - first + 1
    types = PageblockRange(first, ORDER, generator.integers(0, 256, count).astype(np.uint8))
    blocks = Blocks(memory.pages(ext.range(), types), RULES)
    assert blocks.length.sum() == len(memory.rows)
    assert not (blocks.free & blocks.allocated).any()
    assert not (blocks.polluting & ~blocks.allocated).any()
    assert not (blocks.mixed & (blocks.sum(blocks.foreign) == 0)).any()


def counts(*ranges: Made) -> dict[tuple[int, int], list[int]]:
    mixed = MixedBlocks(RULES)
    for made in ranges:
        mixed.add(made.pages())
    return {zone: values.tolist() for zone, values in mixed.counts().items()}


def test_mixed_blocks_are_counted_by_node_zone_and_type() -> None:
    made = Made(MOVABLE, UNMOVABLE, RECLAIMABLE, MOVABLE).own(0, UNMOVABLE).own(8, MOVABLE).own(16, MOVABLE)
    made.own(24, RECLAIMABLE)
    for row in range(16, 32):
        made.memory.set(row, flags=2 << 56 | 1 << 58)
    assert counts(made) == {(0, 0): [1, 1, 0, 0, 0, 0], (1, 2): [0, 1, 1, 0, 0, 0]}


def test_a_block_of_cma_in_use_counts_as_a_mixed_movable_one() -> None:
    assert counts(Made(CMA, CMA).own(0, MOVABLE)) == {(0, 0): [0, 1, 0, 0, 0, 0]}


def test_a_block_that_two_zones_share_counts_in_each_that_mixes_it() -> None:
    made = Made(MOVABLE, MOVABLE)
    for row in range(4, 16):
        made.memory.set(row, flags=1 << 56)
    made.own(5, UNMOVABLE)
    assert counts(made) == {(0, 1): [0, 1, 0, 0, 0, 0]}
    assert counts(made.own(1, UNMOVABLE)) == {(0, 0): [0, 1, 0, 0, 0, 0], (0, 1): [0, 1, 0, 0, 0, 0]}


def test_a_block_in_two_ranges_is_one_block() -> None:
    halves = [Made(MOVABLE, start=0).own(0, UNMOVABLE), Made(MOVABLE, start=4).own(0, UNMOVABLE)]
    assert counts(*halves) == {(0, 0): [0, 1, 0, 0, 0, 0]}


def test_without_page_ext_nothing_is_mixed() -> None:
    mixed = MixedBlocks(RULES)
    mixed.add(Memory(8).pages())
    assert mixed.counts() == {}


# Polluted, and what it would take


def answer(made: Made, **options: tuple[str, ...]) -> tuple[Result, pl.DataFrame]:
    """The analysis of one range, and its blocks."""
    kernelish = Kernelish()
    numbers = {f"MIGRATE_{name.upper()}": index for index, name in enumerate(NAMES)}
    kernelish.enum("migratetype", numbers)
    kernel = SimpleNamespace(
        target=kernelish.target,
        pageblocks=PageblockLayout(ORDER, NAMES),
        zones=[Zone(0, 0, "DMA", 0, 64, 64), Zone(0, 1, "Normal", 64, 64, 64)],
        zone_garbage=0,
        stack_depot=None,
    )
    analysis = Pageblocks(**options)
    state = analysis.start(kernel)
    rows = {name: pl.DataFrame(dict(part)) for name, part in analysis.scan(made.pages(), state).items()}
    parts = dict(analysis.batch(rows, state))
    blocks = parts.pop("blocks")
    # Sums of sums are sums.
    folded = {name: analysis.fold(name, pl.concat([part, part.clear()])) for name, part in parts.items()}
    return analysis.finish(kernel, state, folded), blocks


def rows(result: Result, table: str, *columns: str) -> list[tuple[object, ...]]:
    return result.tables[table].frame.select(columns).rows()


def polluted() -> Made:
    """Six movable blocks, four of them polluted, and two others that are."""
    made = Made(MOVABLE, MOVABLE, MOVABLE, MOVABLE, MOVABLE, MOVABLE, UNMOVABLE, CMA)
    made.own(0, UNMOVABLE, handle=7).own(1, MOVABLE)
    made.own(8, UNMOVABLE, handle=7).own(9, RECLAIMABLE, handle=8).own(12, MOVABLE, order=2)
    made.own(16, UNMOVABLE, order=2, handle=9)
    made.own(24, UNMOVABLE, handle=7).memory.set(25, flags=bits("PG_reserved"))
    made.own(32, MOVABLE)
    made.memory.buddy(40, 3)
    made.own(48, MOVABLE, handle=5).own(49, UNMOVABLE)
    return made.own(56, UNMOVABLE, handle=6)


def test_each_block_says_what_its_pages_are() -> None:
    _, blocks = answer(polluted())
    columns = ("pfn", "zone", "migratetype", "free", "allocated", "polluting", "other", "chains", "mixed")
    assert blocks.select(columns).rows() == [
        (0, "DMA", "Movable", 6, 2, 1, 0, 1, True),
        (8, "DMA", "Movable", 2, 6, 2, 0, 2, True),
        (16, "DMA", "Movable", 4, 4, 4, 0, 1, True),
        (24, "DMA", "Movable", 6, 1, 1, 1, 1, True),
        (32, "DMA", "Movable", 7, 1, 0, 0, 0, False),
        (40, "DMA", "Movable", 8, 0, 0, 0, 0, False),
        (48, "DMA", "Unmovable", 6, 2, 1, 0, 1, True),
        (56, "DMA", "CMA", 7, 1, 0, 0, 0, True),
    ]


def test_blocks_are_summed_by_type() -> None:
    result, _ = answer(polluted())
    assert rows(result, "types", "migratetype", "blocks", "whole", "polluted", "mixed", "polluting") == [
        ("Movable", 6, 1, 4, 4, 8),
        ("Unmovable", 1, 0, 1, 1, 1),
        ("CMA", 1, 0, 0, 1, 0),
    ]


def test_polluters_are_summed_by_chain_those_that_cannot_be_moved_first() -> None:
    result, _ = answer(polluted())
    columns = ("stack_id", "blocks", "alone", "pages", "bytes", "page_type", "block_type")
    assert rows(result, "polluters", *columns) == [
        (7, 3, 2, 3, 12288, "Unmovable", "Movable"),
        (9, 1, 1, 4, 16384, "Unmovable", "Movable"),
        (8, 1, 0, 1, 4096, "Reclaimable", "Movable"),
        (5, 1, 1, 1, 4096, "Movable", "Unmovable"),
    ]


def test_what_frees_a_movable_block_is_counted_by_its_obstacles() -> None:
    result, _ = answer(polluted())
    assert result.tables["cost"].frame.rows() == [
        ("1", 1, 1, 1, 1 << 15),
        ("2-4", 2, 6, 4, 1 << 16),
        ("any, and reserved or unknown pages", 1, 1, 0, 0),
    ]


def test_findings_say_how_many_blocks_are_polluted_and_which_are_cheap() -> None:
    result, _ = answer(polluted())
    assert [(each.key, each.severity.value) for each in result.findings] == [
        ("pageblocks-polluted", "warning"),
        ("pageblocks-cheap", "note"),
    ]
    assert result.findings[0].message == (
        "4 of 6 Movable blocks are polluted by pages that cannot be moved; "
        "100 % of these pages are of 3 call chains."
    )
    assert result.findings[1].message == (
        "In 3 Movable blocks at most 4 pages cannot be moved: without these 7 pages compaction could make "
        "3 more free blocks of order 3."
    )


def test_what_lies_in_no_zone_is_no_block_unless_somebody_uses_it() -> None:
    made = Made(*[MOVABLE] * 4, start=112).own(6, MOVABLE).own(24, MOVABLE)
    made.memory.rows["flags"] = 1 << 56
    # Zone Normal ends with PFN 128: the last two blocks are beyond.
    for row in (*range(13, 24), *range(25, 32)):
        made.memory.set(row, flags=bits("PG_reserved") | (1 << 56), _refcount=1)
    result, blocks = answer(made)
    columns = ("pfn", "pages", "free", "allocated", "other")
    assert blocks.select(columns).rows() == [(112, 8, 7, 1, 0), (120, 8, 5, 0, 3), (136, 1, 0, 1, 0)]
    [note] = result.notes
    assert note.startswith("Not counted: 60 KiB that have a struct page but lie in no zone")
    # Half of a block is no whole one, free or not.
    assert rows(result, "types", "blocks", "whole") == [(3, 0)]
    elsewhere, _ = answer(made, zone=("DMA",))
    assert not elsewhere.notes


def test_what_was_never_written_lies_in_no_zone_either() -> None:
    made = Made(*[MOVABLE] * 4, start=112)
    made.memory.rows["flags"][:16] = 1 << 56
    result, blocks = answer(made)
    assert blocks.select("pfn", "pages", "free").rows() == [(112, 8, 8), (120, 8, 8)]
    assert rows(result, "types", "zone", "blocks", "whole") == [("Normal", 2, 2)]
    assert len(result.notes) == 1


def test_where_nothing_is_polluted_there_is_nothing_to_say() -> None:
    result, _ = answer(Made(MOVABLE, UNMOVABLE).own(0, MOVABLE).own(8, UNMOVABLE))
    assert not result.findings
    assert result.summary == [
        "2 blocks of order 3 (32 KiB), 0 of them free; 0 polluted by 0 pages of other types"
    ]


def test_a_record_of_an_impossible_order_pollutes_nothing_and_is_counted() -> None:
    made = Made(MOVABLE).own(0, UNMOVABLE)
    made.ext.rows["page_owner"]["order"][0] = 60
    result, blocks = answer(made)
    assert blocks["polluting"].to_list() == [0]
    assert [each.key for each in result.findings] == ["page-owner-garbage"]


@pytest.mark.parametrize(
    ("options", "pfns"),
    [
        ({"migratetype": ("cma",)}, [56]),
        ({"migratetype": ("CMA,unmovable",)}, [48, 56]),
        ({"zone": ("normal",)}, []),
        ({"zone": ("DMA",), "node": ("0",), "migratetype": ("Unmovable",)}, [48]),
    ],
)
def test_options_choose_blocks(options: Mapping[str, tuple[str, ...]], pfns: list[int]) -> None:
    result, blocks = answer(polluted(), **options)
    assert blocks["pfn"].to_list() == pfns
    assert result.tables["types"].frame["blocks"].sum() == len(pfns)
    assert set(result.tables["polluters"].frame["block_type"]) <= {"Unmovable"}


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"migratetype": ("movabel",)}, f"It has: {', '.join(NAMES)}"),
        ({"zone": ("DMA64",)}, "It has: DMA, Normal"),
        ({"node": ("1",)}, "It has: 0"),
    ],
)
def test_a_name_that_this_kernel_does_not_have_is_an_error(
    options: Mapping[str, tuple[str, ...]], hint: str
) -> None:
    with pytest.raises(UsageError) as raised:
        answer(polluted(), **options)
    assert raised.value.hint == hint
