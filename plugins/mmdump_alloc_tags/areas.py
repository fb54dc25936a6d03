"""Per-CPU areas by allocation tag: the chunks of the per-CPU allocator (mm/percpu-internal.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, Object, container_of

from mmdump.kernel.arrays import I64, U64
from mmdump.kernel.layout import find_object, find_type, has_member, struct_dtype
from mmdump.kernel.percpu import possible_cpus
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel import Kernel

__all__ = ["Areas", "read_areas"]

#: PCPU_MIN_ALLOC_SIZE, which every area is a multiple of.
_MIN_ALLOC = 4
#: No machine has more chunks, and none more slots for them.
_MAX_CHUNKS, _MAX_SLOTS = 1 << 14, 256
#: Bits of the map of a chunk: one for every 4 bytes of one CPU's unit, which has some 10**5 bytes.
_MAX_BITS = 1 << 22
#: And of all chunks together.
_MAX_BITS_IN_ALL = 1 << 27


@dataclass(frozen=True)
class Areas:
    """Per-CPU areas that refer to a tag.

    :param reference: To the tag, uint64.
    :param size: Of one CPU's copy in bytes, int64.
    :param full: What it counts as where all copies are counted (``pcpu_obj_full_size()``), int64.
    :param lost: Chunks that could not be looked at.
    """

    reference: U64
    size: I64
    full: I64
    lost: int = 0


_NONE = Areas(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))


def read_areas(kernel: Kernel) -> Areas:
    """The per-CPU areas of all chunks; none where this kernel has no tags for them."""
    prog = kernel.target.prog
    chunk, ext = find_type(prog, "struct pcpu_chunk"), find_type(prog, "struct pcpuobj_ext")
    if not has_member(chunk, "obj_exts") or not has_member(ext, "tag") or ext is None:
        return _NONE
    dtype = struct_dtype(prog, ext, {"tag": ("tag",)})
    chunks, lost = _chunks(prog)
    references, sizes = [_NONE.reference], [_NONE.size]
    left = _MAX_BITS_IN_ALL
    for each in chunks:
        try:
            exts = each.obj_exts.value_()
            bits = each.nr_pages.value_() * kernel.target.page_size // _MIN_ALLOC
            bounds = each.bound_map.value_()
        except FaultError:
            lost += 1
            continue
        if not exts:
            continue
        if not 0 < bits <= min(_MAX_BITS, left):
            lost += 1
            continue
        left -= bits
        vector = kernel.target.reader.read(exts, bits * dtype.itemsize)
        # One bit more than there are: the end of the last area.
        bitmap = kernel.target.reader.read(bounds, (bits + 1 + 63) // 64 * 8)
        lost += bool((vector.status == ReadStatus.UNREADABLE).any() or (bitmap.status != 0).any())
        tags = vector.data.view(dtype)["tag"].astype(np.uint64)
        starts = np.flatnonzero(tags)
        edges = np.append(np.flatnonzero(np.unpackbits(bitmap.data, bitorder="little")), bits)
        ends = edges[np.minimum(np.searchsorted(edges, starts, side="right"), len(edges) - 1)]
        references.append(tags[starts])
        sizes.append(np.maximum(ends - starts, 0).astype(np.int64) * _MIN_ALLOC)
    size = np.concatenate(sizes)
    return Areas(np.concatenate(references), size, _full(prog, size), lost)


def _full(prog: Program, size: I64) -> I64:
    """``pcpu_obj_full_size()``: all copies, and what it costs to remember the cgroup of each 4 bytes."""
    try:
        copies = len(possible_cpus(prog))
        off = find_object(prog, "cgroup_memory_nokmem")
        kmem = off is not None and not off.value_()
    except FaultError:
        return size
    return size * copies + (size // _MIN_ALLOC * 8 if kmem else 0)


def _chunks(prog: Program) -> tuple[list[Object], int]:
    """All chunks, and how many lists do not come to an end."""
    lists, slots = find_object(prog, "pcpu_chunk_lists"), find_object(prog, "pcpu_nr_slots")
    if lists is None or slots is None:
        return [], 1
    found: list[Object] = []
    seen: set[int] = set()
    lost = 0
    try:
        count, reserved = slots.value_(), find_object(prog, "pcpu_reserved_chunk")
        if reserved is not None and reserved.value_():
            found.append(reserved.read_())
        base = lists.value_()
    except FaultError:
        return found, 1
    head_size = prog.type("struct list_head").size or 16
    for slot in range(min(count, _MAX_SLOTS)):
        head = base + slot * head_size
        try:
            node = lists[slot].next.read_()
            while node.value_() != head and node.value_() not in seen and len(seen) < _MAX_CHUNKS:
                seen.add(node.value_())
                found.append(container_of(node, "struct pcpu_chunk", "list"))
                node = node.next.read_()
            lost += node.value_() != head
        except FaultError:
            lost += 1
    return found, lost
