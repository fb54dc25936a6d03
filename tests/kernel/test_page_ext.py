"""page_ext entries, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence

import drgn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.memmap import Sections
from mmdump.kernel.page_ext import (
    ClientState,
    PageExtClient,
    PageExtLayout,
    PageExtRange,
    read_page_ext,
    read_page_ext_layout,
)
from mmdump.target import ReadStatus
from mmdump_page_owner.record import PAGE_OWNER
from mmdump_page_pinner.marks import PAGE_PINNER
from tests.kernel.builders import EXT_FLAGS, EXT_LAYOUT, STRIDE, Ext, Kernelish, client_state, sections

TABLE = 0xFFFF888000100000
READ, ZERO, UNREADABLE, ERASED = ReadStatus


def read(
    entries: Ext,
    memory_sections: Sections,
    start: int,
    end: int,
    *,
    at: int = TABLE,
    holes: Sequence[int] = (),
) -> PageExtRange:
    kernel = Kernelish({at: entries.rows.tobytes()}, holes)
    return read_page_ext(kernel.reader, EXT_LAYOUT, memory_sections, start, end)


def biased(table: int, section_start: int) -> int:
    """mem_section.page_ext, as init_section_page_ext() stores it."""
    return (table - STRIDE * section_start) & ((1 << 64) - 1)


@pytest.mark.parametrize("number", [0, 1, 3, 1 << 30])
def test_an_entry_is_where_the_absolute_pfn_says(number: int) -> None:
    start = number * 64
    # From some section on the bias wraps around zero.
    entries = Ext(64).own(5, handle=0x55).mark(6)
    found = read(entries, sections(64, number, page_ext=biased(TABLE, start)), start + 4, start + 8)
    assert found["page_owner"]["handle"].tolist() == [0, 0x55, 0, 0]
    assert found.flags.tolist() == [0, 3, 4, 0]
    assert found.status.tolist() == [READ] * 4


def test_a_bias_wraps_around_zero_as_in_c() -> None:
    low = 0x1000
    found = read(
        Ext(64).own(1, handle=9), sections(64, 1000, page_ext=biased(low, 64000)), 64000, 64004, at=low
    )
    assert found["page_owner"]["handle"].tolist() == [0, 9, 0, 0]


def test_a_range_may_span_sections_that_lie_apart_and_sections_that_have_none() -> None:
    entries = Ext(64).own(15, handle=1).own(16, handle=2).own(47, handle=4)
    memory_sections = sections(
        16,
        0,
        1,
        2,
        3,
        page_ext=np.array([TABLE, 0, TABLE | 1, TABLE], np.uint64),
    )
    found = read(entries, memory_sections, 14, 80)
    assert found.status.tolist() == [READ] * 2 + [UNREADABLE] * 32 + [READ] * 16 + [UNREADABLE] * 16
    handles = found["page_owner"]["handle"]
    assert np.flatnonzero(handles).tolist() == [1]
    assert len(handles) == len(found.flags) == 66


def test_the_rows_of_a_client_are_its_columns() -> None:
    entries = Ext(64)
    for row in range(64):
        entries.own(row, handle=row + 1, comm=b"c%d" % row, pid=-row)
    found = read(entries, sections(16, 0, 1, 3, page_ext=TABLE), 3, 64)
    data = found["page_owner"]
    rows = np.array([0, 60, 12, 13, 13, 40, 59])
    chosen = data.rows(rows)
    assert data.names == chosen.dtype.names
    for name in data.names:
        assert (chosen[name] == data[name][rows]).all(), name
    assert data.rows(np.empty(0, np.int64)).shape == (0,)
    fresh = read(entries, sections(16, 0, 1, 3, page_ext=TABLE), 3, 64)["page_owner"]
    for name in data.names:
        for chosen in (rows[:2], rows, rows[:0]):
            assert (fresh.at(name, chosen) == data[name][chosen]).all()
            assert fresh.at(name, chosen).dtype == data[name].dtype
    with pytest.raises(KeyError):
        fresh.at("nothing", rows[:0])
    one = read(entries, sections(64, 0, page_ext=TABLE), 3, 64)["page_owner"]
    assert (one.rows(rows)["pid"] == one["pid"][rows]).all()


@given(st.integers(0, 70), st.integers(1, 70), st.integers(1, 24), st.sets(st.integers(0, 8)))
def test_entries_are_those_a_loop_over_pages_finds(
    start: int, count: int, size: int, absent: set[int]
) -> None:
    entries = Ext(256)
    for row in range(256):
        entries.own(row, handle=row + 1)
    numbers = [number for number in range(-(-256 // size)) if number not in absent]
    found = read(entries, sections(size, *numbers, page_ext=TABLE), start, start + count)
    expected = [0 if pfn // size in absent else pfn + 1 for pfn in range(start, start + count)]
    assert found["page_owner"]["handle"].tolist() == expected
    assert (found.status == UNREADABLE).tolist() == [handle == 0 for handle in expected]


def test_half_an_entry_is_none() -> None:
    """4096 bytes are 56.9 entries: one straddles the pages, and its flags are in the dump."""
    entries = Ext(128)
    for row in range(128):
        entries.own(row).mark(row)
    found = read(entries, sections(128, 0, page_ext=TABLE), 0, 128, holes=[TABLE + 4096])
    lost = [56, *range(57, 113), 113]
    assert np.flatnonzero(found.status == UNREADABLE).tolist() == lost
    for column in (found.flags, found["page_owner"]["handle"], found["page_owner"]["pid"]):
        assert np.flatnonzero(column == 0).tolist() == lost
    assert not found.has_flag("PAGE_EXT_OWNER")[lost].any()


def test_an_erased_entry_has_no_flags() -> None:
    entries = Ext(4)
    entries.rows.view(np.uint8).reshape(4, STRIDE)[2] = ord("X")
    found = read(entries, sections(4, 0, page_ext=TABLE), 0, 4)
    assert found.status.tolist() == [READ, READ, ERASED, READ]
    assert not found.flags.any()
    assert not found["page_owner"]["handle"].any()


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 40))
def test_a_pointer_that_is_garbage_is_unreadable_memory(pointer: int, number: int) -> None:
    start = number * 16
    found = read(Ext(1), sections(16, number, page_ext=pointer), start, start + 16)
    assert found.status.shape == found.flags.shape == (16,)
    assert not found.has_flag("PAGE_EXT_OWNER").any()


def test_a_flag_that_the_kernel_lacks_is_never_set_and_all_of_several_are_wanted() -> None:
    found = Ext(3).own(0).mark(0, 1).range()
    assert found.has_flag("PAGE_EXT_PINNER").tolist() == [True, True, False]
    assert found.has_flag("PAGE_EXT_PINNER", "PAGE_EXT_OWNER").tolist() == [True, False, False]
    assert not found.has_flag("PAGE_EXT_PINNER", "PAGE_EXT_NONE").any()


@given(st.sets(st.integers(0, 63)), st.sets(st.integers(0, 63)))
def test_flags_of_all_rows_are_those_of_each(marked: set[int], owned: set[int]) -> None:
    """However many have any."""
    entries = Ext(64).mark(*marked)
    for row in owned:
        entries.own(row)
    found, rows = entries.range(), np.arange(64)
    assert found.flagged.tolist() == sorted(marked | owned)
    for names, wanted in (
        (["PAGE_EXT_PINNER"], marked),
        (["PAGE_EXT_PINNER", "PAGE_EXT_OWNER"], marked & owned),
    ):
        assert np.flatnonzero(found.has_flag(*names)).tolist() == sorted(wanted)
        assert (found.has_flag(*names, at=rows[::3]) == found.has_flag(*names)[::3]).all()


def test_a_client_that_is_not_there_is_a_key_error_and_so_is_its_column() -> None:
    found = Ext(3).range()
    with pytest.raises(KeyError):
        found["page_pinner"]
    with pytest.raises(KeyError):
        found["page_owner"]["no_such_member"]


def test_entries_without_a_flags_word_have_no_flags() -> None:
    dtype = np.dtype({"names": ["counts"], "formats": ["<u8"], "offsets": [0], "itemsize": 8})
    layout = PageExtLayout(True, 8, {}, {"counts": client_state("counts", struct="struct counts")}, dtype)
    found = PageExtRange([np.full(16, 255, np.uint8)], np.zeros(2, np.uint8), layout)
    assert found.flags.tolist() == [0, 0]
    assert not found.has_flag("PAGE_EXT_OWNER").any()


# The layout

OWNER_MEMBERS = {"order": 2, "last_migrate_reason": 2, "gfp_mask": 4, "handle": 4, "free_handle": 4}


def ext_kernel(
    *,
    stride: int = STRIDE,
    owner: bool = True,
    pinner: bool = True,
    offset: int = 8,
    flags: bool = True,
    shared: bool = True,
) -> Kernelish:
    """A kernel with page_owner and the page pinner built in."""
    kernel = Kernelish()
    prog = kernel.prog
    kernel.struct("page_ext", 8, {"flags": (kernel.integer(8), 0)})
    kernel.constant("page_ext_size", stride)
    if flags:
        kernel.enum("page_ext_flags", EXT_FLAGS)
    members, at = {}, 0
    for name, size in OWNER_MEMBERS.items():
        members[name] = (kernel.integer(size), at)
        at += size
    kernel.struct("page_owner", 64, members)
    ops = kernel.struct(
        "page_ext_operations",
        24,
        {
            "offset": (kernel.integer(8), 0),
            "size": (kernel.integer(8), 8),
            "need_shared_flags": (kernel.integer(1), 16),
        },
    )
    atomic = kernel.struct("atomic_t", 4, {"counter": (kernel.integer(4, signed=True), 0)})
    key = kernel.struct("static_key", 4, {"enabled": (atomic, 0)})
    static = kernel.struct("static_key_false", 4, {"key": (key, 0)})
    for name, on, size in (("page_owner", owner, 64), ("page_pinner", pinner, 0)):
        value = {"offset": offset, "size": size, "need_shared_flags": shared}
        kernel.objects[f"{name}_ops"] = drgn.Object(prog, ops, value=value)
        kernel.objects[f"{name}_inited"] = drgn.Object(
            prog, static, value={"key": {"enabled": {"counter": int(on)}}}
        )
    return kernel


CLIENTS = (PAGE_OWNER, PAGE_PINNER)


def test_enabled_clients_are_found_with_the_columns_that_the_kernel_has() -> None:
    layout = read_page_ext_layout(ext_kernel().prog, CLIENTS)
    assert layout.built
    assert layout.stride == layout.dtype.itemsize == STRIDE
    assert layout.flags == EXT_FLAGS
    assert layout.dtype.names == ("flags", "page_owner")
    assert layout.dtype.fields["page_owner"][1] == 8
    assert set(layout.dtype["page_owner"].names) == set(OWNER_MEMBERS)
    assert layout.enabled("page_owner")
    assert layout.enabled("page_pinner")
    assert not layout.enabled("page_idle")
    assert layout.client("page_idle") is None


def test_a_client_that_has_flags_only_needs_no_data() -> None:
    layout = read_page_ext_layout(ext_kernel(stride=8, owner=False).prog, CLIENTS)
    assert layout.dtype.names == ("flags",)
    assert layout.enabled("page_pinner")
    assert not layout.enabled("page_owner")
    assert (layout.client("page_owner").built, layout.client("page_owner").enabled) == (True, False)


def test_where_no_client_needs_flags_entries_begin_with_data() -> None:
    kernel = ext_kernel(stride=64, offset=0, pinner=False)
    plain = PageExtClient(
        "plain", "page_owner_ops", struct="struct page_owner", members={"handle": ("handle",)}
    )
    layout = read_page_ext_layout(kernel.prog, [plain])
    assert layout.flags == {}
    assert layout.dtype.names == ("plain",)


@pytest.mark.parametrize("stride", [0, 4097, 1 << 40, (1 << 64) - 1])
def test_a_stride_that_cannot_be_true_is_none(stride: int) -> None:
    layout = read_page_ext_layout(ext_kernel(stride=stride).prog, CLIENTS)
    assert layout.built
    assert (layout.stride, layout.dtype) == (0, None)
    assert not layout.enabled("page_owner")
    assert not layout.enabled("page_pinner")


@pytest.mark.parametrize("stride", [1, 7, 8, 20, 71])
@pytest.mark.parametrize("offset", [0, 8, 4000, 1 << 63])
def test_data_that_does_not_fit_into_an_entry_is_not_there(stride: int, offset: int) -> None:
    layout = read_page_ext_layout(ext_kernel(stride=stride, offset=offset).prog, CLIENTS)
    assert layout.garbage
    assert layout.dtype is None
    assert not layout.enabled("page_owner")
    assert not layout.enabled("page_pinner")


def test_a_kernel_without_page_ext_says_so() -> None:
    layout = read_page_ext_layout(Kernelish().prog, CLIENTS)
    assert not layout.built
    assert not layout.enabled("page_owner")
    assert layout.client("page_owner") == ClientState(PAGE_OWNER, built=False, enabled=False)


def test_a_kernel_whose_clients_are_not_built_in_says_so() -> None:
    kernel = ext_kernel()
    del kernel.objects["page_owner_ops"]
    layout = read_page_ext_layout(kernel.prog, CLIENTS)
    assert not layout.client("page_owner").built
    assert layout.enabled("page_pinner")


def test_debug_info_without_the_names_of_flags_has_none() -> None:
    layout = read_page_ext_layout(ext_kernel(flags=False).prog, CLIENTS)
    assert layout.flags == {}
    assert layout.enabled("page_owner")
