"""How a kernel lays out ``struct page`` and ``struct folio``, found out once from its debug info.

Mirrors ``include/linux/mm_types.h`` and ``include/linux/page-flags.h``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import offsetof, sizeof

from mmdump.errors import UnsupportedError
from mmdump.kernel.layout import (
    byteorder,
    enumerators,
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
    :param types: Page types by name: top bytes of ``page_type``, or with ``types_are_bits`` bits of it.
    :param vmemmap: Address of the ``struct page`` of PFN 0.
    :param max_buddy_order: The largest order the buddy allocator has.
    :param types_are_bits: Whether a page has a type when that bit of ``page_type`` is clear (4.18 to 6.10).
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
    types_are_bits: bool = False
    head_is_mask: bool = False
    fake_heads: bool = True
    hugetlb_dtor: int | None = None

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
            "memcg_data": ("memcg_data",),
        },
        optional=("memcg_data",),  # with CONFIG_MEMCG
    )
    types, types_are_bits = _page_types(prog, vmcoreinfo)
    zone = prog.type("struct zone")
    masks = has_member(page, "compound_info")
    destructors = enumerators(prog, "enum compound_dtor_id")
    return PageLayout(
        dtype=dtype,
        folio=_folio_fields(prog),
        flags=enumerators(prog, "enum pageflags"),
        types=types,
        vmemmap=vmemmap,
        page_shift=page_shift,
        max_buddy_order=(zone.member("free_area").type.length or 11) - 1,
        types_are_bits=types_are_bits,
        # 7.1: with the hugetlb vmemmap optimisation, where sizeof(struct page) is a power of two.
        head_is_mask=masks
        and has_member(zone, "vmemmap_tails")
        and dtype.itemsize & (dtype.itemsize - 1) == 0,
        fake_heads=not masks,
        hugetlb_dtor=destructors.get("HUGETLB_PAGE_DTOR"),
    )


def _page_types(prog: Program, vmcoreinfo: Mapping[str, str]) -> tuple[dict[str, int], bool]:
    """Page types by name, and whether they are bits.

    :raises UnsupportedError: They have a form that mmdump does not know.
    """
    types = enumerators(prog, "enum pagetype")
    if "PGTY_buddy" in types:
        # 6.12: the top byte of page_type names one type.
        return {name.removeprefix("PGTY_"): value for name, value in types.items()}, False
    buddy = vmcoreinfo.get("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)")
    if buddy == str(~_BITS_511["buddy"]) and has_member(prog.type("struct page"), "memcg_data"):
        # 4.18 to 6.10: a type is a clear bit. They are macros; table and guard moved in 5.11, which also
        # gave struct page its memcg_data.
        return dict(_BITS_511), True
    raise UnsupportedError(
        "mmdump does not know this kernel's page types",
        "It reads those of Linux 5.11 to 6.10, and of 6.12 and newer.",
    )


#: include/linux/page-flags.h from 5.11 to 6.10; hugetlb came with 6.9, slab with 6.10.
_BITS_511 = {
    "buddy": 0x80,
    "offline": 0x100,
    "table": 0x200,
    "guard": 0x400,
    "hugetlb": 0x800,
    "slab": 0x1000,
}

#: Scalars of struct folio beyond its first page -> member paths in struct folio, or in the first tail page.
_FOLIO_FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "_flags_1": (("_flags_1",), ()),  # holds the order since 6.6
    "_folio_order": (("_folio_order",), ("compound_order",)),  # up to 6.5
    "_folio_dtor": (("_folio_dtor",), ("compound_dtor",)),  # up to 6.5
    "_large_mapcount": (("_large_mapcount",), ()),  # 6.10
    # Mappings of the whole; renamed twice, and in struct page up to 6.2.
    "_entire_mapcount": (("_entire_mapcount", "_compound_mapcount"), ("compound_mapcount",)),
    "_pincount": (("_pincount",), ("compound_pincount",)),  # struct folio since 6.1
}


def _folio_fields(prog: Program) -> dict[str, FolioField]:
    folio, page = prog.type("struct folio"), prog.type("struct page")
    order = byteorder(prog)
    fields = {}
    for name, (in_folio, in_tail) in _FOLIO_FIELDS.items():
        for struct, paths, base in ((folio, in_folio, 0), (page, in_tail, sizeof(page))):
            for path in paths:
                found = member_type(struct, path)
                if found is not None and name not in fields:
                    fields[name] = FolioField(base + offsetof(struct, path), member_dtype(found, order))
    missing = {"_entire_mapcount", "_pincount"} - fields.keys()
    if missing or not {"_folio_order", "_flags_1"} & fields.keys():
        lacks = ", ".join(sorted(missing)) or "order"
        raise UnsupportedError(f"mmdump does not know this kernel's struct folio: it has no {lacks}")
    return fields
