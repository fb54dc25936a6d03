"""Numbers that stand for what is known of a page: what filters test and groups are made by, as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import I64, Bools, Struct
from mmdump_page_owner.kinds import kind_codes
from mmdump_page_owner.record import gfp_migratetype

if TYPE_CHECKING:
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.page_ext import ClientData

__all__ = ["CODES", "MEMBERS", "Facts", "Rows"]


@dataclass(frozen=True)
class Facts:
    """What codes are made with. Plain data.

    :param free: Whether the rows are freed pages, and the record's words those of the freeing.
    :param group_by_mobility: Whether gfp masks say a migratetype (``!page_group_by_mobility_disabled``).
    :param areas: First and last PFN of each CMA area, in order.
    :param cma: The number of MIGRATE_CMA; -1 where there is none.
    """

    free: bool = False
    group_by_mobility: bool = True
    areas: tuple[tuple[int, int], ...] = ()
    cma: int = -1


#: Codes that are members of the record -> the member when allocated, and when freed.
MEMBERS: Mapping[str, tuple[str, str]] = {
    "handle": ("handle", "free_handle"),
    "ts": ("ts_nsec", "free_ts_nsec"),
    "pid": ("pid", "free_pid"),
    "tgid": ("tgid", "free_tgid"),
    "comm": ("comm", "comm"),
}


@dataclass(frozen=True)
class Rows:
    """Some rows of a range of pages.

    :param rows: Row numbers, int64, ascending.
    """

    pages: PageRange
    rows: I64
    facts: Facts

    @cached_property
    def record(self) -> ClientData:
        """The records of all pages of the range."""
        assert self.pages.ext is not None
        return self.pages.ext["page_owner"]

    @cached_property
    def at(self) -> slice | I64:
        """What selects the rows of a column; a slice, which copies nothing, where they are neighbours."""
        rows = self.rows
        if len(rows) and int(rows[-1] - rows[0]) == len(rows) - 1:
            return slice(int(rows[0]), int(rows[-1]) + 1)
        return rows

    def code(self, name: str) -> Struct:
        """A column of :data:`CODES`, one value for each row."""
        return CODES[name](self)

    def column(self, name: str) -> Struct:
        """A member of the record, one value for each row."""
        at = self.at
        return self.record[name][at] if isinstance(at, slice) else self.record.at(name, at)

    def member(self, name: str) -> Struct:
        """The member of the record that the code of this name is."""
        return self.column(MEMBERS[name][self.facts.free])

    def only(self, keep: Bools) -> Rows:
        """Those rows for which ``keep`` is true."""
        return self if keep.all() else replace(self, rows=self.rows[keep])

    def comm(self) -> tuple[Struct, Struct]:
        """Task names as two words each, uint64; zeros in kernels that keep none."""
        if "comm" not in self.record.names:
            return np.zeros(len(self.rows), np.uint64), np.zeros(len(self.rows), np.uint64)
        words = np.ascontiguousarray(self.column("comm")).view("<u8").reshape(-1, 2)
        return words[:, 0], words[:, 1]


def _migratetype(rows: Rows) -> Struct:
    if not rows.facts.group_by_mobility:
        return np.zeros(len(rows.rows), np.uint8)
    return gfp_migratetype(rows.column("gfp_mask")).astype(np.uint8)


def _area(rows: Rows) -> Struct:
    pfn, found = rows.rows + rows.pages.start, np.full(len(rows.rows), -1, np.int64)
    for index, (first, last) in enumerate(rows.facts.areas):
        found[(pfn >= first) & (pfn <= last)] = index
    return found


def _memcg(rows: Rows) -> Struct:
    # Tails have none of their own.
    heads = rows.pages.head_pfn[rows.rows] - rows.pages.start
    return np.where(heads >= 0, rows.pages.memcg_data[np.maximum(heads, 0)], np.uint64(0))


#: Codes by name.
CODES: Mapping[str, Callable[[Rows], Struct]] = {
    "pfn": lambda rows: rows.rows + rows.pages.start,
    "ts": lambda rows: rows.member("ts").astype(np.uint64),
    "pid": lambda rows: rows.member("pid").astype(np.int64),
    "tgid": lambda rows: rows.member("tgid").astype(np.int64),
    "order": lambda rows: rows.column("order").astype(np.int64),
    "gfp_mask": lambda rows: rows.column("gfp_mask").astype(np.uint64),
    "migratetype": _migratetype,
    "block": lambda rows: rows.pages.migratetype_of(rows.rows),
    "zone": lambda rows: rows.pages.zone_of(rows.rows),
    "node": lambda rows: rows.pages.node_of(rows.rows),
    "kind": lambda rows: kind_codes(rows.pages, rows.rows, rows.facts.cma),
    "area": _area,
    "memcg_data": _memcg,
}
