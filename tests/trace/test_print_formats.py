"""Print formats of events: C's expressions, the kernel's printf, and what is too much or not understood."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump_trace.arithmetic import CType
from mmdump_trace.evaluate import compile_print_fmt
from mmdump_trace.formats import EventFormat, Field
from mmdump_trace.printf import PointerWords, UnprintableError, parse_format

FIELDS = (
    Field("pfn", "unsigned long", 8, 8, False, 0),
    Field("count", "int", 16, 4, True, 0),
    Field("small", "unsigned char", 20, 1, False, 0),
    Field("name", "__data_loc char[]", 24, 4, False, 2),
    Field("comm", "char[8]", 28, 8, False, 1),
    Field("words", "unsigned int[2]", 36, 8, False, 0),
    Field("page", "struct page *", 44, 8, False, 0),
    Field("list", "__data_loc u32[]", 52, 4, False, 0),
    Field("near", "__rel_loc char[]", 56, 4, False, 3),
)
COMMON = {"pid": Field("pid", "int", 4, 4, True, 0), "flags": Field("flags", "u8", 2, 1, False, 0)}
TEXT, LIST, NEAR = 60, 66, 74
EVENT = (
    struct.pack("<HBBi", 7, 0x18, 0, 42)
    + struct.pack("<QiBxxx", 0x1BE11, -3, 200)
    + struct.pack("<I", 6 << 16 | TEXT)
    + b"work\0xyz"
    + struct.pack("<II", 11, 22)
    + struct.pack("<Q", 0xFFFFEA0000001000)
    + struct.pack("<I", 8 << 16 | LIST)
    + struct.pack("<I", 4 << 16 | (NEAR - 60))
    + b"hello\0"
    + struct.pack("<II", 1, 0xFF)
    + b"abc\0"
)
WORDS = PointerWords(lambda value: f"<{value:x}>", lambda value: f"sym+{value:#x}", lambda value: f"s{value}")


class _Names:
    """A kernel with some names."""

    little = True

    def type_of(self, words: str) -> CType | None:
        """Types that are used here."""
        return {
            "unsigned long": CType(8, False),
            "int": CType(4, True),
            "unsigned char": CType(1, False),
            "gfp_t": CType(4, False),
            "struct page *": CType(8, False, 64),
            "void *": CType(8, False, 1),
            "u32": CType(4, False),
        }.get(words)

    def value_of(self, name: str) -> tuple[int, CType] | None:
        """A constant and a variable."""
        known = {"PG_lru": (5, CType(4, False)), "vmemmap_base": (0xFFFFEA0000000000, CType(8, False))}
        return known.get(name)

    def string_at(self, address: int) -> str | None:
        """One string."""
        return "kernel" if address == 0x1BE11 else None


def _printed(print_fmt: str | None, data: bytes = EVENT) -> str:
    event = EventFormat("event", "system", 7, lambda: None, lambda: FIELDS, lambda: print_fmt)
    return compile_print_fmt(event, _Names(), WORDS, COMMON)(data)


@pytest.mark.parametrize(
    ("print_fmt", "text"),
    [
        ('"pfn=0x%lx count=%d", REC->pfn, REC->count', "pfn=0x1be11 count=-3"),
        ('"%u %x %hd %hhx", REC->count, -1, 65535, 511', "4294967293 ffffffff -1 ff"),
        ('"%llu", 1ULL << 40', "1099511627776"),
        ('"%5d|%-5d|%05d|%+d|%#x|%#x", 42, 42, -42, 7, 0, 255', "   42|42   |-0042|+7|0x0|0xff"),
        ('"%s %-8s|%.2s|%*d", __get_str(name), REC->comm, REC->comm, 4, 5', "hello work    |wo|   5"),
        ('"%s", __get_rel_str(near)', "abc"),
        ('"%c%%" "%s", 65, "x" "y"', "A%xy"),
        ('"%p %px", REC->page, REC->page', "<ffffea0000001000> ffffea0000001000"),
        ('"%ps %pS", REC->pfn, 16', "s114193 sym+0x10"),
        ('"%p", (((struct page *)vmemmap_base) + (REC->words[0] * 2))', "<ffffea0000000580>"),
        ('"%lu", REC->page - (struct page *)vmemmap_base', "64"),
        ('"%s", REC->count < 0 ? "less" : "more"', "less"),
        # An unsigned long makes the other side unsigned, too.
        ('"%s", REC->count < 0UL ? "less" : "more"', "more"),
        ('"%d", REC->small >> 3 & ~1', "24"),
        ('"%d %d", -7 / 2, -7 % 2', "-3 -1"),
        ('"%lx", ~(unsigned long)0 << 60', "f000000000000000"),
        ('"%d", 1 << 31', "-2147483648"),
        ('"%d", !!(REC->pfn && 0x10)', "1"),
        ('"%d", 2 + 3 * 4 - (1 ? 1 : 2)', "13"),
        ('"%lu", sizeof(struct page *)', "8"),
        ('"%d %u", REC->ent.pid, REC->common_flags', "42 24"),
        ('"%s", __print_symbolic(REC->count, {-3, "minus three"}, {1, "one"})', "minus three"),
        ('"%s", __print_symbolic(REC->small, { 1, "one" }, { -1, ((void *)0) })', "0xc8"),
        (
            '"%s", __print_flags(REC->small, "|", {1UL << PG_lru, "lru"}, {( gfp_t)128, "x"}, {64, "a" "b"})',
            "x|ab|0x8",
        ),
        ('"%s", (0) ? __print_flags(1, "|", {1, "x"}) : "none"', "none"),
        (
            '"%s", __print_array(__get_dynamic_array(list), __get_dynamic_array_len(list) / 4, 4)',
            "{0x1,0xff}",
        ),
        ('"%s %s", __print_hex(REC->words, 2), __print_hex_str(REC->words, 8)', "0b 00 0b00000016000000"),
        ('"%s", __get_bitmask(list)', "000000ff,00000001"),
        ('"%s %s", (char *)REC->pfn, 0', "kernel (null)"),
        ('"%lx", __builtin_expect(!!(REC->pfn), 0)', "1"),
    ],
)
def test_a_format_is_printed_as_the_kernel_prints_it(print_fmt: str, text: str) -> None:
    class Names(_Names):
        def type_of(self, words: str) -> CType | None:
            return CType(8, False, 1) if words == "char *" else super().type_of(words)

    event = EventFormat("event", "system", 7, lambda: None, lambda: FIELDS, lambda: print_fmt)
    assert compile_print_fmt(event, Names(), WORDS, COMMON)(EVENT) == text


@pytest.mark.parametrize(
    "print_fmt",
    [
        None,
        "",
        "REC->pfn",
        '"%d"',
        '"%d", REC->count, REC->count',
        '"%d", REC->nothing',
        '"%d", nothing',
        '"%d", REC',
        '"%d", other->pfn',
        '"%d", *REC->page',
        '"%d", unknown_function(1)',
        '"%d", "text"',
        '"%s", REC->words',
        '"%pI4", REC->words',
        '"%n", 1',
        '"%d", REC->words[2]',
        '"%d", 1 / 0',
        '"%d", (1',
        '"%d", 1 +',
        '"%d", {1, 2}',
        '"%s", __print_flags(REC->pfn, "|", 1)',
        '"%s", __print_flags(REC->pfn, "|", {REC->pfn, "x"})',
        '"%d", ' + "(" * 5000 + "1" + ")" * 5000,
        '"%d", ' + "-" * 5000 + "1",
        '"%d", ' + "1+" * 70000 + "1",
        "\x00\xff garbage",
    ],
    ids=lambda each: str(each)[:30],
)
def test_what_is_not_understood_or_too_much_is_refused(print_fmt: str | None) -> None:
    with pytest.raises(UnprintableError):
        _printed(print_fmt)


@pytest.mark.parametrize("cut", [0, 7, 15, 26, TEXT + 2])
def test_an_event_that_is_cut_short_is_refused_when_it_is_printed(cut: int) -> None:
    with pytest.raises(UnprintableError):
        _printed('"%lx %s", REC->pfn, __get_str(name)', EVENT[:cut])


def test_a_width_from_the_dump_is_bounded() -> None:
    assert len(_printed('"%*d", 2147483647, 1')) <= 1024


@given(st.text(st.sampled_from('"%dlxsp,(){}->+*?:&|<>!~ \\0123456789abREC_pfncount'), max_size=80))
def test_no_format_does_worse_than_to_be_refused(text: str) -> None:
    with contextlib.suppress(UnprintableError):
        assert isinstance(_printed(f'"{text}'), str)


@given(st.text(max_size=40))
def test_no_printf_format_does_worse_than_to_be_refused(text: str) -> None:
    try:
        parts = parse_format(text, WORDS)
    except UnprintableError:
        return
    for part in parts:
        value = "x" if part.wants == "text" else 5
        assert isinstance(part.convert([3] * part.stars + [value]), str)
