"""Migratetypes of pageblocks, bit by bit."""

from __future__ import annotations

import drgn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import MmdumpError, UnsupportedError
from mmdump.kernel.pageblock import UNKNOWN, PageblockLayout, read_pageblock_layout, read_pageblocks
from tests.kernel.builders import Kernelish, sections

BITMAP = 0xFFFF888000100000
NAMES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate")


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 3),
    st.integers(0, 255),
    st.integers(1, 300),
    st.sets(st.integers(0, 7), max_size=4),
)
def test_migratetypes_are_those_a_loop_over_blocks_finds(
    bitmaps: bytes, order: int, start: int, count: int, absent: set[int]
) -> None:
    """Eight sections of 64 pages."""
    blocks = 64 >> order
    size = (blocks * 4 + 7) // 8
    numbers = [number for number in range(8) if number not in absent]
    where = np.array([BITMAP + 32 * 8 * number for number in numbers], np.uint64)
    memory = bytearray(8 * 32 * 8)
    for number in range(8):
        memory[number * 256 : number * 256 + size] = (bitmaps * 2)[number : number + size]
    kernel = Kernelish({BITMAP: bytes(memory)})
    found = read_pageblocks(
        kernel.reader,
        PageblockLayout(order, NAMES),
        sections(64, *numbers, bitmap=where),
        start,
        start + count,
    )
    expected = []
    for pfn in range(start, start + count):
        number, block = pfn // 64, pfn % 64 >> order
        if number in absent or number > 7:
            expected.append(UNKNOWN)
        else:
            # get_pfnblock_flags_mask(): word >> bitidx & 7
            expected.append(memory[number * 256 + block // 2] >> 4 * (block % 2) & 7)
    assert found.of_pages(np.arange(start, start + count)).tolist() == expected


def test_the_skip_bit_is_no_part_of_a_migratetype() -> None:
    kernel = Kernelish({BITMAP: b"\x9c"})
    found = read_pageblocks(kernel.reader, PageblockLayout(5, NAMES), sections(64, 0, bitmap=BITMAP), 0, 64)
    assert found.migratetype.tolist() == [4, 1]


def test_the_blocks_of_a_section_whose_bitmap_is_missing_are_unknown_and_only_those() -> None:
    kernel = Kernelish({BITMAP: b"\x11" * 8192}, holes=[BITMAP])
    where = np.array([BITMAP, BITMAP + 4096, 0], np.uint64)
    found = read_pageblocks(
        kernel.reader, PageblockLayout(5, NAMES), sections(64, 1, 2, 3, bitmap=where), 0, 256
    )
    assert found.migratetype.tolist() == [UNKNOWN] * 4 + [1, 1] + [UNKNOWN] * 2


def test_a_range_may_begin_and_end_within_a_block() -> None:
    kernel = Kernelish({BITMAP: b"\x21\x43"})
    found = read_pageblocks(
        kernel.reader, PageblockLayout(4, NAMES), sections(64, 1000, bitmap=BITMAP), 64020, 64035
    )
    assert found.of_pages(np.array([64020, 64031, 64032, 64034])).tolist() == [2, 2, 3, 3]


def test_blocks_larger_than_a_section_are_unknown() -> None:
    kernel = Kernelish({BITMAP: b"\x11" * 8})
    found = read_pageblocks(
        kernel.reader, PageblockLayout(7, NAMES), sections(64, 0, 1, bitmap=BITMAP), 0, 128
    )
    assert found.migratetype.tolist() == [UNKNOWN]


def pageblock_kernel(**bits: int) -> Kernelish:
    kernel = Kernelish({BITMAP: b"".join(name.encode().ljust(16, b"\0") for name in NAMES)})
    kernel.enum("pageblock_bits", bits or {"PB_migrate": 0, "PB_migrate_skip": 3, "NR_PAGEBLOCK_BITS": 4})
    pointer = kernel.prog.pointer_type(kernel.integer(1))
    kernel.objects["migratetype_names"] = drgn.Object(
        kernel.prog,
        kernel.prog.array_type(pointer, len(NAMES)),
        value=[BITMAP + 16 * index for index in range(len(NAMES))],
    )
    area = kernel.prog.array_type(kernel.integer(8), 11)
    kernel.struct("zone", 88, {"free_area": (area, 0)})
    return kernel


def test_a_block_is_what_a_pmd_maps_where_there_are_huge_pages_and_the_largest_order_otherwise() -> None:
    kernel = pageblock_kernel()
    assert read_pageblock_layout(kernel.prog, 12) == PageblockLayout(10, NAMES)
    for name in ("hstates", "huge_zero_folio", "huge_zero_page"):
        kernel = pageblock_kernel()
        kernel.constant(name, 0)
        assert read_pageblock_layout(kernel.prog, 12).order == 9
        # 64 KiB pages: a PMD maps 2**13 of them, more than the buddy allocator has.
        assert read_pageblock_layout(kernel.prog, 16).order == 10


def test_where_the_order_is_a_variable_it_is_read() -> None:
    kernel = pageblock_kernel()
    kernel.constant("pageblock_order", 7, 4)
    assert read_pageblock_layout(kernel.prog, 12).order == 7


@pytest.mark.parametrize("order", [64, 1000, 0xFFFFFFFF])
def test_an_order_that_cannot_be_true_is_an_error(order: int) -> None:
    kernel = pageblock_kernel()
    kernel.constant("pageblock_order", order, 4)
    with pytest.raises(MmdumpError):
        read_pageblock_layout(kernel.prog, 12)


@pytest.mark.parametrize("bits", [{"PB_migrate": 0}, {"PB_migrate": 0, "NR_PAGEBLOCK_BITS": 16}])
def test_bits_that_are_kept_in_another_way_are_an_error(bits: dict[str, int]) -> None:
    with pytest.raises(UnsupportedError):
        read_pageblock_layout(pageblock_kernel(**bits).prog, 12)


def test_in_8_bits_a_block_has_isolation_as_a_bit_of_its_own() -> None:
    """6.17 and newer."""
    kernel = Kernelish({BITMAP: bytes([0b0001_0001, 0b0000_1100])})
    layout = PageblockLayout(5, NAMES, bits=8, isolate_bit=4, isolate=5)
    found = read_pageblocks(kernel.reader, layout, sections(64, 0, bitmap=BITMAP), 0, 64)
    assert found.migratetype.tolist() == [5, 4]
