"""Holders that a page's own counts tell of already: page cache, swap cache, buffers, per-CPU batches.

They are named so that nobody takes them for something else.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from drgn import FaultError, Object, container_of, offsetof

from mmdump.holders import Case, Counted, Hit, Holder, State
from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import c_string, find_object, find_type, has_member

__all__ = ["find_batches", "find_buffer_heads", "find_page_cache"]

#: Per-CPU variables that are batches of folios, or hold some (mm/swap.c, mm/mlock.c).
_BATCHES = ("cpu_fbatches", "lru_", "activate_page_pvecs", "mlock_fbatch", "mlock_pvec")


def find_page_cache(case: Case) -> Iterator[Holder]:
    """The slot of an xarray's node, or the root of a file's xarray, that leads to the page."""
    prog = case.prog
    node, space = find_type(prog, "struct xa_node"), find_type(prog, "struct address_space")
    if node is None or space is None or not has_member(space, "i_pages"):
        return
    slots, root = offsetof(node, "slots"), offsetof(space, "i_pages.xa_head")
    for hit in case.hits:
        if hit.form != "page" or hit.tag or hit.place.kind != "slab":
            continue
        try:
            if hit.place.name == "radix_tree_node":
                slot = hit.address - hit.place.start - slots
                if slot < 0:
                    continue
                array = Object(prog, "struct xa_node *", hit.place.start).array.read_()
                mapping = container_of(array, space, "i_pages") if array else None
                what = f"slot {slot // 8} of a node"
            else:
                mapping = Object(prog, prog.pointer_type(space), hit.address - root)
                what = "its only page"
            holder = _cached(case, hit, mapping, what) if mapping is not None else None
        except (FaultError, LookupError, AttributeError):
            continue
        if holder is not None:
            yield holder


def _cached(case: Case, hit: Hit, mapping: Object, what: str) -> Holder | None:
    """The page cache's reference, where the page says too that this is its mapping."""
    page = Object(case.prog, "struct page *", case.kernel.memmap.address(hit.folio))
    own = page.mapping.value_()
    if own == mapping.value_():
        name = _file(mapping)
        return Holder(hit, "page cache", State.LIVE, what, name, own, (), 1, Counted.CACHE)
    swap = find_object(case.prog, "swap_aops")
    if swap is not None and mapping.a_ops.value_() == swap.address_:
        return Holder(hit, "swap cache", State.LIVE, what, "", mapping.value_(), (), 1, Counted.CACHE)
    return None


def _file(mapping: Object) -> str:
    """The file's name and where it lives, as far as they are known."""
    inode = mapping.host.read_()
    if not inode:
        return ""
    block = inode.i_sb
    where = f"{c_string(block.s_type.name)} {printable(block.s_id.string_()[:32])}"
    text = f"inode {inode.i_ino.value_()} of {where}"
    link = inode.i_dentry.first.read_()
    if not link:
        return text
    entry = inode.prog_.type("struct dentry")
    member = "d_u.d_alias" if has_member(entry, "d_u.d_alias") else "d_alias"
    name = container_of(link, entry, member).d_name.name.value_()
    return f"{printable(inode.prog_.read_c_string(name, max_size=255))}, {text}"


def find_buffer_heads(case: Case) -> Iterator[Holder]:
    """``struct buffer_head``: all of a page's together have the reference of ``page->private``."""
    if find_type(case.prog, "struct buffer_head") is None:
        return
    for hit in case.hits:
        if hit.form != "page" or hit.tag or hit.place.name != "buffer_head":
            continue
        try:
            head = Object(case.prog, "struct buffer_head *", hit.place.start)
            if head.b_page.address_of_().value_() != hit.address:
                continue
            what = f"block {head.b_blocknr.value_()}, {head.b_size.value_()} bytes"
            device = head.b_bdev.bd_disk.disk_name.string_()[:32] if head.b_bdev else b""
        except (FaultError, LookupError, AttributeError):
            continue
        yield Holder(
            hit, "buffer", State.LIVE, what, printable(device), head.value_(), (), 0, Counted.PRIVATE
        )


def find_batches(case: Case) -> Iterator[Holder]:
    """The per-CPU batches of folios on their way to or from the LRU lists."""
    batches = case.kernel.folio_batches
    for hit in case.hits:
        if hit.place.kind != "per-CPU" or not hit.place.name.startswith(_BATCHES):
            continue
        inside = bool(batches.references(np.array([hit.folio]))[0])
        state = State.LIVE if inside else State.STALE
        what = "on its way to or from a list" if inside else "behind the end"
        yield Holder(
            hit, "folio batch", state, what, hit.place.name, hit.place.start, (), int(inside), Counted.BATCH
        )
