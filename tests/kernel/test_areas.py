"""CMA areas, zones and nodes."""

from __future__ import annotations

import drgn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.cma import CmaArea, read_cma_areas, read_cma_bitmap
from mmdump.kernel.zones import ZoneBits, read_zone_bits
from tests.kernel.builders import Kernelish

AT = 0xFFFF888000100000


def cma_kernel(*areas: tuple[int, int, int, int, bytes], count: int | None = None) -> Kernelish:
    kernel = Kernelish()
    prog = kernel.prog
    cma = kernel.struct(
        "cma",
        96,
        {
            "base_pfn": (kernel.integer(8), 0),
            "count": (kernel.integer(8), 8),
            "bitmap": (prog.pointer_type(kernel.integer(8)), 16),
            "order_per_bit": (kernel.integer(4), 24),
            "name": (prog.array_type(kernel.integer(1), 64), 32),
        },
    )
    raw = b""
    for base, pages, bitmap, order, name in areas:
        raw += b"".join(value.to_bytes(8, "little") for value in (base, pages, bitmap, order))
        raw += name.ljust(64, b"\0")
    kernel.add(AT, raw)
    kernel.variable("cma_areas", prog.array_type(cma, 8), AT)
    kernel.constant("cma_area_count", len(areas) if count is None else count, 4)
    return kernel


def test_areas_have_their_extent_and_name() -> None:
    kernel = cma_kernel((512, 1024, AT, 0, b"reserved"), (4096, 512, AT, 2, b""))
    assert read_cma_areas(kernel.prog, 8192)[0] == [
        CmaArea("reserved", 512, 1024, 0, AT),
        CmaArea("cma1", 4096, 512, 2, AT, index=1),
    ]
    assert read_cma_areas(kernel.prog, 8192)[0][0].end_pfn == 1536


@pytest.mark.parametrize(
    "area",
    [
        (0, 0, AT, 0, b"empty"),
        (512, 1024, 0, 0, b"no bitmap"),
        (8000, 1024, AT, 0, b"past the end"),
        ((1 << 64) - 512, 1024, AT, 0, b"far past the end"),
        (0, 1 << 60, AT, 0, b"huge"),
        (0, 512, AT, 32, b"order"),
    ],
    ids=lambda area: area[4].decode(),
)
def test_an_area_that_cannot_be_true_is_left_out(area: tuple[int, int, int, int, bytes]) -> None:
    good = (512, 1024, AT, 0, b"good")
    assert [each.name for each in read_cma_areas(cma_kernel(area, good).prog, 8192)[0]] == ["good"]


@pytest.mark.parametrize("count", [9, 1 << 31])
def test_there_are_no_more_areas_than_the_table_has_nor_than_the_dump_has(count: int) -> None:
    assert len(read_cma_areas(cma_kernel((0, 64, AT, 0, b"a"), count=count).prog, 8192)[0]) == 1


def test_a_kernel_without_cma_has_no_areas() -> None:
    assert read_cma_areas(Kernelish().prog, 8192)[0] == []


@given(st.binary(min_size=16, max_size=16), st.integers(0, 6), st.integers(1, 128))
def test_a_set_bit_is_so_many_allocated_pages(bitmap: bytes, order: int, bits: int) -> None:
    found = read_cma_bitmap(Kernelish({AT: bitmap}).reader, CmaArea("a", 0, bits << order, order, AT))
    expected = [bool(bitmap[page >> order >> 3] >> (page >> order & 7) & 1) for page in range(bits << order)]
    assert found.tolist() == expected


def test_a_bitmap_that_is_not_in_the_dump_is_none() -> None:
    assert read_cma_bitmap(Kernelish().reader, CmaArea("a", 0, 64, 0, AT)) is None
    assert read_cma_bitmap(Kernelish({AT: b"x"}).reader, CmaArea("a", 0, 1 << 34, 0, AT)) is None


# Zones and nodes


@pytest.mark.parametrize(
    ("zones", "nodes", "bits"),
    [
        (4, 64, ZoneBits(56, 3, 58, 63)),
        (5, 1024, ZoneBits(51, 7, 54, 1023)),
        (3, None, ZoneBits(62, 3, 64, 0)),
        (2, 2, ZoneBits(62, 1, 63, 1)),
        (1, None, ZoneBits(64, 0, 64, 0)),
    ],
)
def test_zone_and_node_take_the_top_bits(zones: int, nodes: int | None, bits: ZoneBits) -> None:
    kernel = Kernelish()
    kernel.enum("zone_type", {"ZONE_DMA": 0, "__MAX_NR_ZONES": zones})
    if nodes is not None:
        pointer = kernel.prog.pointer_type(kernel.prog.void_type())
        kernel.objects["node_data"] = drgn.Object(
            kernel.prog, kernel.prog.array_type(pointer, nodes), value=[0] * nodes
        )
    assert read_zone_bits(kernel.prog) == bits


@given(st.integers(0, 3), st.integers(0, 1023), st.integers(0, 10), st.integers(0, (1 << 64) - 1))
def test_zone_and_node_come_back_from_a_flags_word(zone: int, node: int, width: int, rest: int) -> None:
    node &= (1 << width) - 1
    bits = ZoneBits(62 - width, 3, 64 - width, (1 << width) - 1)
    word = rest & ((1 << 62 - width) - 1) | zone << 62 - width | (node << 64 - width if width else 0)
    flags = np.array([word, 0], np.uint64)
    assert bits.zone(flags).tolist() == [zone, 0]
    assert bits.node(flags).tolist() == [node, 0]
    assert bits.node(flags).dtype == np.int64
