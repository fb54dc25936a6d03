"""Which pages there are, and how they are cut into ranges."""

from __future__ import annotations

import contextlib
import itertools
import struct
from types import SimpleNamespace

import drgn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import IncompleteError, MmdumpError, UnsupportedError
from mmdump.kernel import Kernel
from mmdump.kernel.memmap import RANGE_PAGES, MemMap, read_memmap
from tests.kernel.builders import VMEMMAP, Kernelish, sections


@st.composite
def memory(draw: st.DrawFn) -> MemMap:
    """Valid ranges: disjoint, ascending, not touching."""
    edges = sorted(draw(st.sets(st.integers(0, 5 * RANGE_PAGES), max_size=12)))
    if draw(st.booleans()):
        edges = sorted({min(edge, 40) if edge % 2 else edge for edge in edges})
    edges = edges[: len(edges) // 2 * 2]
    ranges = np.array(edges, np.int64).reshape(-1, 2)
    return MemMap(VMEMMAP, 64, ranges, sections(32768, 0))


@given(memory())
def test_chunks_cover_memory_exactly_in_order_and_cross_no_multiple_of_2_to_the_16(memmap: MemMap) -> None:
    chunks = list(memmap.chunks())
    assert sum(end - start for start, end in chunks) == memmap.pages
    for start, end in chunks:
        assert start < end
        assert start // RANGE_PAGES == (end - 1) // RANGE_PAGES
        assert memmap.valid(np.array([start, end - 1])).all()
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(chunks))
    if chunks:
        assert chunks[-1][1] == memmap.end_pfn


@given(memory(), st.lists(st.integers(-5, 6 * RANGE_PAGES), max_size=50))
def test_a_pfn_is_valid_in_a_range_and_nowhere_else(memmap: MemMap, more: list[int]) -> None:
    edges = memmap.ranges.reshape(-1).tolist()
    pfns = [*more, *edges, *(edge - 1 for edge in edges)]
    expected = [any(start <= pfn < end for start, end in memmap.ranges.tolist()) for pfn in pfns]
    assert memmap.valid(np.array(pfns, np.int64)).tolist() == expected


def test_pfns_of_any_shape_are_valid_or_not() -> None:
    memmap = MemMap(VMEMMAP, 64, np.array([[2, 4]]), sections(32768, 0))
    assert memmap.valid(np.array([[1, 2], [3, 4]])).tolist() == [[False, True], [True, False]]


def test_memory_without_pages_has_none() -> None:
    memmap = MemMap(VMEMMAP, 64, np.empty((0, 2), np.int64), sections(32768))
    assert (memmap.pages, memmap.end_pfn, list(memmap.chunks())) == (0, 0, [])
    assert memmap.valid(np.array([0, 5])).tolist() == [False, False]


@given(st.sets(st.integers(0, 20)), st.integers(1, 64), st.integers(0, 600), st.integers(0, 600))
def test_pieces_cover_a_range_exactly_and_each_lies_in_one_section(
    numbers: set[int], size: int, start: int, count: int
) -> None:
    some = sections(size, *sorted(numbers))
    pieces = list(some.pieces(start, start + count))
    assert [pfn for _, low, high in pieces for pfn in range(low, high)] == list(range(start, start + count))
    for row, low, high in pieces:
        assert low // size == (high - 1) // size
        assert (some.number[row] if row >= 0 else None) == (low // size if low // size in numbers else None)
        assert some.index(low) == row


# The section table

TABLE = 0xFFFF888000000000
ROOT = TABLE + 0x10000
USAGE = TABLE + 0x20000
PRESENT, HAS_MAP, EARLY = 1, 2, 8
PER_ROOT = 4
#: 128 MiB.
SECTION = 32768


def section_kernel(
    rows: dict[int, tuple[int, int]],
    *,
    subsections: bytes = b"\xff" * 8,
    holes: tuple[int, ...] = (),
    vmcoreinfo: dict[str, str] | None = None,
    pointers: tuple[int, ...] = (ROOT, 0, ROOT + 4096),
) -> SimpleNamespace:
    """A kernel of 12 sections in three roots, the second of which is not there.

    :param rows: Section number -> its flags, and the address of its usage.
    """
    table = struct.pack(f"<{len(pointers)}Q", *pointers).ljust(4096, b"\0")
    roots = bytearray(8192)
    for number, (flags, usage) in rows.items():
        root, index = divmod(number, PER_ROOT)
        struct.pack_into("<QQQ", roots, {0: 0, 2: 4096}[root] + 32 * index, flags, usage, 0x1234500 + number)
    kernel = Kernelish(
        {TABLE: table, ROOT: bytes(roots), USAGE: bytes(16) + subsections.ljust(4096, b"\0")}, holes
    )
    prog = kernel.prog
    kernel.types["void *"] = prog.pointer_type(prog.void_type())
    kernel.struct("page", 64, {"flags": (kernel.integer(8), 0)})
    section = kernel.struct(
        "mem_section",
        32,
        {
            "section_mem_map": (kernel.integer(8), 0),
            "usage": (prog.pointer_type(prog.void_type()), 8),
            "page_ext": (prog.pointer_type(prog.void_type()), 16),
        },
    )
    kernel.struct(
        "mem_section_usage",
        24,
        {
            "subsection_map": (prog.array_type(kernel.integer(8), 1), 16),
            "pageblock_flags": (prog.array_type(kernel.integer(8), 0), 24),
        },
    )
    kernel.objects["mem_section"] = drgn.Object(
        prog, prog.pointer_type(prog.pointer_type(section)), value=TABLE
    )
    kernel.constant("vmemmap", VMEMMAP)
    kernel.constant("SECTIONS_PER_ROOT", PER_ROOT)
    kernel.constant("SECTION_SIZE_BITS", 27)
    target = kernel.target
    target.vmcoreinfo = {"LENGTH(mem_section)": "3"} if vmcoreinfo is None else vmcoreinfo
    return target


ALL = PRESENT | HAS_MAP | EARLY


def test_early_sections_are_whole_and_neighbours_are_one_range() -> None:
    memmap = read_memmap(section_kernel({0: (ALL, USAGE), 1: (ALL, USAGE), 9: (ALL, USAGE)}))
    assert memmap.ranges.tolist() == [[0, 2 * SECTION], [9 * SECTION, 10 * SECTION]]
    assert memmap.sections.number.tolist() == [0, 1, 9]
    assert memmap.sections.page_ext.tolist() == [0x1234500, 0x1234501, 0x1234509]
    assert memmap.sections.pageblock_flags.tolist() == [USAGE + 24] * 3
    assert (memmap.sections.pages, memmap.vmemmap, memmap.page_size) == (SECTION, VMEMMAP, 64)
    assert memmap.unreadable_sections == 0


def test_of_hotplugged_sections_those_2_mib_are_valid_that_their_map_names() -> None:
    memmap = read_memmap(
        section_kernel(
            {0: (ALL, USAGE), 1: (PRESENT | HAS_MAP, USAGE)},
            subsections=bytes([0b0000_0111, 0, 1, 0, 0, 0, 0, 128]),
        )
    )
    assert memmap.ranges.tolist() == [
        [0, SECTION + 3 * 512],
        [SECTION + 16 * 512, SECTION + 17 * 512],
        [SECTION + 63 * 512, SECTION + 64 * 512],
    ]


def test_a_section_without_a_map_is_not_there() -> None:
    memmap = read_memmap(section_kernel({0: (ALL, USAGE), 1: (PRESENT | EARLY, USAGE), 2: (0, 0)}))
    assert memmap.sections.number.tolist() == [0]


def test_a_section_without_usage_has_no_pageblocks() -> None:
    memmap = read_memmap(section_kernel({0: (ALL, 0)}))
    assert memmap.sections.pageblock_flags.tolist() == [0]


def test_a_part_of_the_table_that_is_missing_is_counted() -> None:
    memmap = read_memmap(section_kernel({0: (ALL, USAGE), 9: (ALL, USAGE)}, holes=(ROOT + 4096,)))
    assert memmap.ranges.tolist() == [[0, SECTION]]
    assert memmap.unreadable_sections == 1


def test_a_map_of_sub_sections_that_is_missing_is_counted() -> None:
    rows = {0: (ALL, USAGE), 1: (PRESENT | HAS_MAP, TABLE + 0x40000)}
    memmap = read_memmap(section_kernel(rows))
    assert memmap.ranges.tolist() == [[0, SECTION]]
    assert memmap.unreadable_sections == 1


def test_a_table_that_is_missing_is_an_error() -> None:
    with pytest.raises(IncompleteError):
        read_memmap(section_kernel({0: (ALL, USAGE)}, holes=(TABLE,)))


def test_a_table_of_sections_that_are_not_there_is_memory_without_pages() -> None:
    memmap = read_memmap(section_kernel({0: (0, 0)}))
    assert memmap.pages == 0
    assert memmap.ranges.shape == (0, 2)


@pytest.mark.parametrize("length", ["-3", "x", "", "99999999999999999999", "0"])
def test_a_length_in_vmcoreinfo_that_cannot_be_true_does_no_harm(length: str) -> None:
    target = section_kernel({0: (ALL, USAGE)}, vmcoreinfo={"LENGTH(mem_section)": length})
    with contextlib.suppress(MmdumpError):
        assert read_memmap(target).ranges.tolist() == [[0, SECTION]]


def test_a_kernel_of_another_memory_model_is_an_error() -> None:
    target = section_kernel({})
    for name in ("struct page", "struct mem_section"):
        other = section_kernel({0: (ALL, USAGE)})
        other.prog = _without(other, name)
        with pytest.raises(UnsupportedError):
            read_memmap(other)
    assert target


def _without(target: SimpleNamespace, name: str) -> drgn.Program:
    kernel = Kernelish()
    kernel.constant("vmemmap", VMEMMAP)
    if name != "struct page":
        kernel.struct("page", 64, {})
    return kernel.prog


def test_a_page_array_that_cannot_be_read_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def damaged(target: object) -> MemMap:
        asked.append(target)
        raise drgn.FaultError("not there", 0x1000)

    monkeypatch.setattr("mmdump.kernel.read_memmap", damaged)
    kernel = Kernel(SimpleNamespace(dump=None))  # type: ignore[arg-type]
    said = []
    for _ in range(3):
        with pytest.raises(IncompleteError, match="the page array could not be read") as raised:
            _ = kernel.memmap
        said.append((str(raised.value), raised.value.hint))
    assert len(asked) == 1
    assert len(set(said)) == 1
