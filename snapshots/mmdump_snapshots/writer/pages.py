"""``struct page`` and ``struct folio`` in bulk, as one kernel lays them out (include/linux/mm_types.h).

Where a kernel keeps something is asked of the profile's types: of several homes that a fact had over the
releases, the one that exists is written. What no type says, such as page types before 6.10, goes by release.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.writer.links import LIST_POISON, LinkTable
from mmdump_snapshots.writer.state import CHUNK, Folios, PageColumns, State
from mmdump_snapshots.writer.tags import tag_ids

if TYPE_CHECKING:
    from mmdump_snapshots.kernels import Profile, Types

__all__ = ["PageFields", "PageWriter", "field_dtype", "page_types"]

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

_WORD = 0xFFFFFFFF

#: Page types as bits of ``page_type`` that are clear, base 0xf0000000 (4.18 to 6.10); macros until 6.10.
#: table and guard moved in 5.11, when kmemcg, which was 0x200, went.
_TYPE_BITS_511 = {"buddy": 0x80, "offline": 0x100, "table": 0x200, "guard": 0x400}
_TYPE_BITS_53 = {"buddy": 0x80, "offline": 0x100, "table": 0x400, "guard": 0x800}
_TYPE_BITS_419 = {"buddy": 0x80, "table": 0x400}

#: A folio's field -> the members it had over the releases: (structure, member, tail page it is in for members
#: of struct page), newest first; and its bias.
_HOMES: dict[str, tuple[tuple[tuple[str, str, int], ...], int]] = {
    "entire_mapcount": (
        (
            ("struct folio", "_entire_mapcount.counter", 0),
            ("struct folio", "_compound_mapcount.counter", 0),  # 6.2
            ("struct page", "compound_mapcount.counter", 1),  # up to 6.2
        ),
        -1,
    ),
    "nr_pages_mapped": (
        (
            ("struct folio", "_nr_pages_mapped.counter", 0),  # 6.3
            ("struct folio", "_subpages_mapcount.counter", 0),  # 6.2
            ("struct page", "subpages_mapcount.counter", 1),
        ),
        0,
    ),
    "large_mapcount": ((("struct folio", "_large_mapcount.counter", 0),), -1),  # 6.10
    "pincount": (
        (
            ("struct folio", "_pincount.counter", 0),  # 6.1
            ("struct page", "compound_pincount.counter", 1),  # 5.18 to 6.2
            ("struct page", "hpage_pinned_refcount.counter", 2),  # 5.7 to 5.17
        ),
        0,
    ),
    "mm_id_0": ((("struct folio", "_mm_id[0]", 0),), 0),  # 6.15
    "mm_id_1": ((("struct folio", "_mm_id[1]", 0),), 0),
    "mm_id_mapcount_0": ((("struct folio", "_mm_id_mapcount[0]", 0),), -1),
    "mm_id_mapcount_1": ((("struct folio", "_mm_id_mapcount[1]", 0),), -1),
}

#: Where the number of pages is kept beside the order.
_NR_PAGES = (
    ("struct folio", "_nr_pages", 0),  # 6.15
    ("struct folio", "_folio_nr_pages", 0),  # 6.1
    ("struct page", "compound_nr", 1),  # 5.9 to 6.2
)
#: enum compound_dtor_id, up to 6.5.
_DTOR_COMPOUND, _DTOR_HUGETLB, _DTOR_TRANSHUGE = 1, 2, 3


def field_dtype(types: Types, struct: str, path: str) -> tuple[int, np.dtype[Any]]:
    """Where a scalar member is, and its little-endian dtype.

    :return: Byte offset and dtype.
    """
    member = types.member(struct, path)
    kind = "i" if member.type.bare.signed else "u"
    return member.offset, np.dtype(f"<{kind}{member.type.size}")


def page_types(profile: Profile) -> dict[str, int]:
    """What ``_mapcount`` holds for each page type of a kernel, as uint32."""
    types: Types = profile.types
    declared = types.enumerators("enum pagetype") if "enum pagetype" in types else {}
    if "PGTY_buddy" in declared:
        # 6.12: the top byte names the type.
        return {name.removeprefix("PGTY_"): value << 24 for name, value in declared.items() if value <= 0xFF}
    if profile.version >= (5, 11):
        bits = dict(_TYPE_BITS_511)
        if profile.version >= (6, 9):
            bits["hugetlb"] = 0x800
    else:
        bits = _TYPE_BITS_53 if profile.version >= (5, 3) else _TYPE_BITS_419
    return {name: _WORD & ~bit for name, bit in bits.items()}


class PageFields:
    """Where a kernel keeps zone and node in ``page->flags`` (include/linux/page-flags-layout.h).

    From the top: node, zone (the section is not stored with a virtual memory map), and with
    CONFIG_NUMA_BALANCING the CPU and task that touched the page last, which nobody did (all ones).
    """

    def __init__(self, profile: Profile, node_count: int) -> None:
        zones = profile.types.enumerators("enum zone_type")["__MAX_NR_ZONES"]
        self.nodes_width = (node_count - 1).bit_length()
        self.zones_width = (zones - 1).bit_length()
        self.nodes_shift = 64 - self.nodes_width
        self.zones_shift = self.nodes_shift - self.zones_width
        last = 0
        if profile.has("CONFIG_NUMA_BALANCING"):
            last = 8 + (profile.number("CONFIG_NR_CPUS") - 1).bit_length()
        self._lastcpupid = np.uint64(((1 << last) - 1) << (self.zones_shift - last))

    def words(self, zone: U64, node: U64) -> U64:
        """The upper bits of the flags words."""
        words = zone << np.uint64(self.zones_shift) | self._lastcpupid
        return words if not self.nodes_width else words | node << np.uint64(self.nodes_shift)


class PageWriter:
    """Lays out the page array.

    :param vmemmap: Address of the ``struct page`` of PFN 0.
    :param fields: Where zone and node are.
    :param zones: Zone names of the source, in its order -> ``enum zone_type``.
    """

    def __init__(
        self, profile: Profile, state: State, vmemmap: int, fields: PageFields, zones: dict[str, int]
    ) -> None:
        types = self._types = profile.types
        self._state = state
        self._vmemmap = np.uint64(vmemmap)
        self._fields = fields
        self.size = types.sizeof("struct page")
        self.links = LinkTable(vmemmap, self.size, types.member("struct page", "lru").offset)
        #: The links of queues to split: in the third page of a folio, as struct page or struct folio has it.
        places = (("struct folio", "_deferred_list.next", 0), ("struct page", "deferred_list.next", 2))
        link = self._home(places)
        self.deferred = None if link is None else LinkTable(vmemmap, self.size, link[0])
        self._zone_of = np.array([zones.get(name, 0) for name in state.zone_names], np.uint64)
        self._flag_bits = types.enumerators("enum pageflags")
        self._flags = [
            (np.uint64(1 << bit), np.uint64(1 << self._flag_bits[f"PG_{name}"]))
            for bit, name in enumerate(state.page_flags)
            if f"PG_{name}" in self._flag_bits
        ]
        known = page_types(profile)
        self._type_words = np.array([known.get(name, _WORD) for name in state.page_types], np.uint32)
        self._typed = np.array([name in known for name in state.page_types])
        # Slab was a flag until 6.10.
        self._slab_flag = np.zeros(len(state.page_types), np.uint64)
        if "slab" not in known and "PG_slab" in self._flag_bits and "slab" in state.page_types:
            self._slab_flag[list(state.page_types).index("slab")] = 1 << self._flag_bits["PG_slab"]
        #: Words of single pages that are something else there: PFN -> (offset, bytes).
        self.overlays: dict[int, list[tuple[int, bytes]]] = {}
        self._tag_ids = tag_ids(profile, state)
        self._columns = {
            name: (offset, dtype)
            for name, paths in {
                "flags": ("flags.f", "flags"),  # memdesc_flags_t since 6.18
                "_mapcount": ("_mapcount.counter",),
                "_refcount": ("_refcount.counter",),
                "compound_head": ("compound_info", "compound_head"),  # renamed in 7.1
                "next": ("lru.next",),
                "prev": ("lru.prev",),
                "mapping": ("mapping",),
                "index": ("__folio_index", "index"),  # renamed in 6.16
                "private": ("private",),
                "memcg_data": ("memcg_data", "mem_cgroup"),  # renamed in 5.11
            }.items()
            for offset, dtype in [self._first("struct page", paths)]
            if dtype is not None
        }
        self._mask_heads = (
            types.has("struct page", "compound_info")
            and types.has("struct zone", "vmemmap_tails")
            and self.size & (self.size - 1) == 0
        )
        self._homes = {name: (self._home(homes), bias) for name, (homes, bias) in _HOMES.items()}
        self._nr_pages = self._home(_NR_PAGES)
        self._order = self._home(
            (("struct folio", "_folio_order", 0), ("struct page", "compound_order", 1))  # up to 6.5, to 6.2
        )
        self._dtor = self._home((("struct folio", "_folio_dtor", 0), ("struct page", "compound_dtor", 1)))
        # Only folios of orders above 1 have a second tail to count pins in.
        self._pins_above_order_1 = types.has("struct page", "hpage_pinned_refcount")

    def _first(self, struct: str, paths: tuple[str, ...]) -> tuple[int, np.dtype[Any] | None]:
        for path in paths:
            if self._types.has(struct, path):
                return field_dtype(self._types, struct, path)
        return 0, None

    def _home(self, homes: tuple[tuple[str, str, int], ...]) -> tuple[int, np.dtype[Any]] | None:
        """Offset from the head's struct page and dtype of the first of these members that exists."""
        for struct, path, page in homes:
            if self._types.has(struct, path):
                offset, dtype = field_dtype(self._types, struct, path)
                return page * self.size + offset, dtype
        return None

    def chunk(self, start: int, stop: int) -> U8:
        """The page array of [start, stop), which lie in one chunk of :data:`~.state.CHUNK` pages.

        :return: Bytes, uint8 of shape ((stop - start) * sizeof(struct page),).
        """
        assert start // CHUNK == (stop - 1) // CHUNK
        pages = self._state.pages(start, stop)
        raw = np.zeros(len(pages) * self.size, np.uint8)
        self._put(raw, "flags", self._flag_words(pages))
        self._put(raw, "_refcount", pages.refcount)
        words = self._type_words[pages.type]
        if pages.type_data is not None:
            words = words | pages.type_data
        typed = self._typed[pages.type]
        words = np.where(typed, words, (pages.mapcount - 1).view(np.uint32))
        self._put(raw, "_mapcount", words.view(np.int32))
        links = self._links(pages)
        self._put(raw, "next", links[:, 0])
        self._put(raw, "prev", links[:, 1])
        self._put(raw, "mapping", pages.mapping)
        self._put(raw, "index", pages.index)
        self._put(raw, "private", pages.private)
        if pages.memcg_data is not None and "memcg_data" in self._columns:
            self._put(raw, "memcg_data", pages.memcg_data)
        self._tails(raw, pages)
        self._folios(raw, start, self._state.folios(start, stop))
        for pfn, parts in self.overlays.items():
            for offset, data in parts if start <= pfn < stop else ():
                at = (pfn - start) * self.size + offset
                raw[at : at + len(data)] = np.frombuffer(data, np.uint8)
        return raw

    def _flag_words(self, pages: PageColumns) -> U64:
        words = self._fields.words(self._zone_of[pages.zone], pages.node.astype(np.uint64))
        for theirs, ours in self._flags:
            found = (pages.flags & theirs) != 0
            if found.any():
                words |= np.where(found, ours, np.uint64(0))
        if self._slab_flag.any():
            words |= self._slab_flag[pages.type]
        if self._tag_ids is not None:
            refs = self._state.tag_refs(pages.start, pages.start + len(pages))
            if refs is not None:
                words |= self._tag_ids[refs]
        return words

    def flag_word(self, pfn: int, flags: int) -> int:
        """The flags word of a page with these flags, as in :attr:`PageColumns.flags`, in its zone."""
        page = replace(self._state.pages(pfn, pfn + 1), flags=np.array([flags], np.uint64))
        return int(self._flag_words(replace(page, type=np.zeros(1, np.uint8)))[0])

    def _links(self, pages: PageColumns) -> U64:
        """The words of ``lru``: what list_del() left there, and links where a page is on a list."""
        if pages.links is not None:
            links = pages.links.copy()
        else:
            links = np.empty((len(pages), 2), np.uint64)
            links[:] = LIST_POISON
        self.links.put(pages.start, pages.start + len(pages), links)
        return links

    def _put(self, raw: U8, name: str, values: NDArray[Any]) -> None:
        offset, dtype = self._columns[name]
        self._view(raw, offset, dtype)[:] = values.astype(dtype, copy=False)

    def _view(self, raw: U8, offset: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A member of every page; of a later page than the row's with an offset beyond the first."""
        count = len(raw) // self.size - offset // self.size
        return np.ndarray((max(count, 0),), dtype, raw.data, offset, (self.size,))

    def _tails(self, raw: U8, pages: PageColumns) -> None:
        """Point tails at their head, ``set_compound_head()``."""
        rows = np.flatnonzero(pages.tail)
        if not len(rows):
            return
        if self._mask_heads:
            # 7.1: what is left of a tail's address under this mask is its head's.
            shift = pages.head_order[rows].astype(np.uint64) + np.uint64(self.size.bit_length() - 1)
            info = np.left_shift(np.uint64(0xFFFFFFFFFFFFFFFF), shift)
        else:
            head = (pages.start + rows - pages.tail[rows].astype(np.int64)).astype(np.uint64)
            info = self._vmemmap + head * np.uint64(self.size)
        offset, dtype = self._columns["compound_head"]
        self._view(raw, offset, dtype)[rows] = info | np.uint64(1)

    def _folios(self, raw: U8, start: int, folios: Folios) -> None:
        """What a folio keeps beyond its first page, ``prep_compound_head()`` and what came after."""
        rows = folios.pfn - start
        if not len(rows):
            return
        count = np.left_shift(1, folios.order.astype(np.int64))
        for name, (home, bias) in self._homes.items():
            if home is None:
                continue
            values = folios.fields.get(name, np.zeros(len(rows), np.int64)) + bias
            wanted = count * self.size > home[0]
            if name == "pincount" and self._pins_above_order_1:
                wanted &= folios.order > 1
            self._fill(raw, home, rows[wanted], values[wanted])
        if self._nr_pages is not None:
            self._fill(raw, self._nr_pages, rows, count)
        if self._order is not None:
            self._fill(raw, self._order, rows, folios.order)
        if self._dtor is not None:
            nothing = np.zeros(len(rows), np.bool_)
            kind = np.where(folios.flags.get("large_rmappable", nothing), _DTOR_TRANSHUGE, _DTOR_COMPOUND)
            kind = np.where(folios.flags.get("hugetlb", nothing), _DTOR_HUGETLB, kind)
            self._fill(raw, self._dtor, rows, kind)
        self._first_tail_flags(raw, rows, folios)
        queued = folios.flags.get("large_rmappable", np.zeros(len(rows), np.bool_)) & (folios.order > 1)
        if self.deferred is not None and self.deferred.used:
            self._queue_links(raw, start, rows[queued])

    def _queue_links(self, raw: U8, start: int, rows: NDArray[np.int64]) -> None:
        """``_deferred_list``: a link to itself, or to its neighbours on the queue."""
        assert self.deferred is not None
        links = np.zeros((len(raw) // self.size, 2), np.uint64)
        links[rows] = self.deferred.address(start + rows)[:, None]
        self.deferred.put(start, start + len(links), links)
        for word in (0, 1):
            home = (self.deferred.offset + 8 * word, np.dtype("<u8"))
            self._fill(raw, home, rows, links[rows, word])

    def _first_tail_flags(self, raw: U8, rows: NDArray[np.int64], folios: Folios) -> None:
        """The flags word of the first tail: ``_flags_1`` since 6.1."""
        offset, dtype = self._columns["flags"]
        flags = self._view(raw, self.size + offset, dtype)
        words = flags[rows].astype(np.uint64)
        if self._order is None:
            # 6.6: the order is in the low byte.
            words = (words & ~np.uint64(0xFF)) | folios.order.astype(np.uint64)
        for name, wanted in folios.flags.items():
            # PG_hugetlb was one from 6.6 to 6.8, a page type since; PG_double_map up to 6.1.
            if f"PG_{name}" in self._flag_bits:
                words |= wanted.astype(np.uint64) << np.uint64(self._flag_bits[f"PG_{name}"])
        flags[rows] = words

    def _fill(
        self,
        raw: U8,
        home: tuple[int, np.dtype[Any]],
        rows: NDArray[np.int64],
        values: NDArray[Any],
    ) -> None:
        self._view(raw, *home)[rows] = values.astype(home[1])
