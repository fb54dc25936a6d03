"""How a kernel lays out ``struct page`` and ``struct folio``, found out once from its debug info.

Mirrors ``include/linux/mm_types.h`` and ``include/linux/page-flags.h``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from drgn import offsetof, sizeof

from mmdump.errors import UnsupportedError
from mmdump.kernel.layout import (
    byteorder,
    enumerators,
    find_type,
    has_member,
    member_dtype,
    member_type,
    struct_dtype,
)

if TYPE_CHECKING:
    from drgn import Program

__all__ = ["FolioField", "PageLayout", "read_page_layout"]


@dataclass(frozen=True)
class FolioField:
    """A scalar of struct folio (or of its first tail pages) that lies beyond its first page."""

    offset: int
    dtype: np.dtype[np.generic]


@dataclass(frozen=True)
class PageLayout:
    """How this kernel lays out ``struct page`` and ``struct folio``. Plain data.

    :param dtype: The members of ``struct page`` that are columns, at their offsets.
    :param folio: Scalars of ``struct folio`` beyond its first page, those that this kernel has.
    :param flags: Bit numbers by name, ``enum pageflags`` with its aliases.
    :param types: Page types by name: top bytes of ``page_type``, or, with ``types_base``, bits of it.
    :param vmemmap: Address of the ``struct page`` of PFN 0.
    :param max_buddy_order: The largest order the buddy allocator has.
    :param types_base: Where types are bits (4.18 to 6.11): what the rest of a ``page_type`` holds. 0 where
        the top byte is the type (6.12).
    :param types_below: A ``_mapcount`` below this is a page type.
    :param pins_from_order: The least order of a compound page that counts its FOLL_PIN pins exactly; -1 in
        kernels without FOLL_PIN (up to 5.6).
    :param head_is_mask: Whether tails hold a mask that makes their head's address of their own (7.1).
    :param fake_heads: Whether tails of optimised hugetlb pages may look like heads (5.18 to 7.0).
    :param hugetlb_dtor: The destructor that makes a folio hugetlb (up to 6.5); since 6.9 a page type does.
    """

    dtype: np.dtype[np.void]
    folio: Mapping[str, FolioField]
    flags: Mapping[str, int]
    types: Mapping[str, int]
    vmemmap: int
    page_shift: int
    max_buddy_order: int
    types_base: int = 0
    types_below: int = (0xFF << 24) - (1 << 32)
    pins_from_order: int = 1
    head_is_mask: bool = False
    fake_heads: bool = True
    hugetlb_dtor: int | None = None

    @cached_property
    def all_flags(self) -> int:
        """The mask of all page flags that have a name."""
        return self.mask(*(name for name in self.flags if name.startswith("PG_")))

    def mask(self, *names: str) -> int:
        """The mask of these page flags; a flag that this kernel does not have adds nothing."""
        bits = 0
        for name in names:
            if name in self.flags:
                bits |= 1 << self.flags[name]
        return bits


def read_page_layout(
    prog: Program, vmemmap: int, page_shift: int, vmcoreinfo: Mapping[str, str]
) -> PageLayout:
    """Find out how this kernel lays out its pages.

    :raises UnsupportedError: In a way that mmdump does not know.
    """
    page = prog.type("struct page")
    dtype = struct_dtype(
        prog,
        page,
        {
            "flags": ("flags",),  # a struct of one member since 6.18
            "compound_head": ("compound_info", "compound_head"),  # renamed in 7.1
            "mapping": ("mapping",),
            "private": ("private",),
            "_mapcount": ("_mapcount",),
            "_refcount": ("_refcount",),
            "index": ("__folio_index", "index"),  # renamed in 6.16
            "memcg_data": ("memcg_data",),
            "mem_cgroup": ("mem_cgroup",),  # up to 5.10: a pointer, and from 5.9 on one flag
            "lru_next": ("lru.next",),
            "lru_prev": ("lru.prev",),
        },
        optional=("index", "memcg_data", "mem_cgroup", "lru_next", "lru_prev"),  # memcg: with CONFIG_MEMCG
    )
    types, base, below = _page_types(prog, vmcoreinfo)
    folio, pins_from_order = _folio_fields(prog)
    zone = prog.type("struct zone")
    masks = has_member(page, "compound_info")
    destructors = enumerators(prog, "enum compound_dtor_id")
    return PageLayout(
        dtype=dtype,
        folio=folio,
        flags=enumerators(prog, "enum pageflags"),
        types=types,
        vmemmap=vmemmap,
        page_shift=page_shift,
        max_buddy_order=(zone.member("free_area").type.length or 11) - 1,
        types_base=base,
        types_below=below,
        pins_from_order=pins_from_order,
        # 7.1: with the hugetlb vmemmap optimisation, where sizeof(struct page) is a power of two.
        head_is_mask=masks
        and has_member(zone, "vmemmap_tails")
        and dtype.itemsize & (dtype.itemsize - 1) == 0,
        fake_heads=not masks,
        hugetlb_dtor=destructors.get("HUGETLB_PAGE_DTOR"),
    )


def _page_types(prog: Program, vmcoreinfo: Mapping[str, str]) -> tuple[dict[str, int], int, int]:
    """Page types by name, what else a ``page_type`` holds where they are bits, and below what one begins.

    :raises UnsupportedError: They have a form that mmdump does not know.
    """
    types = enumerators(prog, "enum pagetype")
    if "PGTY_buddy" in types:
        # 6.12: the top byte of page_type names one type.
        named = {name.removeprefix("PGTY_"): value for name, value in types.items()}
        return named, 0, (named["mapcount_underflow"] << 24) - (1 << 32)
    buddy = vmcoreinfo.get("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)")
    if types.get("PG_buddy") == _BUDDY_611 and buddy == str(~_BUDDY_611):
        # 6.11: still bits, but from the top, and clear of small numbers: an overflow of 65536 is no type.
        bits = {name.removeprefix("PG_"): value for name, value in types.items()}
        return bits, 0x80000000, -65536
    if buddy != str(~_BITS_511["buddy"]):
        raise UnsupportedError(
            "mmdump does not know this kernel's page types", "It reads those of Linux 4.18 and newer."
        )
    # 4.18 to 6.10: a type is a clear bit. They are macros up to 6.9; table and guard moved in 5.11, which
    # also gave struct page its memcg_data (before: mem_cgroup), and struct page_owner its pid.
    page = prog.type("struct page")
    if has_member(page, "memcg_data") or has_member(find_type(prog, "struct page_owner"), "pid"):
        return dict(_BITS_511), _BITS_BASE, _BITS_BELOW
    if has_member(page, "mem_cgroup") or find_type(prog, "struct page_owner") is not None:
        return dict(_BITS_418), _BITS_BASE, _BITS_BELOW
    return {name: _BITS_511[name] for name in ("buddy", "offline")}, _BITS_BASE, _BITS_BELOW


#: PG_buddy of 6.11.
_BUDDY_611 = 0x40000000
#: From 4.18 to 6.10: set in every page_type that is one, and the least _mapcount that is none.
_BITS_BASE, _BITS_BELOW = 0xF0000000, -128
#: include/linux/page-flags.h from 5.11 to 6.10; hugetlb came with 6.9, slab with 6.10.
_BITS_511 = {
    "buddy": 0x80,
    "offline": 0x100,
    "table": 0x200,
    "guard": 0x400,
    "hugetlb": 0x800,
    "slab": 0x1000,
}
#: From 4.18 to 5.10; 0x100 was balloon up to 5.0, and guard came with 5.3.
_BITS_418 = {"buddy": 0x80, "offline": 0x100, "kmemcg": 0x200, "table": 0x400, "guard": 0x800}


@dataclass(frozen=True)
class _Place:
    """Where a field of a large folio may be: members of struct folio, and of its second and third page."""

    folio: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    third: tuple[str, ...] = ()


#: Scalars of a large folio beyond its first page.
_FOLIO_FIELDS: Mapping[str, _Place] = {
    "_flags_1": _Place(("_flags_1",), ("flags",)),  # struct folio since 6.1; holds the order since 6.6
    "_folio_order": _Place(("_folio_order",), ("compound_order",)),  # up to 6.5
    "_folio_dtor": _Place(("_folio_dtor",), ("compound_dtor",)),  # up to 6.5
    "_large_mapcount": _Place(("_large_mapcount",)),  # 6.10
    # Mappings of the whole; renamed twice, and in struct page up to 6.2.
    "_entire_mapcount": _Place(("_entire_mapcount", "_compound_mapcount"), ("compound_mapcount",)),
    # How many pages are mapped by themselves, and a bit for mappings of the whole (6.2).
    "_nr_pages_mapped": _Place(("_nr_pages_mapped", "_subpages_mapcount"), ("subpages_mapcount",)),
    # In struct folio since 6.1; in the second page since 5.18; in the third, of orders above 1, since 5.7.
    "_pincount": _Place(("_pincount",), ("compound_pincount",), ("hpage_pinned_refcount",)),
}


def _folio_fields(prog: Program) -> tuple[dict[str, FolioField], int]:
    """The fields there are, and the least order of folios that count their pins (-1: none does)."""
    page = prog.type("struct page")
    order = byteorder(prog)
    fields: dict[str, FolioField] = {}
    pins_from_order = -1
    for name, place in _FOLIO_FIELDS.items():
        for struct, paths, number in (
            (find_type(prog, "struct folio"), place.folio, 0),
            (page, place.second, 1),
            (page, place.third, 2),
        ):
            for path in paths:
                found = member_type(struct, path) if struct is not None else None
                if struct is None or found is None or name in fields:
                    continue
                base = number * sizeof(page)
                fields[name] = FolioField(base + offsetof(struct, path), member_dtype(found, order))
                if name == "_pincount":
                    pins_from_order = 2 if number == 2 else 1
    if "_entire_mapcount" not in fields:
        raise UnsupportedError("mmdump does not know this kernel's compound pages")
    return fields, pins_from_order
