"""Pages of equal contents merged into one (mm/ksm.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .callchains import calls
from .folio import MAPPING_KSM, FolioKind, Place, StableNode
from .references import get_refs

if TYPE_CHECKING:
    from .machine import Machine
    from .vma import Vma

__all__ = ["merge"]


def merge(machine: Machine, vma: Vma, slot: int, other: Vma, other_slot: int) -> int:
    """``try_to_merge_two_pages()``: map one small anonymous page at two places; writing will copy it.

    :return: Its PFN. A page that is one of KSM's already stays it.
    """
    pages, rmap = machine.pages, machine.rmap
    pfn, duplicate = vma.mapped(slot), other.mapped(other_slot)
    small = {rmap.order(pages.head(page)) == 0 and rmap.is_anon(page) for page in (pfn, duplicate)}
    if small != {True} or pfn == duplicate or rmap.kind(duplicate) is FolioKind.KSM:
        raise ValueError("only two small anonymous pages can be merged")
    if rmap.kind(pfn) is not FolioKind.KSM:
        # folio_set_stable_node()
        node = rmap.stable_node()
        node.items = [(place.vma, place.slot) for place in rmap.walk(pfn)]
        pages.mapping[pfn] = node.address | MAPPING_KSM
    found = rmap.objects[int(pages.mapping[pfn]) & ~MAPPING_KSM]
    assert isinstance(found, StableNode)
    with calls(machine, "replace_page", "try_to_merge_one_page", "ksm_do_scan", "ksm_scan_thread"):
        get_refs(machine, pfn, 1)
        other.zap_place(Place(other, other_slot, duplicate, 1))
        other.map_place(Place(other, other_slot, pfn, 1), pfn)
        found.items.append((other, other_slot))
    return pfn
