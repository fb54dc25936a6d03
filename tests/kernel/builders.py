"""Memory of a Linux 6.12 kernel on x86-64, made by hand: page arrays, page_ext entries, Programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace

import drgn
import numpy as np
from hypothesis import strategies as st

from mmdump.kernel.memmap import Sections
from mmdump.kernel.page import PageRange
from mmdump.kernel.page_ext import ClientState, PageExtClient, PageExtLayout, PageExtRange
from mmdump.kernel.page_layout import FolioField, PageLayout
from mmdump.kernel.zones import ZoneBits
from mmdump.target import Reader, ReadStatus

PAGE_SIZE = 4096
VMEMMAP = 0xFFFFEA0000000000
PLATFORM = drgn.Platform(drgn.Architecture.X86_64)
#: Of struct page; the page array has 64 of them in a page.
STRUCT_PAGE = 64

#: enum pageflags of Linux 6.12, as far as it is used.
FLAGS = {
    "PG_locked": 0,
    "PG_referenced": 2,
    "PG_uptodate": 3,
    "PG_dirty": 4,
    "PG_lru": 5,
    "PG_head": 6,
    "PG_active": 8,
    "PG_owner_priv_1": 10,
    "PG_swapcache": 10,
    "PG_reserved": 13,
    "PG_private": 14,
    "PG_swapbacked": 17,
}
#: enum pagetype of Linux 6.12.
TYPES = {
    "buddy": 0xF0,
    "offline": 0xF1,
    "table": 0xF2,
    "guard": 0xF3,
    "hugetlb": 0xF4,
    "slab": 0xF5,
    "zsmalloc": 0xF6,
    "unaccepted": 0xF7,
    "mapcount_underflow": 0xFF,
}
PAGE = np.dtype(
    {
        # lru.next shares its word with compound_head.
        "names": [
            "flags",
            "compound_head",
            "mapping",
            "private",
            "_mapcount",
            "_refcount",
            "lru_next",
            "lru_prev",
        ],
        "formats": ["<u8", "<u8", "<u8", "<u8", "<i4", "<i4", "<u8", "<u8"],
        "offsets": [0, 8, 24, 40, 48, 52, 8, 16],
        "itemsize": STRUCT_PAGE,
    }
)
FOLIO = {
    "_flags_1": FolioField(64, np.dtype("<u8")),
    "_large_mapcount": FolioField(80, np.dtype("<i4")),
    "_entire_mapcount": FolioField(84, np.dtype("<i4")),
    "_nr_pages_mapped": FolioField(88, np.dtype("<i4")),
    "_pincount": FolioField(92, np.dtype("<i4")),
}
LAYOUT = PageLayout(PAGE, FOLIO, FLAGS, TYPES, VMEMMAP, 12, 10)
#: CONFIG_NODES_SHIFT=6, four zones.
ZONE_BITS = ZoneBits(zone_shift=56, zone_mask=3, node_shift=58, node_mask=63)

#: Values of page->mapping.
ANON = 0xFFFF888012345000 | 1
KSM = 0xFFFF888012345000 | 3
FILE = 0xFFFF888000ABC000
DRIVER_MOVABLE = 0xFFFFFFFFC0001000 | 2


def bits(*flags: str) -> int:
    """A page flags word."""
    return sum({1 << FLAGS[flag] for flag in flags})


def address(pfn: int) -> int:
    """Of a PFN's struct page."""
    return VMEMMAP + pfn * STRUCT_PAGE


class Memory:
    """A page array in the making. All pages begin as not mapped, without references: free, but in no list."""

    def __init__(self, count: int, start: int = 0, layout: PageLayout = LAYOUT) -> None:
        self.start = start
        self.layout = layout
        self.raw = np.zeros(count * STRUCT_PAGE, np.uint8)
        self.rows = self.raw.view(PAGE)
        self.rows["_mapcount"] = -1
        self.status = np.full(count, ReadStatus.READ, np.uint8)

    def set(self, row: int, **members: int) -> Memory:
        """Set members of one struct page."""
        for name, value in members.items():
            self.rows[name][row] = value
        return self

    def folio(self, row: int, name: str, value: int) -> Memory:
        """Set a member of struct folio that lies beyond its first page."""
        field = FOLIO[name]
        at = row * STRUCT_PAGE + field.offset
        self.raw[at : at + field.dtype.itemsize].view(field.dtype)[0] = value
        return self

    def small(self, row: int, *flags: str, refs: int = 1, maps: int = 0, mapping: int = 0) -> Memory:
        """A page of order 0."""
        word = refs & 0xFFFFFFFF
        signed = word - (1 << 32) if word >> 31 else word
        return self.set(row, flags=bits(*flags), _refcount=signed, _mapcount=maps - 1, mapping=mapping)

    def large(
        self, row: int, order: int, *flags: str, refs: int = 1, maps: int = 0, pins: int = 0, mapping: int = 0
    ) -> Memory:
        """A folio of an order: head and tails."""
        self.set(row, flags=bits("PG_head", *flags), _refcount=refs, mapping=mapping)
        for tail in range(row + 1, min(row + (1 << order), len(self.rows))):
            self.set(tail, compound_head=address(self.start + row) + 1, _refcount=0)
        self.folio(row, "_flags_1", order)
        self.folio(row, "_large_mapcount", maps - 1)
        return self.folio(row, "_pincount", pins)

    def typed(self, row: int, name: str, **members: int) -> Memory:
        """Give a page a type."""
        return self.set(row, _mapcount=(TYPES[name] << 24) - (1 << 32), **members)

    def buddy(self, row: int, order: int) -> Memory:
        """The first page of a free block."""
        return self.typed(row, "buddy", private=order)

    def pages(self, ext: PageExtRange | None = None, blocks: object = None) -> PageRange:
        """The range as it is read."""
        raw = self.raw.copy()
        raw.flags.writeable = False
        return PageRange(self.start, raw, self.status, self.layout, ZONE_BITS, blocks, ext)


# page_ext

OWNER_DTYPE = np.dtype(
    {
        "names": [
            "order",
            "gfp_mask",
            "handle",
            "free_handle",
            "ts_nsec",
            "free_ts_nsec",
            "comm",
            "pid",
            "tgid",
            "free_pid",
            "free_tgid",
        ],
        "formats": ["<u2", "<u4", "<u4", "<u4", "<u8", "<u8", "S16", "<i4", "<i4", "<i4", "<i4"],
        "offsets": [0, 4, 8, 12, 16, 24, 32, 48, 52, 56, 60],
        "itemsize": 64,
    }
)
EXT_FLAGS = {"PAGE_EXT_OWNER": 0, "PAGE_EXT_OWNER_ALLOCATED": 1, "PAGE_EXT_PINNER": 2}
OWNED = 3
MARKED = 4
STRIDE = 72
EXT_DTYPE = np.dtype(
    {
        "names": ["flags", "page_owner"],
        "formats": ["<u8", OWNER_DTYPE],
        "offsets": [0, 8],
        "itemsize": STRIDE,
    }
)


def client_state(name: str, *, enabled: bool = True, struct: str | None = None) -> ClientState:
    return ClientState(PageExtClient(name, f"{name}_ops", struct=struct), built=True, enabled=enabled)


EXT_LAYOUT = PageExtLayout(
    True,
    STRIDE,
    EXT_FLAGS,
    {
        "page_owner": client_state("page_owner", struct="struct page_owner"),
        "page_pinner": client_state("page_pinner"),
    },
    EXT_DTYPE,
)


class Ext:
    """page_ext entries in the making."""

    def __init__(self, count: int) -> None:
        self.rows = np.zeros(count, EXT_DTYPE)
        self.status = np.full(count, ReadStatus.READ, np.uint8)

    def own(self, row: int, *, order: int = 0, handle: int = 0x11, comm: bytes = b"dd", pid: int = 7) -> Ext:
        """Write a page's owner, into every page of the allocation."""
        for page in range(row, min(row + (1 << order), len(self.rows))):
            self.rows["flags"][page] |= OWNED
            record = self.rows["page_owner"]
            record["order"][page], record["handle"][page] = order, handle
            record["comm"][page], record["pid"][page], record["tgid"][page] = comm, pid, pid
            record["ts_nsec"][page], record["gfp_mask"][page] = 1000 + row, 0xCC0
        return self

    def free(self, row: int, *, order: int = 0, handle: int = 0x21, pid: int = 8, ts: int = 5000) -> Ext:
        """Write who freed a block, and that it is free; the owner's record stays."""
        for page in range(row, min(row + (1 << order), len(self.rows))):
            self.rows["flags"][page] &= ~np.uint64(2)
            record = self.rows["page_owner"]
            record["free_handle"][page], record["free_ts_nsec"][page] = handle, ts
            record["free_pid"][page], record["free_tgid"][page] = pid, pid
        return self

    def mark(self, *rows: int) -> Ext:
        """Mark pages as the page pinner does."""
        self.rows["flags"][list(rows)] |= MARKED
        return self

    def range(self) -> PageExtRange:
        """The entries as they are read."""
        return PageExtRange([self.rows.view(np.uint8).copy()], self.status, EXT_LAYOUT)


# Programs

_KINDS = {
    "struct ": drgn.TypeKind.STRUCT,
    "union ": drgn.TypeKind.UNION,
    "enum ": drgn.TypeKind.ENUM,
}


class Kernelish:
    """A Program with types, variables and memory of its own, without debug info.

    :ivar types: By full name, such as ``struct page``.
    :ivar objects: By name.
    :ivar symbols: Addresses by name.
    """

    def __init__(self, memory: Mapping[int, bytes] | None = None, holes: Iterable[int] = ()) -> None:
        self.prog = drgn.Program(PLATFORM)
        self.types: dict[str, drgn.Type] = {}
        self.objects: dict[str, drgn.Object] = {}
        self.symbols: dict[str, int] = {}
        self._holes = frozenset(holes)
        for at, data in (memory or {}).items():
            self.add(at, data)
        self.prog.register_type_finder("test", self._type, enable_index=0)
        self.prog.register_object_finder("test", self._object, enable_index=0)
        self.prog.register_symbol_finder("test", self._symbol, enable_index=0)
        self.reader = Reader(self.prog, PAGE_SIZE)

    def add(self, at: int, data: bytes) -> None:
        """Add memory; reads that touch a page in ``holes`` (addresses of pages) fault."""

        def read(where: int, count: int, offset: int, _physical: bool) -> bytes:
            first, last = where // PAGE_SIZE, (where + count - 1) // PAGE_SIZE
            if any(page * PAGE_SIZE in self._holes for page in range(first, last + 1)):
                raise drgn.FaultError("not in the dump", where)
            return data[offset : offset + count]

        self.prog.add_memory_segment(at, len(data), read)

    @property
    def target(self) -> SimpleNamespace:
        """What is used of a Target."""
        return SimpleNamespace(
            prog=self.prog, reader=self.reader, page_shift=12, page_size=PAGE_SIZE, vmcoreinfo={}, dump=None
        )

    def _type(
        self, _prog: drgn.Program, kinds: drgn.TypeKindSet, name: str, _file: str | None
    ) -> drgn.Type | None:
        for prefix, kind in _KINDS.items():
            if kind in kinds and prefix + name in self.types:
                return self.types[prefix + name]
        found = self.types.get(name)
        return found if found is not None and found.kind in kinds else None

    def _object(
        self, _prog: drgn.Program, name: str, _flags: drgn.FindObjectFlags, _file: str | None
    ) -> drgn.Object | None:
        return self.objects.get(name)

    def _symbol(self, _prog: drgn.Program, name: str | None, at: int | None, _one: bool) -> list[drgn.Symbol]:
        return [
            drgn.Symbol(each, where, 1, drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.OBJECT)
            for each, where in self.symbols.items()
            if name in (None, each) and at in (None, where)
        ]

    # Types and variables

    def integer(self, size: int, *, signed: bool = False, name: str | None = None) -> drgn.Type:
        if size == 1:
            return self.prog.int_type(name or "char", 1, True)
        return self.prog.int_type(name or f"{'s' if signed else 'u'}{size * 8}", size, signed)

    def struct(self, tag: str, size: int, members: Mapping[str, tuple[drgn.Type, int]]) -> drgn.Type:
        """A structure of members at byte offsets."""
        made = self.prog.struct_type(
            tag,
            size,
            [drgn.TypeMember(kind, name, at * 8) for name, (kind, at) in members.items()],
        )
        self.types[f"struct {tag}"] = made
        return made

    def enum(self, tag: str, values: Mapping[str, int]) -> drgn.Type:
        made = self.prog.enum_type(
            tag,
            self.integer(4),
            [drgn.TypeEnumerator(name, value) for name, value in values.items()],
        )
        self.types[f"enum {tag}"] = made
        return made

    def variable(self, name: str, kind: drgn.Type, at: int) -> None:
        self.objects[name] = drgn.Object(self.prog, kind, address=at)

    def constant(self, name: str, value: int, size: int = 8) -> None:
        self.objects[name] = drgn.Object(self.prog, self.integer(size), value=value)


def sections(pages: int, *numbers: int, page_ext: object = 0, bitmap: object = 0) -> Sections:
    """Memory sections of so many pages."""
    count = len(numbers)
    return Sections(
        np.array(numbers, np.int64),
        np.full(count, 0, np.uint64) + np.array(page_ext, np.uint64),
        np.full(count, 0, np.uint64) + np.array(bitmap, np.uint64),
        pages,
    )


# Hostile memory

_WORDS = st.one_of(
    st.sampled_from([0, 1, 2, 3, ANON, KSM, FILE, DRIVER_MOVABLE, bits("PG_head"), (1 << 64) - 1, 1 << 63]),
    st.integers(0, (1 << 64) - 1),
    st.integers(-3, 300).map(lambda pfn: (address(pfn) + 1) & ((1 << 64) - 1)),
)
_COUNTS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 1024, -(1 << 31), (1 << 31) - 1, -(1 << 30)]),
    st.sampled_from(sorted(TYPES.values())).map(lambda top: (top << 24) - (1 << 32)),
    st.integers(-(1 << 31), (1 << 31) - 1),
)


@st.composite
def hostile_memory(draw: st.DrawFn) -> Memory:
    """Pages of a damaged or malicious dump: random bytes, or members that are each plausible or not."""
    count = draw(st.integers(1, 140))
    start = draw(st.sampled_from([0, 1, 64, 65536, (1 << 34) + 64, (1 << 52) - 256]))
    vmemmap = draw(st.sampled_from([VMEMMAP, VMEMMAP, 0, 1, (1 << 64) - 64]))
    layout = PageLayout(PAGE, FOLIO, FLAGS, TYPES, vmemmap, 12, 10)
    memory = Memory(count, start, layout)
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    if draw(st.booleans()):
        memory.raw[:] = generator.integers(0, 256, len(memory.raw), np.uint8)
    for name in PAGE.names:
        words = draw(st.lists(_COUNTS if name.startswith("_") else _WORDS, min_size=1, max_size=8))
        chosen = generator.integers(0, len(words), count)
        some = generator.random(count) < draw(st.sampled_from([0.0, 0.5, 1.0]))
        column = np.array(words, memory.rows[name].dtype)[chosen]
        memory.rows[name][some] = column[some]
    if draw(st.booleans()):
        memory.status[:] = generator.choice(np.array([0, 0, 0, 1, 2, 3], np.uint8), count)
    return memory
