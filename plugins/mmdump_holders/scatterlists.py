"""Scatterlists that nobody else knows: of drivers, RDMA regions, crypto (include/linux/scatterlist.h)."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Object

from mmdump.holders import Case, Counted, Holder, State
from mmdump.kernel.layout import find_type, has_member

__all__ = ["find_scatterlists"]

#: SG_CHAIN and SG_END.
_CHAIN, _END = 1, 2
#: Bytes of one entry that are believed.
_MAX_BYTES = 1 << 26


def find_scatterlists(case: Case) -> Iterator[Holder]:
    """Entries by their form alone: whether the list is in use, and holds pages, is not known."""
    struct = find_type(case.prog, "struct scatterlist")
    if struct is None or not has_member(struct, "page_link"):
        return
    step = struct.size or 32
    for hit in case.hits:
        place = hit.place
        if hit.form != "page" or hit.tag & ~_END or not place.start or (hit.address - place.start) % 8:
            continue
        try:
            if not _is_entry(case, hit.address) or not _has_neighbour(case, hit.address, step, hit.tag):
                continue
            entry = Object(case.prog, "struct scatterlist *", hit.address)
            what = f"an entry: {entry.length.value_()} bytes at offset {entry.offset.value_()}"
        except FaultError:
            continue
        yield Holder(hit, "scatterlist", State.POSSIBLE, what, place.name, place.start, counted=Counted.NONE)


def _is_entry(case: Case, address: int) -> bool:
    entry = Object(case.prog, "struct scatterlist *", address)
    offset, length = int(entry.offset.value_()), int(entry.length.value_())
    return 0 < length <= _MAX_BYTES and offset < case.kernel.target.page_size << 10


def _has_neighbour(case: Case, address: int, step: int, tag: int) -> bool:
    """Whether the entry is the last, or one follows, or a link to more of them."""
    if tag & _END:
        return True
    link = case.prog.read_u64(address + step)
    memmap = case.kernel.memmap
    if link & _CHAIN:
        return bool(link >> 63)
    inside = memmap.address(0) <= link & ~3 < memmap.address(memmap.end_pfn)
    return inside and _is_entry(case, address + step)
