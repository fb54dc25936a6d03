"""Where a kernel keeps what only large folios have, beyond what ``mmdump.kernel.page_layout`` knows of them.

Mirrors ``struct folio`` and the tail page members of ``struct page`` (include/linux/mm_types.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import TypeKind, offsetof, sizeof

from mmdump.kernel.layout import byteorder, find_type, member_dtype, member_type
from mmdump.kernel.page_layout import FolioField

if TYPE_CHECKING:
    from drgn import Program, Type

__all__ = ["ENTIRELY_MAPPED", "FOLIO_PAGES_MAPPED", "LargeLayout", "read_large_layout"]

#: ``_nr_pages_mapped`` while the whole is mapped (COMPOUND_MAPPED in 6.2), and its count of pages.
ENTIRELY_MAPPED = 0x800000
FOLIO_PAGES_MAPPED = ENTIRELY_MAPPED - 1


@dataclass(frozen=True)
class LargeLayout:
    """Fields of a large folio. Plain data.

    :param fields: By the kernel's newest name; ``_mm_id`` and ``_mm_id_mapcount`` with their slot appended.
    :param vmemmap: Address of the ``struct page`` of PFN 0.
    """

    fields: Mapping[str, FolioField]
    vmemmap: int

    def has(self, name: str) -> bool:
        """Whether this kernel has a field."""
        return name in self.fields


def read_large_layout(prog: Program, vmemmap: int) -> LargeLayout:
    """Find out where the fields are that this kernel has."""
    page, folio = prog.type("struct page"), find_type(prog, "struct folio")
    fields: dict[str, FolioField] = {}
    order = byteorder(prog)
    for name, places in _PLACES.items():
        for struct, number, path in places:
            home = folio if struct == "folio" else page
            found = member_type(home, path) if home is not None else None
            if home is None or found is None or name in fields:
                continue
            base = offsetof(home, path) + number * sizeof(page)
            for slot, element in enumerate(_elements(found)):
                each = f"{name}_{slot}" if len(_elements(found)) > 1 else name
                fields[each] = FolioField(base + slot * sizeof(element), member_dtype(element, order))
    return LargeLayout(fields, vmemmap)


def _elements(found: Type) -> list[Type]:
    """The elements of a short array member; of any other the member itself."""
    real = found.unaliased()
    if real.kind == TypeKind.ARRAY and real.length and real.length <= 2:
        return [real.type] * real.length
    return [found]


#: Field -> (structure, number of the page, member), newest first.
_PLACES: Mapping[str, tuple[tuple[str, int, str], ...]] = {
    # Pages mapped by PTEs, and whether the whole is: 6.2, where it was called a mapcount.
    "_nr_pages_mapped": (
        ("folio", 0, "_nr_pages_mapped"),
        ("folio", 0, "_subpages_mapcount"),
        ("page", 1, "subpages_mapcount"),
    ),
    # The link in the queue of folios to split. In struct page up to 6.1 or so, in its third.
    "_deferred_list_next": (
        ("folio", 0, "_deferred_list.next"),
        ("page", 2, "deferred_list.next"),
    ),
    "_deferred_list_prev": (
        ("folio", 0, "_deferred_list.prev"),
        ("page", 2, "deferred_list.prev"),
    ),
    # 6.15, with CONFIG_MM_ID: two address spaces that map it, and how often each does.
    "_mm_id": (("folio", 0, "_mm_id"),),
    "_mm_id_mapcount": (("folio", 0, "_mm_id_mapcount"),),
}
