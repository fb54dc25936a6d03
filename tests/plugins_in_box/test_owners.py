"""Records of page_owner, made by hand."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mmdump.kernel.names import FlagNames
from mmdump.kernel.page import PageRange
from mmdump.kernel.page_ext import PageExtLayout, PageExtRange
from mmdump_page_owner.record import OWNER_COLUMNS, Owners, no_owners, read_owners
from tests.kernel.builders import EXT_DTYPE, EXT_LAYOUT, LAYOUT, STRIDE, Ext, Memory

OWNERS = Owners(FlagNames(((0xCC0, "GFP_KERNEL"),), (1 << 64) - 1), 10, (1 << 27) - 1)
NAMES = [column.name for column in OWNER_COLUMNS]


def pages(ext: Ext, start: int = 0) -> PageRange:
    return Memory(len(ext.rows), start).pages(ext.range())


def decoded(of: PageRange, *rows: int) -> list[dict[str, object]]:
    columns = OWNERS.columns(of, np.array(rows, np.int64))
    return OWNERS.decode(pl.DataFrame({"row": rows, **columns})).to_dicts()


def test_a_page_is_allocated_by_both_flags_and_a_handle() -> None:
    ext = Ext(5)
    for row, (flags, handle) in enumerate(((3, 1), (1, 1), (2, 1), (3, 0), (7, 1))):
        ext.rows["flags"][row], ext.rows["page_owner"]["handle"][row] = flags, handle
    assert OWNERS.allocated(pages(ext)).tolist() == [True, False, False, False, True]


def test_an_allocation_begins_at_a_pfn_aligned_to_its_order() -> None:
    of = pages(Ext(32).own(4, order=2).own(8).own(9).own(16, order=4), 65536)
    allocated = OWNERS.allocated(of)
    assert np.flatnonzero(allocated).tolist() == [4, 5, 6, 7, 8, 9, *range(16, 32)]
    assert np.flatnonzero(OWNERS.first_pages(of, allocated)).tolist() == [4, 8, 9, 16]


@pytest.mark.parametrize(
    ("order", "garbage"), [(0, False), (10, False), (11, True), (63, True), (65535, True)]
)
def test_a_record_of_an_order_that_no_allocation_has_is_garbage(order: int, garbage: bool) -> None:
    ext = Ext(2).own(0)
    ext.rows["page_owner"]["order"][0] = order
    of = pages(ext)
    allocated = OWNERS.allocated(of)
    assert OWNERS.garbage(of, allocated).tolist() == [garbage, False]
    assert OWNERS.first_pages(of, allocated).tolist() == [True, False]
    assert (decoded(of, 0)[0]["owner_pid"] is None) == garbage


def test_a_gigantic_hugetlb_page_is_an_allocation_of_its_order() -> None:
    """1 GiB, allocated by alloc_contig_range(); some of its pages."""
    owners = read_owners(
        SimpleNamespace(page_ext=EXT_LAYOUT, stack_depot=None, gfp_names=OWNERS.gfp_names, page_layout=LAYOUT)
    )
    of = pages(Ext(64).own(0, order=18), 1 << 18)
    allocated = owners.allocated(of)
    assert allocated.all()
    assert not owners.garbage(of, allocated).any()
    assert np.flatnonzero(owners.first_pages(of, allocated)).tolist() == [0]
    assert owners.columns(of, np.arange(64))["owner_known"].all()
    ext = Ext(1).own(0)
    ext.rows["page_owner"]["order"] = 0x5858
    assert owners.garbage(pages(ext), owners.allocated(pages(ext))).all()


def test_a_record_is_decoded() -> None:
    of = pages(Ext(2).own(1, handle=5 << 27 | 0x123, comm=b"fio \x1b", pid=77))
    assert decoded(of, 1) == [
        {
            "owner_pid": 77,
            "owner_tgid": 77,
            "owner_comm": "fio \\x1b",
            "owner_ts_nsec": 1001,
            "owner_order": 0,
            "owner_gfp_mask": 0xCC0,
            "owner_gfp_flags": ["GFP_KERNEL"],
            "stack_id": 0x123,
        }
    ]


def test_a_page_that_was_freed_has_no_owner_now() -> None:
    ext = Ext(3).own(0).own(1).own(2)
    ext.rows["flags"][1] = 1
    rows = decoded(pages(ext), 0, 1, 2)
    assert [row["owner_pid"] for row in rows] == [7, None, 7]
    assert set(rows[1].values()) == {None}


def test_an_entry_that_is_not_in_the_dump_has_no_owner() -> None:
    assert set(decoded(pages(Ext(2).mark(0)), 0)[0].values()) == {None}


def test_without_rows_or_without_page_ext_there_are_the_same_columns() -> None:
    of = pages(Ext(2))
    for columns in (OWNERS.columns(of, np.empty(0, np.int64)), {}):
        frame = OWNERS.decode(pl.DataFrame(columns))
        assert (frame.columns, len(frame)) == (NAMES, 0)
        assert frame.schema == no_owners(0).schema
    assert OWNERS.columns(Memory(2).pages(), np.array([0])) == {}
    assert no_owners(3).to_dicts() == [dict.fromkeys(NAMES)] * 3


def test_many_rows_of_few_tasks_keep_their_own_names() -> None:
    ext = Ext(100)
    for row in range(100):
        ext.own(row, comm=b"task%d" % (row % 3), pid=row)
    rows = decoded(pages(ext), *range(100))
    assert [(row["owner_comm"], row["owner_pid"]) for row in rows] == [
        (f"task{row % 3}", row) for row in range(100)
    ]


def test_a_member_that_this_kernel_lacks_is_null() -> None:
    record = np.dtype(
        {
            "names": ["order", "gfp_mask", "handle"],
            "formats": ["<u2", "<u4", "<u4"],
            "offsets": [0, 4, 8],
            "itemsize": 64,
        }
    )
    dtype = np.dtype(
        {"names": list(EXT_DTYPE.names), "formats": ["<u8", record], "offsets": [0, 8], "itemsize": STRIDE}
    )
    layout = dataclasses.replace(EXT_LAYOUT, dtype=dtype)
    raw = Ext(1).own(0).rows.view(np.uint8)
    of = Memory(1).pages(PageExtRange([raw], np.zeros(1, np.uint8), layout))
    [row] = decoded(of, 0)
    assert (row["owner_pid"], row["owner_comm"], row["owner_ts_nsec"]) == (None, None, None)
    assert (row["stack_id"], row["owner_gfp_mask"]) == (0x11, 0xCC0)


@pytest.mark.parametrize("flags", [{}, {"PAGE_EXT_OWNER": 0}, {"PAGE_EXT_PINNER": 63}])
def test_where_the_flags_have_no_names_no_owner_is_known(flags: dict[str, int]) -> None:
    layout: PageExtLayout = dataclasses.replace(EXT_LAYOUT, flags=flags)
    ext = Ext(2).own(0).own(1)
    ext.rows["flags"][1] = (1 << 64) - 1
    of = Memory(2).pages(PageExtRange([ext.rows.view(np.uint8)], ext.status, layout))
    assert [row["owner_pid"] for row in decoded(of, 0, 1)] == [None, None]
    assert not OWNERS.allocated(of).any()
