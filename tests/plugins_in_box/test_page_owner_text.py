"""/sys/kernel/debug/page_owner in the text of every era: the same allocations, as each kernel prints them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmdump.errors import UnsupportedError
from mmdump.kernel.names import FlagField, FlagNames, PageFlagText
from mmdump.kernel.page import PageRange
from mmdump.kernel.page_ext import PageExtRange
from mmdump.kernel.stackdepot import Stack, StackStatus
from mmdump_page_owner.frames import Frames
from mmdump_page_owner.record import Owners
from mmdump_page_owner.text import Printer, read_forms
from tests.kernel.builders import EXT_LAYOUT, Memory

START = 0x1000
MEMBERS = {
    "order": "<u2",
    "last_migrate_reason": "<i2",
    "gfp_mask": "<u4",
    "handle": "<u4",
    "free_handle": "<u4",
    "ts_nsec": "<u8",
    "free_ts_nsec": "<u8",
    "comm": "S16",
    "pid": "<i4",
    "tgid": "<i4",
}
CHARGED = b"Slab cache page\n\0Charged %sto %smemcg %s\n\0"
#: A slab page: MEMCG_DATA_OBJCGS.
SLAB = 0xFFFF888000123001
STACK = " func_a+0x10/0x20\n func_b+0x4/0x8\n"
MIGRATED = "Page has been migrated, last migrate reason: compaction\n"


@dataclass(frozen=True)
class Era:
    """What a kernel has and prints.

    :param members: Of its record.
    :param first: Format string of the first line.
    :param line: What that gives for the first of the two allocations.
    """

    members: tuple[str, ...]
    first: str
    second: str
    line: str
    place: str
    charged: bool = False


OLDEST = ("order", "last_migrate_reason", "gfp_mask", "handle")
WITH_FREE = (*OLDEST, "free_handle")
WITH_PID = (*WITH_FREE, "ts_nsec", "pid")
WITH_FREE_TS = (*WITH_PID, "free_ts_nsec")
ALL = tuple(MEMBERS)

VIA = "Page allocated via order %u, mask %#x(%pGg)"
GAVE = "Page allocated via order 1, mask 0xcc0(GFP_KERNEL)"
DECIMAL = "PFN %lu type %s Block %lu type %s Flags %#lx(%pGp)\n"
WRAPPED = "PFN %lu type %s Block %lu type %s Flags %pGp\n"
HEX = "PFN 0x%lx type %s Block %lu type %s Flags %pGp\n"
AT = "PFN 4098 type Unmovable Block 8 type Movable Flags 0x8(uptodate)"
AT_FIELDS = "PFN 4098 type Unmovable Block 8 type Movable Flags 0x8(uptodate|node=0)"
AT_HEX = "PFN 0x1002 type Unmovable Block 8 type Movable Flags 0x8(uptodate|node=0)"
PID, GAVE_PID = ", pid %d, ts %llu ns", ", pid 77, ts 1234 ns"
COMM, GAVE_COMM = ", pid %d, tgid %d (%s), ts %llu ns", ", pid 77, tgid 70 (dd), ts 1234 ns"
FREE, GAVE_FREE = ", free_ts %llu ns", ", free_ts 999 ns"

ERAS = {
    "4.12 to 5.3": Era(OLDEST, VIA + "\n", DECIMAL, GAVE, AT),
    "5.4 to 5.10": Era(WITH_FREE, VIA + "\n", DECIMAL, GAVE, AT),
    "5.11 and 5.12": Era(WITH_PID, VIA + PID + "\n", DECIMAL, GAVE + GAVE_PID, AT),
    "5.13 to 5.15": Era(
        WITH_FREE_TS, VIA + PID + FREE + "\n", DECIMAL, GAVE + GAVE_PID + GAVE_FREE, AT_FIELDS
    ),
    "5.16 and 5.17": Era(
        WITH_FREE_TS, VIA + PID + FREE + "\n", WRAPPED, GAVE + GAVE_PID + GAVE_FREE, AT_FIELDS
    ),
    "5.18 to 6.4": Era(
        ALL, VIA + COMM + FREE + "\n", WRAPPED, GAVE + GAVE_COMM + GAVE_FREE, AT_FIELDS, charged=True
    ),
    "6.5 and 6.6": Era(
        ALL, VIA + COMM + FREE + "\n", HEX, GAVE + GAVE_COMM + GAVE_FREE, AT_HEX, charged=True
    ),
    "6.7 to 7.2": Era(ALL, VIA + COMM + "\n", HEX, GAVE + GAVE_COMM, AT_HEX, charged=True),
}


def rodata(era: Era) -> bytes:
    strings = [b"PFN of nothing", era.first.encode(), b"kmalloc", era.second.encode()]
    return b"\0\0\0" + b"\0".join(strings) + b"\0" + (CHARGED if era.charged else b"")


def entries(members: tuple[str, ...]) -> PageExtRange:
    """Eight entries: one allocation of order 1 at the third page, one of order 0 at the seventh."""
    record = np.dtype([(name, MEMBERS[name]) for name in members])
    dtype = np.dtype([("flags", "<u8"), ("page_owner", record)])
    rows = np.zeros(8, dtype)
    every_page = "free_handle" in members
    for row in (2, 3, 6) if every_page else (2, 6):
        rows["flags"][row] = 3 if every_page else 1
        values: dict[str, Any] = {
            "order": 0 if row == 6 else 1,
            "last_migrate_reason": 0 if row == 6 else -1,
            "gfp_mask": 0x8 if row == 6 else 0xCC0,
            "handle": 5,
            "ts_nsec": 1234,
            "free_ts_nsec": 999,
            "comm": b"dd",
            "pid": 77,
            "tgid": 70,
        }
        for name in set(values) & set(members):
            rows["page_owner"][name][row] = values[name]
    layout = replace(EXT_LAYOUT, dtype=dtype, stride=dtype.itemsize)
    return PageExtRange([rows.view(np.uint8).copy()], np.zeros(8, np.uint8), layout)


def pages_of(era: Era) -> PageRange:
    memory = Memory(8, START)
    for row in (2, 3, 6):
        memory.small(row, "PG_uptodate")
    blocks = SimpleNamespace(
        of_pages=lambda pfns: np.ones(len(pfns), np.uint8),
        of_range=lambda start, end: np.ones(end - start, np.uint8),
    )
    pages = memory.pages(entries(era.members), blocks)
    pages.__dict__["memcg_data"] = np.full(8, SLAB, np.uint64)
    return pages


def printer(era: Era) -> Printer:
    fields = () if "(%pGp)" in era.second and "free_ts" not in era.first else (_NODE,)
    stack = Stack(5, (0x10, 0x20), StackStatus.OK)
    kernel: Any = SimpleNamespace(
        pageblocks=SimpleNamespace(names=("Unmovable", "Movable", "Reclaimable"), order=9),
        gfp_names=FlagNames(((0xCC0, "GFP_KERNEL"), (0x8, "__GFP_MOVABLE")), (1 << 64) - 1),
        page_flag_text=PageFlagText(FlagNames(((1 << 3, "uptodate"),), (1 << 24) - 1), fields),
        stack_depot=SimpleNamespace(stack=lambda _handle: stack),
        symbols=SimpleNamespace(text={0x10: "func_a+0x10/0x20", 0x20: "func_b+0x4/0x8"}.__getitem__),
        target=SimpleNamespace(prog=_Nothing()),
    )
    owners = Owners(kernel.gfp_names, 22, 0xFFFFFFFF)
    forms = read_forms(rodata(era))
    return Printer(kernel, owners, forms, ("compaction",), frozenset({-1}), True, Frames(kernel))


_NODE = FlagField("node", 6, 58, 63, False)


class _Nothing:
    """A Program that knows no types."""

    def type(self, name: str) -> None:
        raise LookupError(name)

    def __getitem__(self, name: str) -> None:
        raise LookupError(name)


@pytest.mark.parametrize("name", ERAS)
def test_a_record_is_printed_as_the_kernels_of_its_era_print_it(name: str) -> None:
    era = ERAS[name]
    first, second = printer(era).lines(pages_of(era)).decode().split("\n\n")[:2]
    slab = "Slab cache page\n" if era.charged else ""
    assert first + "\n" == f"{era.line}\n{era.place}\n{STACK}{slab}"
    other = era.line.replace("order 1", "order 0").replace("0xcc0(GFP_KERNEL)", "0x8(__GFP_MOVABLE)")
    place = era.place.replace("4098", "4102").replace("1002", "1006").replace("Unmovable", "Movable")
    assert second + "\n" == f"{other}\n{place}\n{STACK}{MIGRATED}{slab}"


@pytest.mark.parametrize("name", ["4.12 to 5.3", "5.11 and 5.12", "5.16 and 5.17"])
def test_a_kernel_without_the_memcg_line_prints_none_though_pages_are_charged(name: str) -> None:
    assert not read_forms(rodata(ERAS[name])).charged
    assert b"Slab" not in printer(ERAS[name]).lines(pages_of(ERAS[name]))


def test_a_range_without_allocations_has_no_text() -> None:
    era = ERAS["6.7 to 7.2"]
    nothing = PageExtRange([np.zeros(8 * 72, np.uint8)], np.zeros(8, np.uint8), EXT_LAYOUT)
    assert printer(era).lines(Memory(8, START).pages(nothing)) == b""


def test_what_a_kernel_of_the_future_prints_is_not_guessed() -> None:
    era = replace(ERAS["6.7 to 7.2"], first=VIA + ", numa %d\n")
    with pytest.raises(UnsupportedError, match="numa"):
        read_forms(rodata(era))
    with pytest.raises(UnsupportedError):
        read_forms(b"\0Page allocated via order %u\n\0")
