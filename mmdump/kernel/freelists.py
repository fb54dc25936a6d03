"""The buddy allocator's free lists as columns: which list each free block is on (kernel: mm/page_alloc.c).

A free block is linked into ``zone->free_area[order].free_list[migratetype]`` through its first page's
``lru``. The lists are not walked: the links of all blocks come with the page array, and the list that a
block is on is found for all blocks together, by pointer doubling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from drgn import offsetof, sizeof

from mmdump.kernel.arrays import I32, I64, U8, U64, Bools, Struct, quotients
from mmdump.kernel.layout import byteorder
from mmdump.kernel.zones import Zone, each_zone
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    import polars as pl
    from drgn import Program

    from mmdump.kernel.memmap import MemMap
    from mmdump.kernel.page import PageRange
    from mmdump.target import Reader

__all__ = ["NO_ORDER", "FreeLists", "ListHeads", "find_lists", "free_blocks", "read_list_heads"]

#: Stands for the order of a free block that the allocator does not have.
NO_ORDER = 255
#: The code of a link that leads neither to a page nor to a list head; see :meth:`ListHeads.codes`.
_NOWHERE = -1


@dataclass(frozen=True)
class ListHeads:
    """The heads of the free lists of all populated zones. Plain data.

    A list has a number: ``(zone * orders + order) * migratetypes + migratetype``, zone being the index into
    :attr:`zones`.

    :param zones: The zones whose lists these are.
    :param orders: Orders that the allocator has, from 0 on.
    :param migratetypes: Lists for each order.
    :param address: Of each head, by number of the list, uint64.
    :param next: First link, and :param prev: last link, as stored, uint64.
    :param nr_free: ``free_area.nr_free`` as stored, uint64 of shape (zones, orders).
    :param readable: Zones whose ``free_area`` was in the dump, of shape (zones,).
    :param memmap: The page array, for what links lead to.
    :param lru: Offset of ``lru`` in ``struct page``.
    """

    zones: tuple[Zone, ...]
    orders: int
    migratetypes: int
    address: U64
    next: U64
    prev: U64
    nr_free: U64
    readable: Bools
    memmap: MemMap
    lru: int

    def codes(self, links: U64) -> I64:
        """What links (addresses of a ``struct list_head``) lead to.

        :return: The PFN of a page; ``-2 - number`` of a list; or -1 where it is neither. int64.
        """
        if not len(links):
            return np.zeros(0, np.int64)
        offset = (links - np.uint64(self.memmap.vmemmap + self.lru & _MASK)).view(np.int64)
        pfn, rest = quotients(offset, self.memmap.page_size)
        codes = np.where((rest == 0) & self.memmap.valid(pfn), pfn, _NOWHERE)
        others = np.flatnonzero(codes == _NOWHERE)
        if len(others) and len(self.address):
            order = self._by_address
            wanted = links[others]
            row = np.minimum(np.searchsorted(self.address, wanted, sorter=order), len(order) - 1)
            found = order[row]
            codes[others] = np.where(self.address[found] == wanted, -2 - found, _NOWHERE)
        return codes

    def slots(self, node: I64, zone: I64) -> I64:
        """Index into :attr:`zones` of pages whose flags name a node and a zone index; -1 for none."""
        table = self._slots
        known = node < len(table)
        return np.where(known, table[np.where(known, node, 0), zone], -1)

    @cached_property
    def _by_address(self) -> I64:
        return np.argsort(self.address, kind="stable")

    @cached_property
    def _slots(self) -> I64:
        """Index of each zone, of shape (nodes, 256)."""
        table = np.full((max((each.node for each in self.zones), default=0) + 1, 256), -1, np.int64)
        for slot, each in enumerate(self.zones):
            table[each.node, each.index] = slot
        return table

    def order_of(self, lists: I32) -> I64:
        """The order of the blocks that belong on lists, by number."""
        return lists.astype(np.int64) // self.migratetypes % self.orders

    def zone_of(self, lists: I32) -> I64:
        """The zone that lists belong to, by number: an index into :attr:`zones`."""
        return lists.astype(np.int64) // (self.orders * self.migratetypes)


_MASK = (1 << 64) - 1


def read_list_heads(prog: Program, reader: Reader, memmap: MemMap) -> ListHeads:
    """Read the heads of all free lists.

    :raises LookupError: This kernel's ``struct zone`` or ``struct page`` has other members.
    """
    zone_type, area_type = prog.type("struct zone"), prog.type("struct free_area")
    areas = zone_type.member("free_area").type
    lists = area_type.member("free_list").type
    orders, migratetypes = areas.length or 0, lists.length or 0
    stride, at = sizeof(area_type), offsetof(area_type, "free_list")
    word = byteorder(prog) + "u8"
    zones, address, heads, counts, readable = [], [], [], [], []
    for zone, where in each_zone(prog):
        base = (where.address_ or 0) + offsetof(zone_type, "free_area")
        chunk = reader.read(base, orders * stride)
        seen = bool((chunk.status == ReadStatus.READ).all())
        zones.append(zone)
        readable.append(seen)
        words: Struct = np.zeros(orders * stride // 8, word) if not seen else chunk.data.view(word)
        rows = words.astype(np.uint64).reshape(orders, stride // 8)
        heads.append(rows[:, at // 8 : at // 8 + 2 * migratetypes].reshape(-1, 2))
        counts.append(rows[:, offsetof(area_type, "nr_free") // 8])
        offsets = at + stride * np.arange(orders)[:, None] + 16 * np.arange(migratetypes)
        address.append(np.uint64(base) + offsets.astype(np.uint64).reshape(-1))
    links = np.concatenate(heads) if heads else np.empty((0, 2), np.uint64)
    return ListHeads(
        tuple(zones),
        orders,
        migratetypes,
        np.concatenate(address) if address else np.empty(0, np.uint64),
        links[:, 0].copy(),
        links[:, 1].copy(),
        np.stack(counts) if counts else np.empty((0, orders), np.uint64),
        np.array(readable, bool),
        memmap,
        offsetof(prog.type("struct page"), "lru"),
    )


def free_blocks(pages: PageRange, heads: ListHeads) -> Mapping[str, Struct]:
    """The free blocks that begin in a range of pages, as columns for :func:`find_lists`.

    :return: ``pfn`` (int64), ``order`` (uint8, :data:`NO_ORDER` where garbage), ``zone`` (int16, index into
        the heads' zones, -1 for none), ``migratetype`` of the pageblock (uint8), ``reported`` (bool,
        PG_reported), and ``next`` and ``prev`` (int64, see :meth:`ListHeads.codes`).
    """
    return pages.once(("free_blocks", id(heads)), lambda: _free_blocks(pages, heads))


def _free_blocks(pages: PageRange, heads: ListHeads) -> Mapping[str, Struct]:
    rows = pages.buddies
    stored = pages.word_at("private", rows)
    order = np.where(stored < heads.orders, stored, NO_ORDER).astype(np.uint8)
    return {
        "pfn": rows + pages.start,
        "order": order,
        "zone": heads.slots(pages.node_of(rows), pages.zone_of(rows).astype(np.int64)).astype(np.int16),
        "migratetype": pages.migratetype_of(rows),
        "reported": pages.has_flag("PG_reported", at=rows),
        "next": heads.codes(pages.word_at("lru_next", rows)),
        "prev": heads.codes(pages.word_at("lru_prev", rows)),
    }


@dataclass(frozen=True)
class FreeLists:
    """Which list each free block is on, and what is wrong with the lists.

    Of each free block, in order of PFN:

    :param pfn: Its first PFN, int64.
    :param order: As its page says, uint8, :data:`NO_ORDER` where garbage.
    :param zone: As its page says, index into the heads' zones, int64, -1 for none.
    :param migratetype: Of its pageblock, uint8.
    :param reported: Whether PG_reported is set.
    :param list: Number of the list that it is on, int32; -1 where its links lead to none.
    :param broken: Whether a neighbour does not link back to it.

    Of the whole:

    :param heads: The heads of the lists.
    :param broken_heads: Lists whose first or last block does not link back to the head, by number.
    :param strangers: PFNs that links lead to, but that are no free blocks, int64.
    """

    heads: ListHeads
    pfn: I64
    order: U8
    zone: I64
    migratetype: U8
    reported: Bools
    list: I32
    broken: Bools
    broken_heads: Bools
    strangers: I64

    @property
    def misplaced(self) -> Bools:
        """Blocks that are on a list of another order or zone than their page says."""
        found = self.list >= 0
        return found & (
            (self.heads.order_of(self.list) != self.order) | (self.heads.zone_of(self.list) != self.zone)
        )

    @property
    def counts(self) -> I64:
        """Blocks on each list, of shape (zones, orders, migratetypes)."""
        heads = self.heads
        counts = np.bincount(self.list[self.list >= 0], minlength=len(heads.address))
        return counts.reshape(len(heads.zones), heads.orders, heads.migratetypes)

    @property
    def blocks(self) -> I64:
        """Free blocks by zone and order as their pages say, of shape (zones, orders); garbage is left out."""
        heads = self.heads
        good = (self.zone >= 0) & (self.order < heads.orders)
        key = self.zone[good] * heads.orders + self.order[good]
        return np.bincount(key, minlength=len(heads.zones) * heads.orders).reshape(-1, heads.orders)


def find_lists(heads: ListHeads, blocks: pl.DataFrame) -> FreeLists:
    """Find the list that every free block is on.

    :param blocks: The rows of :func:`free_blocks` of all ranges, in order of PFN.
    """
    pfn = blocks["pfn"].to_numpy()
    count, lists = len(pfn), len(heads.address)
    strangers: list[I64] = []

    def places(codes: I64) -> I64:
        """Rows of blocks; after them, list heads by number; after them, one place for whatever else."""
        found = np.full(len(codes), count + lists, np.int64)
        is_head, is_page = codes < _NOWHERE, codes >= 0
        found[is_head] = count + (-2 - codes[is_head])
        wanted = codes[is_page]
        row = np.searchsorted(pfn, wanted)
        known = (row < count) & (pfn[np.minimum(row, count - 1)] == wanted) if count else wanted < 0
        found[is_page] = np.where(known, row, count + lists)
        strangers.append(np.unique(wanted[~known]))
        return found

    # A zone that could not be read has heads of zeros; nothing is known of them.
    known = np.repeat(heads.readable, heads.orders * heads.migratetypes)
    after = np.concatenate((places(blocks["next"].to_numpy()), places(heads.codes(heads.next)), [-1]))
    before = np.concatenate((places(blocks["prev"].to_numpy()), places(heads.codes(heads.prev)), [-1]))
    own = np.arange(count + lists)
    broken = (before[after[:-1]] != own) | (after[before[:-1]] != own)
    unknown_head = np.concatenate((np.zeros(count, bool), ~known, [False]))
    broken &= ~(unknown_head[after[:-1]] | unknown_head[before[:-1]] | unknown_head[:-1])
    end = _ends(after[:count], count)
    lost = np.flatnonzero((end < count) | (end >= count + lists))
    if len(lost):
        # Behind a broken link: the way back may still lead to the head.
        end[lost] = _ends(before[:count], count)[lost]
    found = np.where((end >= count) & (end < count + lists), end - count, -1).astype(np.int32)
    return FreeLists(
        heads,
        pfn,
        blocks["order"].to_numpy(),
        blocks["zone"].to_numpy().astype(np.int64),
        blocks["migratetype"].to_numpy(),
        blocks["reported"].to_numpy(),
        found,
        broken[:count],
        broken[count:],
        np.unique(np.concatenate(strangers)),
    )


def _ends(links: I64, count: int) -> I64:
    """Where the chain of links that begins at each node ends: pointer doubling.

    Each round makes every link lead twice as far, so that the number of rounds is the logarithm of the
    longest chain's length; what has not come to an end then is in a cycle, or leads into one.

    :param links: For each node another node, or an end: a number that is not less than ``count``.
    :return: The end of each chain, -1 where it has none.
    """
    jump = links.copy()
    active = np.flatnonzero(jump < count)
    for _ in range(count.bit_length() + 1):
        if not len(active):
            break
        jump[active] = jump[jump[active]]
        active = active[jump[active] < count]
    jump[active] = -1
    return jump
