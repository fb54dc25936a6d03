"""Names of bits as the kernel prints them."""

from __future__ import annotations

import struct

import drgn
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.names import FlagNames, read_flag_names
from tests.kernel.builders import Kernelish

#: A part of gfpflag_names of Linux 6.12, in its order.
GFP = FlagNames(
    (
        (0x13D24CA, "GFP_TRANSHUGE"),
        (0x1100CCA, "GFP_HIGHUSER_MOVABLE"),
        (0x100CC0, "GFP_USER|X"),
        (0xCC0, "GFP_KERNEL"),
        (0x40, "__GFP_IO"),
        (0x80, "__GFP_FS"),
        (0x2000, "__GFP_NOWARN"),
        (0x100, "__GFP_ZERO"),
    ),
    (1 << 64) - 1,
)


def printed(word: int, table: tuple[tuple[int, str], ...]) -> str:
    """format_flags() of lib/vsprintf.c, line by line."""
    text = ""
    for mask, name in table:
        if not word:
            break
        if word & mask != mask:
            continue
        text += name
        word &= ~mask
        if word:
            text += "|"
    if word:
        text += f"{word:#x}"
    return text


_NEARLY_NAMED = st.builds(
    int.__or__, st.sampled_from([mask for mask, _ in GFP.names]), st.integers(0, 0xFFFF)
)


@given(st.integers(0, (1 << 64) - 1) | _NEARLY_NAMED)
def test_a_mask_is_split_as_the_kernel_prints_it(word: int) -> None:
    assert "|".join(GFP.split(word)) == printed(word, GFP.names)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        (0, []),
        (0xCC0, ["GFP_KERNEL"]),
        (0xDC0, ["GFP_KERNEL", "__GFP_ZERO"]),
        (0x1100CCA, ["GFP_HIGHUSER_MOVABLE"]),
        (0xC0, ["__GFP_IO", "__GFP_FS"]),
        (0x4040, ["__GFP_IO", "0x4000"]),
        (1 << 63, ["0x8000000000000000"]),
    ],
)
def test_names_of_several_bits_come_first_and_what_has_no_name_last(word: int, names: list[str]) -> None:
    assert GFP.split(word) == names


def test_bits_that_are_no_flags_have_no_name() -> None:
    flags = FlagNames(((1, "locked"), (2, "writeback")), 0xF)
    assert flags.split(0xFFFFFFFFFFFFFFF3) == ["locked", "writeback"]
    assert flags.split(0x14) == ["0x4"]


def test_a_mask_of_no_bits_is_no_name() -> None:
    assert FlagNames(((0, "none"), (1, "one")), 3).split(1) == ["one"]


@given(st.lists(st.integers(0, (1 << 64) - 1) | st.sampled_from([0xCC0, 0xDC0]), max_size=20))
def test_a_column_is_split_word_by_word(words: list[int]) -> None:
    series = GFP.series(pl.Series(words, dtype=pl.UInt64))
    assert series.dtype == pl.List(pl.String)
    assert series.to_list() == [GFP.split(word) for word in words]


# The table in memory

AT = 0xFFFF888000100000


def table(entries: list[tuple[int, int]], text: bytes, holes: tuple[int, ...] = ()) -> Kernelish:
    raw = b"".join(struct.pack("<QQ", mask, name) for mask, name in entries)
    kernel = Kernelish({AT: raw, AT + 8192: text}, holes)
    kind = kernel.struct(
        "trace_print_flags",
        16,
        {"mask": (kernel.integer(8), 0), "name": (kernel.prog.pointer_type(kernel.integer(1)), 8)},
    )
    kernel.variable("gfpflag_names", kernel.prog.array_type(kind, len(entries)), AT)
    return kernel


def test_a_table_ends_at_its_null() -> None:
    entries = [(1, AT + 8192), (6, AT + 8197), (0, 0), (8, AT + 8192)]
    found = read_flag_names(table(entries, b"lock\0uptodate\0").prog, "gfpflag_names", 0xFF)
    assert found == FlagNames(((1, "lock"), (6, "uptodate")), 0xFF)


def test_a_table_ends_where_the_dump_ends() -> None:
    entries = [(1, AT + 8192), (6, AT + (1 << 20)), (8, AT + 8192)]
    assert read_flag_names(table(entries, b"lock\0").prog, "gfpflag_names", 7).names == ((1, "lock"),)


def test_names_are_printable_and_short_whatever_lies_there() -> None:
    found = read_flag_names(table([(1, AT + 8192)], b"\x1b[2J" + b"a" * 500).prog, "gfpflag_names", 7)
    [(_, name)] = found.names
    assert name.isprintable()
    assert len(name) < 100


def test_a_kernel_without_the_table_has_no_names() -> None:
    assert read_flag_names(drgn.Program(), "gfpflag_names", 7).split(5) == ["0x5"]
