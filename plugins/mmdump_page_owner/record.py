"""struct page_owner: the record of each page's allocation, and which pages have one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import polars as pl
from drgn import FaultError

from mmdump.kernel.arrays import I64, Bools, Struct, c_text
from mmdump.kernel.layout import find_object
from mmdump.kernel.page_ext import PageExtClient
from mmdump.result import Column, Kind

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.names import FlagNames
    from mmdump.kernel.page import PageRange

__all__ = [
    "OWNER_COLUMNS",
    "PAGE_OWNER",
    "Owners",
    "comms_of",
    "gfp_migratetype",
    "groups_by_mobility",
    "members_of",
    "no_owners",
    "on_every_page",
    "read_owners",
    "why_no_owner",
]

#: A gfp_mask, or a column of them.
Masks = TypeVar("Masks", int, Struct)

PAGE_OWNER = PageExtClient(
    "page_owner",
    ops="page_owner_ops",
    struct="struct page_owner",
    enabled="page_owner_inited",
    members={
        "order": ("order",),
        "last_migrate_reason": ("last_migrate_reason",),
        "gfp_mask": ("gfp_mask",),
        "handle": ("handle",),
        "free_handle": ("free_handle",),  # 5.4
        "ts_nsec": ("ts_nsec",),  # 5.11
        "free_ts_nsec": ("free_ts_nsec",),  # 5.13
        "comm": ("comm",),  # 5.18
        "pid": ("pid",),  # 5.11
        "tgid": ("tgid",),  # 5.18
        "free_pid": ("free_pid",),  # 6.8
        "free_tgid": ("free_tgid",),  # 6.8
    },
    optional=(
        "free_handle",
        "ts_nsec",
        "free_ts_nsec",
        "comm",
        "pid",
        "tgid",
        "free_pid",
        "free_tgid",
    ),
    flags=("PAGE_EXT_OWNER", "PAGE_EXT_OWNER_ALLOCATED"),
)

#: Records of larger orders are garbage. The buddy allocator's own limit is too small: since 6.12
#: alloc_contig_range() allocates a gigantic hugetlb page as one, of order 18 on x86-64 (1 GiB).
_MAX_ORDER = 22

#: The columns of :meth:`Owners.decode`.
OWNER_COLUMNS = (
    Column("owner_pid", Kind.ID, "PID of the task that allocated the page"),
    Column("owner_tgid", Kind.ID, "its thread group"),
    Column("owner_comm", Kind.TEXT, "its name at that time"),
    Column("owner_ts_nsec", Kind.NSEC, "when the page was allocated"),
    Column("owner_order", Kind.ID, "order of the allocation"),
    Column("owner_gfp_mask", Kind.BITS, "gfp_mask it was allocated with"),
    Column("owner_gfp_flags", Kind.TEXT, "names of its bits"),
    Column("stack_id", Kind.ID, "stack depot handle of the allocation's call chain"),
)


def why_no_owner(kernel: Kernel) -> str | None:
    """Why pages of this kernel have no owners, in one sentence; None when they have."""
    layout = kernel.page_ext
    state = layout.client(PAGE_OWNER.name)
    if not layout.built:
        return "this kernel was built without page_ext (CONFIG_PAGE_EXTENSION)"
    if state is None:
        return "the plugin page_owner is switched off"
    if not state.built:
        return "this kernel was built without page_owner (CONFIG_PAGE_OWNER)"
    if state.unreadable:
        return "whether page_owner is on could not be read"
    if not state.enabled:
        return "page_owner was built in but is off: boot with page_owner=on"
    if not layout.enabled(PAGE_OWNER.name):
        return "page_owner is on, but page_ext's layout in this dump is garbage"
    return None


def on_every_page(members: Sequence[str]) -> bool:
    """Whether every page of an allocation has a record; before 5.4 only the first one had.

    :param members: Of the record. 5.4 also began to keep the records of freed pages, with who freed them.
    """
    return "free_handle" in members


def _allocated_flags(members: Sequence[str]) -> Sequence[str]:
    """The flags that a page has when its record tells of its present allocation."""
    # Since 5.4 PAGE_EXT_OWNER alone means that there is a record, if only of the past.
    return PAGE_OWNER.flags if on_every_page(members) else ("PAGE_EXT_OWNER",)


def members_of(kernel: Kernel) -> Sequence[str]:
    """The members that this kernel's record has, under the names of :data:`PAGE_OWNER`."""
    dtype = kernel.page_ext.dtype
    names = (dtype.names or ()) if dtype is not None else ()
    return dtype[PAGE_OWNER.name].names or () if dtype is not None and PAGE_OWNER.name in names else ()


def gfp_migratetype(mask: Masks) -> Masks:
    """``gfp_migratetype()`` (include/linux/gfp.h) of a mask, or of each of a column of masks.

    ``__GFP_MOVABLE`` and ``__GFP_RECLAIMABLE`` have been these two bits in every kernel with page_owner. With
    ``page_group_by_mobility_disabled`` the kernel says 0 instead.
    """
    return (mask & 0x18) >> 3


def groups_by_mobility(kernel: Kernel) -> bool:
    """Whether gfp masks say a migratetype: ``!page_group_by_mobility_disabled``, but on tiny machines."""
    disabled = find_object(kernel.target.prog, "page_group_by_mobility_disabled")
    try:
        return disabled is None or not disabled.value_()
    except FaultError:
        return True


@dataclass(frozen=True)
class Owners:
    """Reads the records of a range of pages. Plain data.

    :param max_order: Records of a larger order are garbage.
    :param handle_mask: The bits of a handle that name a stack.
    """

    gfp_names: FlagNames
    max_order: int
    handle_mask: int

    def allocated(self, pages: PageRange) -> Bools:
        """Pages that are allocated now and have a record, every page of a block. Read-only.

        Before 5.4 only the first page of each: see :func:`on_every_page`. Free blocks are stepped over, as
        ``read_page_owner()`` does: pages that lay on per-CPU lists when page_owner began look allocated to
        it, and keep that record in the free block that takes them back.
        """
        return pages.once("page_owner allocated", lambda: _allocated(self.recorded(pages), pages))

    def recorded(self, pages: PageRange) -> Bools:
        """Pages of which page_owner says that they are allocated, wherever they lie. Read-only."""
        return pages.once("page_owner recorded", lambda: _recorded(pages))

    def freed(self, pages: PageRange) -> Bools:
        """Pages that are free, or on their way there, and have a record of who freed them (5.4)."""
        assert pages.ext is not None
        record, flags = pages.ext["page_owner"], PAGE_OWNER.flags
        if not on_every_page(record.names):
            return np.zeros(len(pages), bool)
        freed = pages.ext.has_flag(flags[0]) & ~pages.ext.has_flag(*flags)
        return freed & (record["free_handle"] != 0) if freed.any() else freed

    def garbage(self, pages: PageRange, allocated: Bools) -> Bools:
        """Records that cannot be true: of an order that no allocation has."""
        assert pages.ext is not None
        return (
            allocated & (pages.ext["page_owner"]["order"] > self.max_order) if allocated.any() else allocated
        )

    def first_pages(self, pages: PageRange, allocated: Bools) -> Bools:
        """Of those, the first page of each allocation: what ``/sys/kernel/debug/page_owner`` lists."""
        assert pages.ext is not None
        if not allocated.any():
            return allocated
        order = np.minimum(pages.ext["page_owner"]["order"], 62).astype(np.int64)
        return allocated & ((pages.pfn & (np.left_shift(1, order) - 1)) == 0)

    def columns(self, pages: PageRange, rows: I64) -> dict[str, Struct]:
        """The records of some rows as they are, for :meth:`decode`; none when the range has no page_ext."""
        if pages.ext is None:
            return {}
        if not on_every_page(pages.ext["page_owner"].names):
            rows = pages.head_rows(at=rows)
        record = pages.ext["page_owner"].rows(rows)
        known = pages.ext.has_flag(*_allocated_flags(pages.ext["page_owner"].names), at=rows)
        known &= (record["handle"] != 0) & (record["order"] <= self.max_order)
        columns: dict[str, Struct] = {
            "owner_known": known,
            "stack_id": (record["handle"] & np.uint32(self.handle_mask)).astype(np.int64),
            "owner_order": record["order"].astype(np.int64),
            "owner_gfp_mask": record["gfp_mask"].astype(np.uint64),
        }
        for name, dtype in (("pid", np.int64), ("tgid", np.int64), ("ts_nsec", np.uint64)):
            if name in (record.dtype.names or ()):
                columns[f"owner_{name}"] = record[name].astype(dtype)
        if "comm" in (record.dtype.names or ()):
            words = np.ascontiguousarray(record["comm"]).view("<u8").reshape(-1, 2)
            columns["comm_low"], columns["comm_high"] = words[:, 0].copy(), words[:, 1].copy()
        return columns

    def pages_of_records(self, pages: PageRange, rows: I64) -> I64:
        """How many pages the record of each of these rows stands for: 1, or before 5.4 all of its block."""
        assert pages.ext is not None
        record = pages.ext["page_owner"]
        if on_every_page(record.names):
            return np.ones(len(rows), np.int64)
        return np.left_shift(1, record.at("order", rows).astype(np.int64))

    def decode(self, rows: pl.DataFrame) -> pl.DataFrame:
        """:data:`OWNER_COLUMNS` of rows that have :meth:`columns`; null where a page has no owner now.

        A member that this kernel's record lacks is null throughout.
        """
        frame = no_owners(len(rows))
        if "owner_known" not in rows.columns:
            return frame
        stored = rows.select(name for name in _OWNER_TYPES if name in rows.columns)
        frame = frame.with_columns(
            *stored.cast({name: _OWNER_TYPES[name] for name in stored.columns}),
            self.gfp_names.series(rows["owner_gfp_mask"]).alias("owner_gfp_flags"),
        )
        if "comm_low" in rows.columns:
            frame = frame.with_columns(comms_of(rows).alias("owner_comm"))
        known = rows["owner_known"]
        if known.all():
            return frame
        return frame.with_columns(
            pl.when(known).then(pl.col(name)).otherwise(None).alias(name) for name in frame.columns
        )


def _recorded(pages: PageRange) -> Bools:
    assert pages.ext is not None
    found = pages.ext.has_flag(*_allocated_flags(pages.ext["page_owner"].names))
    if found.any():
        found = found & (pages.ext["page_owner"]["handle"] != 0)
        found.setflags(write=False)
    return found


def _allocated(recorded: Bools, pages: PageRange) -> Bools:
    if not recorded.any():
        return recorded
    found = recorded & ~pages.in_free_block
    found.setflags(write=False)
    return found


def comms_of(rows: pl.DataFrame) -> pl.Series:
    """Task names of rows that have ``comm_low`` and ``comm_high``, each distinct one decoded once."""
    words = rows.select("comm_low", "comm_high")
    distinct = words.unique()
    names = pl.Series("comm", [c_text(*each) for each in distinct.iter_rows()], dtype=pl.String)
    table = distinct.with_columns(names)
    return words.join(table, on=["comm_low", "comm_high"], how="left", maintain_order="left")["comm"]


#: Types of :data:`OWNER_COLUMNS`.
_OWNER_TYPES: dict[str, pl.DataType] = {
    "owner_pid": pl.Int64(),
    "owner_tgid": pl.Int64(),
    "owner_comm": pl.String(),
    "owner_ts_nsec": pl.UInt64(),
    "owner_order": pl.Int64(),
    "owner_gfp_mask": pl.UInt64(),
    "owner_gfp_flags": pl.List(pl.String),
    "stack_id": pl.Int64(),
}


def no_owners(rows: int) -> pl.DataFrame:
    """As many rows of :data:`OWNER_COLUMNS` without a value, for kernels without page_owner."""
    return pl.DataFrame(schema=_OWNER_TYPES).clear(rows)


def read_owners(kernel: Kernel) -> Owners | None:
    """What reading the records of this kernel needs; None when it has none (see :func:`why_no_owner`)."""
    if why_no_owner(kernel) is not None:
        return None
    depot = kernel.stack_depot
    return Owners(
        gfp_names=kernel.gfp_names,
        max_order=_MAX_ORDER,
        handle_mask=depot.layout.mask if depot is not None else 0xFFFFFFFF,
    )
