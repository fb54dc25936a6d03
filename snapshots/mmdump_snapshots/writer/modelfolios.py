"""A modelled machine's folios, with what they know beyond their first page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.model.pages import PageFlag, PageType
from mmdump_snapshots.writer.state import Folios

if TYPE_CHECKING:
    from mmdump_snapshots.model.machine import Machine

__all__ = ["folio_states"]


def folio_states(machine: Machine, start: int, stop: int) -> Folios:
    """The model's folios with their counts, whose heads are in [start, stop)."""
    pages = machine.pages
    head = np.uint32(PageFlag.HEAD)
    stop = min(stop, pages.count)
    heads = start + np.flatnonzero(pages.flags[start:stop] & head)
    known = machine.rmap.folios
    found = [known.get(int(pfn)) for pfn in heads]
    fields: dict[str, NDArray[np.int64]] = {}
    for name, values in _folio_columns(found).items():
        fields[name] = np.array(values, np.int64)
    flags = {
        name: np.array([folio is not None and getattr(folio, name) for folio in found], np.bool_)
        for name in ("double_map", "partially_mapped")
    }
    order = pages.order[heads].astype(np.uint8)
    hugetlb = pages.type[heads] == PageType.HUGETLB
    kernel = np.isin(pages.type[heads], [PageType.SLAB, PageType.TABLE])
    user = (pages.mapping[heads] != 0) | ((pages.flags[heads] & np.uint32(PageFlag.LRU)) != 0)
    return Folios(
        heads, order, {"hugetlb": hugetlb, "large_rmappable": user & ~hugetlb & ~kernel, **flags}, fields
    )


def _folio_columns(found: list[Any]) -> dict[str, list[int]]:
    """A folio's counters, each as a column; 0 where a compound page is no folio of the model's."""
    columns: dict[str, list[int]] = {}
    for name in ("entire_mapcount", "nr_pages_mapped", "large_mapcount", "pincount"):
        columns[name] = [0 if folio is None else getattr(folio, name) for folio in found]
    for slot in (0, 1):
        columns[f"mm_id_{slot}"] = [0 if folio is None else folio.mm_id[slot] for folio in found]
        columns[f"mm_id_mapcount_{slot}"] = [
            0 if folio is None else folio.mm_id_mapcount[slot] for folio in found
        ]
    # FOLIO_MM_IDS_SHARED_BITNUM: the top bit of both ids together.
    columns["mm_id_1"] = [
        word | 1 << 31 if folio is not None and folio.maybe_mapped_shared else word
        for word, folio in zip(columns["mm_id_1"], found, strict=True)
    ]
    return columns
