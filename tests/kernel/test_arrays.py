"""Small things done with columns, and dtypes of structures."""

from __future__ import annotations

import itertools

import drgn
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UnsupportedError
from mmdump.kernel.arrays import blanked, c_text, counts, decoded, printable, quotients, runs
from mmdump.kernel.layout import byteorder, c_string, has_member, member_dtype, struct_dtype
from tests.kernel.builders import Kernelish


@given(st.lists(st.integers(0, 2)))
def test_runs_are_those_of_itertools(values: list[int]) -> None:
    starts, lengths = runs(np.array(values, np.uint8))
    groups = [len(list(group)) for _, group in itertools.groupby(values)]
    assert lengths.tolist() == groups
    assert starts.tolist() == [sum(groups[:index]) for index in range(len(groups))]


@given(st.lists(st.booleans(), min_size=1, max_size=80), st.sets(st.integers(1, 79)), st.sampled_from([1, 8]))
def test_counts_are_those_of_the_slices(values: list[bool], more: set[int], step: int) -> None:
    found = np.array(values * step, bool)
    starts = sorted({0, *(step * start for start in more if start < len(values))})
    slices = [found[low:high].sum() for low, high in itertools.pairwise([*starts, len(found)])]
    assert counts(found, np.array(starts)).tolist() == slices
    assert counts(np.repeat(found, 2)[::2], np.array(starts)).tolist() == slices


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)), st.integers(1, 200))
def test_quotients_are_those_of_divmod(values: list[int], divisor: int) -> None:
    found, rests = quotients(np.array(values, np.int64), divisor)
    assert list(zip(found.tolist(), rests.tolist(), strict=True)) == [
        divmod(each, divisor) for each in values
    ]


@given(st.binary())
def test_text_of_a_dump_is_printable_whatever_it_is(raw: bytes) -> None:
    text = printable(raw)
    assert text.isprintable()
    text.encode("utf-8")


def test_text_that_is_text_stays_so() -> None:
    assert printable("Größe 5".encode()) == "Größe 5"
    assert printable(b"a\x00b\xff\x1b[m") == "a\\x00b\\xff\\x1b[m"


@given(st.lists(st.integers(0, 5) | st.none()))
def test_each_value_is_decoded_once_and_keeps_its_place(codes: list[int | None]) -> None:
    calls = []

    def decode(code: int | None) -> list[str]:
        calls.append(code)
        return [str(code)]

    found = decoded(pl.Series(codes, dtype=pl.UInt64), decode, pl.List(pl.String))
    assert found.to_list() == [[str(code)] for code in codes]
    assert sorted(map(str, calls)) == sorted(map(str, set(codes)))


@pytest.mark.parametrize(
    "comm", [b"", b"dd", b"kworker/0:1H-kb", b"abc\0rest", b"\xff\xfe", b"sixteen_letters!"]
)
def test_a_task_name_is_two_words_of_memory(comm: bytes) -> None:
    raw = comm.ljust(16, b"\0")
    words = [int.from_bytes(raw[at : at + 8], "little") for at in (0, 8)]
    assert c_text(*words) == printable(comm.split(b"\0")[0])
    assert c_text(words[0], None) is None


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 9))
def test_what_is_lost_is_zeros_and_the_rest_as_it_was(lost: list[bool], size: int) -> None:
    raw = np.full(len(lost) * size, 7, np.uint8)
    raw.flags.writeable = False
    found = blanked(raw, np.array(lost))
    assert found.reshape(-1, size).tolist() == [[0 if gone else 7] * size for gone in lost]
    assert (raw == 7).all()


# From types to dtypes


@pytest.fixture
def kernel() -> Kernelish:
    return Kernelish()


def test_integers_pointers_and_enums_are_scalars_of_their_size(kernel: Kernelish) -> None:
    prog = kernel.prog
    for size in (2, 4, 8):
        assert member_dtype(kernel.integer(size), "<") == np.dtype(f"<u{size}")
        assert member_dtype(kernel.integer(size, signed=True), ">") == np.dtype(f">i{size}")
    assert member_dtype(prog.pointer_type(prog.void_type()), "<") == np.dtype("<u8")
    assert member_dtype(prog.bool_type("bool", 1), "<") == np.dtype("u1")
    assert member_dtype(kernel.enum("e", {"A": 0}), "<") == np.dtype("<u4")
    assert member_dtype(prog.typedef_type("gfp_t", kernel.integer(4)), "<") == np.dtype("<u4")
    assert member_dtype(prog.array_type(kernel.integer(1), 16), "<") == np.dtype("S16")


def test_a_structure_of_one_member_is_looked_through(kernel: Kernelish) -> None:
    prog = kernel.prog
    atomic = kernel.struct("atomic", 4, {"counter": (kernel.integer(4, signed=True), 0)})
    refcount = kernel.struct("refcount", 4, {"refs": (prog.typedef_type("atomic_t", atomic), 0)})
    assert member_dtype(refcount, "<") == np.dtype("<i4")


def test_what_is_no_scalar_is_an_error(kernel: Kernelish) -> None:
    pair = kernel.struct("pair", 8, {"a": (kernel.integer(4), 0), "b": (kernel.integer(4), 4)})
    for kind in (pair, kernel.prog.array_type(kernel.integer(4), 3), kernel.prog.float_type("double", 8)):
        with pytest.raises(UnsupportedError):
            member_dtype(kind, "<")


def test_members_are_columns_at_their_offsets_by_their_newest_name(kernel: Kernelish) -> None:
    inner = kernel.struct("inner", 8, {"low": (kernel.integer(4), 0), "high": (kernel.integer(4), 4)})
    outer = kernel.struct("outer", 24, {"first": (kernel.integer(8), 0), "in": (inner, 8)})
    wanted = {"a": ("new", "first"), "b": ("in.high",), "c": ("gone",)}
    dtype = struct_dtype(kernel.prog, outer, wanted, optional=["c"], base=4, itemsize=40)
    assert {name: dtype.fields[name] for name in dtype.names} == {
        "a": (np.dtype("<u8"), 4),
        "b": (np.dtype("<u4"), 16),
    }
    assert dtype.itemsize == 40
    assert struct_dtype(kernel.prog, outer, {"a": ("first",)}).itemsize == 24
    assert has_member(outer, "in.low")
    assert not has_member(outer, "in.low.deeper")
    with pytest.raises(UnsupportedError, match="gone"):
        struct_dtype(kernel.prog, outer, wanted)


def test_the_byte_order_is_the_platforms() -> None:
    big = drgn.Program(drgn.Platform(drgn.Architecture.PPC64, drgn.PlatformFlags.IS_64_BIT))
    assert byteorder(big) == ">"
    assert byteorder(Kernelish().prog) == "<"


def test_a_string_ends_at_its_limit(kernel: Kernelish) -> None:
    at = 0xFFFF888000000000
    kernel.add(at, b"abcdef" * 50)
    pointer = drgn.Object(kernel.prog, kernel.prog.pointer_type(kernel.integer(1)), value=at)
    assert c_string(pointer, 8) == "abcdefab"
    with pytest.raises(drgn.FaultError):
        c_string(drgn.Object(kernel.prog, kernel.prog.pointer_type(kernel.integer(1)), value=8))
    array = drgn.Object(kernel.prog, kernel.prog.array_type(kernel.integer(1), 20), address=at)
    assert c_string(array, 8) == "abcdefab"
    assert c_string(array) == ("abcdef" * 4)[:20]
