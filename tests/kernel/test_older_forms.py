"""Forms that kernels before 6.12 had: types as bits, pins in other places, pageblock bits from the top."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mmdump.kernel.page_ext import PageExtClient, read_page_ext_layout
from mmdump.kernel.page_layout import FolioField, PageLayout
from mmdump.kernel.pageblock import PageblockLayout, read_pageblocks
from tests.kernel.builders import LAYOUT, Kernelish, Memory, sections

BITMAP = 0xFFFF888000100000
TYPES_418 = {"buddy": 0x80, "offline": 0x100, "table": 0x400, "guard": 0x800}
TYPES_611 = {"buddy": 0x40000000, "offline": 0x20000000, "table": 0x10000000, "slab": 0x02000000}


def layout(**changes: object) -> PageLayout:
    return dataclasses.replace(LAYOUT, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "stored"), [("buddy", ~0x80), ("offline", ~0x100), ("table", ~0x400), ("guard", ~0x800)]
)
def test_up_to_6_10_a_page_type_is_a_bit_that_is_clear(name: str, stored: int) -> None:
    bits = layout(types=TYPES_418, types_base=0xF0000000, types_below=-128)
    pages = Memory(1, layout=bits).set(0, _mapcount=stored).pages()
    assert pages.is_typed().tolist() == [True]
    assert [each for each in TYPES_418 if pages.is_type(each)[0]] == [name]


@pytest.mark.parametrize("stored", [-128, -2, -1, 0, 1024])
def test_up_to_6_10_a_mapcount_is_no_page_type(stored: int) -> None:
    bits = layout(types=TYPES_418, types_base=0xF0000000, types_below=-128)
    pages = Memory(1, layout=bits).set(0, _mapcount=stored).pages()
    assert not pages.is_typed().any()
    assert not pages.is_buddy.any()


def test_in_6_11_types_are_bits_from_the_top() -> None:
    bits = layout(types=TYPES_611, types_base=0x80000000, types_below=-65536)
    memory = Memory(3, layout=bits)
    for row, stored in enumerate((~0x40000000, ~0x02000000, -65536)):
        memory.set(row, _mapcount=stored)
    pages = memory.pages()
    assert pages.is_buddy.tolist() == [True, False, False]
    assert pages.is_type("slab").tolist() == [False, True, False]
    assert pages.is_typed().tolist() == [True, True, False]


def test_from_5_7_to_5_17_a_compound_page_of_order_1_is_pinned_as_a_small_one() -> None:
    """hpage_pinned_refcount lies in the third page, which order 1 has not."""
    folio = {**LAYOUT.folio, "_pincount": FolioField(2 * 64 + 16, np.dtype("<i4"))}
    memory = Memory(8, layout=layout(folio=folio, pins_from_order=2))
    memory.large(0, 1, refs=1 + 3 * 1024).large(4, 2, refs=3)
    memory.raw[(4 + 2) * 64 + 16] = 2
    pages = memory.pages()
    heads = np.array([0, 4])
    assert pages.counts_pins(heads).tolist() == [False, True]
    assert pages.folio_pincount(heads).tolist() == [3, 2]


def test_before_5_7_references_however_many_are_no_pins() -> None:
    folio = {name: field for name, field in LAYOUT.folio.items() if name != "_pincount"}
    memory = Memory(4, layout=layout(folio=folio, pins_from_order=-1)).small(0, refs=5000)
    assert memory.pages().folio_pincount(np.array([0])).tolist() == [0]


def test_up_to_5_8_the_first_pageblock_of_a_word_has_its_highest_bits() -> None:
    """get_pfnblock_flags_mask(): word >> (BITS_PER_LONG - bitidx - 3) & 7, the skip bit below."""
    blocks = [1, 0, 4, 2, 5, 3] + [0] * 10 + [2] + [1] * 15
    words = [0, 0]
    for number, migratetype in enumerate(blocks):
        words[number // 16] |= (migratetype << 1 | 1) << (60 - 4 * (number % 16))
    kernel = Kernelish({BITMAP: b"".join(word.to_bytes(8, "little") for word in words)})
    form = PageblockLayout(9, (), from_the_top=True)
    found = read_pageblocks(kernel.reader, form, sections(32 << 9, 0, bitmap=BITMAP), 0, 32 << 9)
    assert found.migratetype.tolist() == blocks


def test_up_to_5_3_entries_are_as_long_as_page_ext_and_the_extra_memory() -> None:
    kernel = Kernelish({0x1000: (12).to_bytes(8, "little"), 0x2000: bytes(32)})
    word = kernel.integer(8)
    kernel.struct("page_ext", 8, {"flags": (word, 0)})
    ops = kernel.struct("page_ext_operations", 16, {"offset": (word, 0), "size": (word, 8)})
    kernel.variable("extra_mem", word, 0x1000)
    kernel.variable("debug_ops", ops, 0x2000)
    kernel.enum("page_ext_flags", {"PAGE_EXT_DEBUG_GUARD": 0, "PAGE_EXT_OWNER": 1})
    found = read_page_ext_layout(kernel.prog, [PageExtClient("debug", "debug_ops")])
    assert (found.built, found.stride, found.flags["PAGE_EXT_OWNER"]) == (True, 20, 1)
