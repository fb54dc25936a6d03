"""C declarations laid out as the compiler of a 64-bit kernel does it."""

from __future__ import annotations

import numpy as np
import pytest

from mmdump_snapshots.kernels import DeclarationError, Declarations, Types
from mmdump_snapshots.kernels.cdecl import parse
from mmdump_snapshots.kernels.preprocess import Preprocessor


def _parse(text: str, arch: str = "x86_64") -> Declarations:
    preprocessor = Preprocessor({"KERNEL": (6, 12)})
    return parse(preprocessor.run(text, "test.h"), arch=arch, macros=preprocessor.macros)


def _types(text: str, arch: str = "x86_64") -> Types:
    return _parse(text, arch).types


def _bits(types: Types, kind: str) -> dict[str | None, tuple[int, int]]:
    """(first bit, bits) of the members."""
    return {each.name: (8 * each.offset + each.bit_offset, each.bit_size) for each in types[kind].members}


def test_members_are_aligned_to_their_size_and_the_struct_to_its_largest() -> None:
    types = _types("struct a { char c; long l; short s; };")
    assert [types.offset("struct a", each) for each in "cls"] == [0, 8, 16]
    assert (types.sizeof("struct a"), types["struct a"].align) == (24, 8)


def test_a_union_is_as_large_as_its_largest_member() -> None:
    types = _types("union a { char c[9]; int i; };")
    assert types.sizeof("union a") == 12
    assert {each.offset for each in types["union a"].members} == {0}


def test_bit_fields_share_a_word_until_one_would_cross_it() -> None:
    types = _types("struct a { unsigned int a:16, b:15, c:1, d:7, e:26; };")
    assert _bits(types, "struct a") == {
        "a": (0, 16),
        "b": (16, 15),
        "c": (31, 1),
        "d": (32, 7),
        "e": (64, 26),
    }
    assert types.sizeof("struct a") == 12


def test_bit_fields_go_into_the_padding_after_a_member() -> None:
    types = _types("struct a { char c; unsigned int a:8; unsigned long b:40; char d; };")
    assert _bits(types, "struct a") == {"c": (0, 0), "a": (8, 8), "b": (16, 40), "d": (56, 0)}
    assert types.sizeof("struct a") == 8


def test_a_bit_field_without_width_starts_the_next_word() -> None:
    types = _types("struct a { unsigned int a:3; unsigned int :0; unsigned int b:3; };")
    assert _bits(types, "struct a") == {"a": (0, 3), "b": (32, 3)}


def test_a_bit_field_without_a_name_aligns_the_struct_on_aarch64_alone() -> None:
    text = "struct a { char a; int :4; };"
    assert _types(text).sizeof("struct a") == 2
    assert _types(text, "aarch64").sizeof("struct a") == 4


def test_paths_go_through_anonymous_members_and_arrays() -> None:
    types = _types(
        """
        typedef struct { int counter; } atomic_t;
        struct area { void *list[2]; atomic_t nr; };
        struct zone { long flags; union { struct { char x; struct area area[4]; }; long other; }; };
        """
    )
    assert types.offset("struct zone", "area[3].nr.counter") == 8 + 8 + 3 * 24 + 16
    assert types.member("struct zone", "area[1].list[1]").type.kind == "pointer"
    assert types.has("struct zone", "other")
    assert not types.has("struct zone", "area[4]")
    assert not types.has("struct zone", "none")
    assert not types.has("struct none")
    with pytest.raises(LookupError, match="no counters"):
        types.member("struct zone", "area[0].nr.counters")


def test_a_flexible_array_takes_no_place_but_is_aligned() -> None:
    types = _types("struct a { char c; long entries[]; }; struct b { int n; char name[0]; };")
    assert (types.offset("struct a", "entries"), types.sizeof("struct a")) == (8, 8)
    assert types.member("struct a", "entries").type.length is None
    assert types.offset("struct a", "entries[5]") == 48
    assert (types.member("struct b", "name").type.length, types.sizeof("struct b")) == (0, 4)


def test_attributes_align_members_and_structs() -> None:
    types = _types(
        """
        struct pad { char x[0]; } __attribute__((aligned(64)));
        struct zone { int a; struct pad p; int b; } __attribute__((aligned(2 * sizeof(long))));
        struct m { char c; char d __attribute__((aligned(4))); int e[2]; };
        """
    )
    assert types.sizeof("struct pad") == 0
    assert (types.offset("struct zone", "b"), types.sizeof("struct zone")) == (64, 128)
    assert (types.offset("struct m", "d"), types.sizeof("struct m")) == (4, 16)


def test_packed_structs_have_no_padding() -> None:
    types = _types("struct a { char c; long l; unsigned int b:4; } __attribute__((packed));")
    assert (types.offset("struct a", "l"), types.sizeof("struct a"), types["struct a"].align) == (1, 10, 1)


def test_enums_are_unsigned_until_a_value_is_negative() -> None:
    types = _types("enum a { A, B = 1 << 3, C, D = B | 1 }; enum b { E = -1 }; enum c { F = 0x100000000 };")
    assert types.enumerators("enum a") == {"A": 0, "B": 8, "C": 9, "D": 9}
    assert [(types[f"enum {each}"].size, types[f"enum {each}"].signed) for each in "abc"] == [
        (4, False),
        (4, True),
        (8, False),
    ]
    assert _types("enum a { A, B } __attribute__((packed));").sizeof("enum a") == 1


def test_constants_are_enumerators_or_defines() -> None:
    types = _types(
        "#define N (B + 2)\n#define T text\nenum { A, B };\nstruct a { char c[N]; enum { C = 7 } e; };"
    )
    assert [types.constant(each) for each in "ABCN"] == [0, 1, 7, 3]
    assert types.sizeof("struct a") == 8
    for unknown in ("X", "T"):
        with pytest.raises(KeyError):
            types.constant(unknown)


def test_pointers_lead_to_structs_that_come_later_or_never() -> None:
    types = _types(
        "struct a { struct b *b; struct c *c; void (*f)(struct a *a); }; struct b { struct a a; };"
    )
    b = types.member("struct a", "b").type
    assert b.target is types["struct b"]
    assert types.sizeof("struct b") == 24
    assert "struct c" not in types
    assert not types["struct c"].complete


def test_a_struct_may_be_used_before_it_is_declared_in_the_text() -> None:
    types = _types("struct a; typedef struct a a_t; struct b { a_t x[2]; }; struct a { short s; };")
    assert (types.sizeof("struct b"), types.sizeof("a_t"), types.sizeof("a_t[3]")) == (4, 2, 6)


def test_names_of_integers_may_be_written_in_any_way() -> None:
    types = _types(
        "typedef long unsigned int a; typedef unsigned b; typedef signed char c; typedef long long int d;"
    )
    names = [types[each].bare.name for each in "abcd"]
    assert names == ["unsigned long", "unsigned int", "signed char", "long long"]


def test_char_is_signed_as_it_is_said() -> None:
    assert parse("char c;").variables[0].type.signed
    assert not parse("char c;", signed_char=False).variables[0].type.signed


def test_variables_and_functions_know_their_file() -> None:
    found = _parse(
        """
        struct cma { long count; };
        int early;
        #pragma file mm/cma.c
        #pragma section .data
        struct cma cma_areas[20];
        static unsigned int cma_area_count, other;
        #pragma file mm/page_alloc.c
        unsigned long get_pfnblock_flags_mask(const struct page *page, unsigned long pfn, int a[]);
        static int depot;
        void printk(const char *fmt, ...);
        """
    )
    assert [(each.name, each.file, each.section, each.static) for each in found.variables] == [
        ("early", None, ".bss", False),
        ("cma_areas", "mm/cma.c", ".data", False),
        ("cma_area_count", "mm/cma.c", ".data", True),
        ("other", "mm/cma.c", ".data", True),
        ("depot", "mm/page_alloc.c", ".bss", True),
    ]
    assert found.variables[1].type.size == 160
    function, printk = found.prototypes
    assert (function.name, function.file) == ("get_pfnblock_flags_mask", "mm/page_alloc.c")
    assert [name for name, _ in function.type.parameters] == ["page", "pfn", "a"]
    assert function.type.parameters[2][1].kind == "pointer"
    assert printk.type.variadic


@pytest.mark.parametrize(
    "text",
    [
        "struct a { struct b b; };",
        "struct a { int x; }; struct a { int y; };",
        "enum a { A }; enum b { A };",
        "int a[N];",
        "unknown_t a;",
        "int f(void) { return 1; }",
        "#pragma once",
        "struct a { int x",
        "typedef int a; typedef long a;",
    ],
)
def test_what_cannot_be_laid_out_is_refused(text: str) -> None:
    with pytest.raises(DeclarationError):
        _parse(text)


PAGE = """
typedef struct { int counter; } atomic_t;
struct list { struct list *next, *prev; };
struct page { unsigned long flags; union { struct list lru; unsigned long head; }; atomic_t _mapcount;
    unsigned int a:4, b:12; char name[8]; struct { short x, y; } point[2]; };
"""


def test_a_dtype_has_columns_where_the_members_are() -> None:
    types = _types(PAGE)
    dtype = types.dtype("struct page", {"flags": "flags", "prev": "lru.prev", "count": "_mapcount.counter"})
    assert dtype.itemsize == types.sizeof("struct page")
    pages = np.zeros(3, dtype)
    pages["prev"] = 7
    pages["count"] = -1
    assert pages.tobytes()[16:28] == bytes([7, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255])
    whole = types.dtype("struct page", ["name", "lru", "point[1].y"])
    assert whole["name"].shape == (8,)
    assert whole["lru"] == np.dtype("V16")
    assert whole["point[1].y"] == np.dtype("<i2")
    with pytest.raises(ValueError, match="bit field"):
        types.dtype("struct page", ["a"])


def test_packing_puts_contents_where_the_members_are_and_zeros_elsewhere() -> None:
    types = _types(PAGE)
    packed = types.pack(
        "struct page",
        {
            "head": 0x1234,
            "_mapcount": -1,
            "a": 0xF,
            "b": 0x123,
            "name": b"DMA",
            "point[0].x": -2,
            "lru.prev": 5,
        },
    )
    assert isinstance(packed, bytearray)
    assert len(packed) == types.sizeof("struct page")
    assert packed[8:10] == b"\x34\x12"
    assert packed[16] == 5
    assert packed[24:28] == b"\xff" * 4
    assert int.from_bytes(packed[28:30], "little") == 0x123F
    offset = types.offset("struct page", "name")
    assert packed[offset : offset + 8] == b"DMA\0\0\0\0\0"
    assert packed[offset + 8 : offset + 10] == b"\xfe\xff"


def test_packing_into_what_is_there_keeps_the_rest() -> None:
    types = _types(PAGE)
    size = types.sizeof("struct page")
    buffer = bytearray(b"\xff" * 2 * size)
    types.pack("struct page", {"a": 0, "name": [65, 66]}, buffer, size)
    at = size + types.offset("struct page", "a")
    assert buffer[at : at + 2] == b"\xf0\xff"
    assert buffer[at + 2 : at + 5] == b"AB\xff"
    assert buffer[:size] == b"\xff" * size


def test_what_does_not_fit_is_refused() -> None:
    types = _types(PAGE)
    wrong: list[tuple[str, object]] = [
        ("name", b"123456789"),
        ("name", list(range(9))),
        ("lru", 1),
        ("flags", [1]),
    ]
    for path, content in wrong:
        with pytest.raises(ValueError, match=path):
            types.pack("struct page", {path: content})  # type: ignore[dict-item]
    with pytest.raises(LookupError):
        types.pack("struct page", {"none": 1})
