"""Slab objects by allocation tag: the vector of extensions of each slab (mm/slab.h, mm/slub.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import offsetof, sizeof

from mmdump.kernel.arrays import I64, U64
from mmdump.kernel.gather import gather
from mmdump.kernel.layout import byteorder, enumerators, find_type, has_member, member_type, struct_dtype
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel import Kernel
    from mmdump.target import Reader

__all__ = ["Objects", "SlabReader", "read_slab_reader"]

#: Extensions read at a time.
_BATCH = 1 << 18


@dataclass(frozen=True)
class Objects:
    """Objects of some slabs that refer to a tag.

    :param reference: To the tag, uint64, one for each object.
    :param size: What the object counts as, int64: ``kmem_cache->size``.
    :param lost: Slabs whose objects could not be looked at.
    """

    reference: U64
    size: I64
    lost: int = 0


@dataclass(frozen=True)
class SlabReader:
    """Reads the extension vectors of slabs.

    :param slab: dtype of the ``struct slab`` that a page is: slab_cache, obj_exts, a word with the number of
        objects, and from 7.0 on stride.
    :param objects: Where in that word the number is: shift and mask.
    :param stride: From one extension to the next, where the slab does not say.
    :param tag: Where in an extension the reference is.
    :param flags_mask: Bits of ``obj_exts`` that are not the vector's address.
    """

    reader: Reader
    vmemmap: int
    struct_page: int
    page_shift: int
    slab: np.dtype[np.void]
    cache: np.dtype[np.void]
    objects: tuple[int, int]
    stride: int
    tag: int
    flags_mask: int
    pointer: np.dtype[np.generic]

    def reference(self, pfn: int, order: int, offset: int) -> int | None:
        """The reference of the object at an offset into a slab, of its objects' vector; None without one."""
        slabs, status = gather(
            self.reader, np.array([self.vmemmap + pfn * self.struct_page], np.uint64), self.slab
        )
        vector, caches = int(slabs["obj_exts"][0]) & ~self.flags_mask, slabs["slab_cache"].astype(np.uint64)
        size = int(gather(self.reader, caches, self.cache)[0]["size"][0])
        if status[0] != ReadStatus.READ or not vector or not 0 < size <= 1 << (order + self.page_shift):
            return None
        stride = int(slabs["stride"][0]) if "stride" in (slabs.dtype.names or ()) else self.stride
        address = (vector + offset // size * stride + self.tag) & 0xFFFFFFFFFFFFFFFF
        found, status = gather(self.reader, np.array([address], np.uint64), self.pointer)
        return int(found[0]) if status[0] == ReadStatus.READ else None

    def read(self, pfn: I64, order: I64) -> Objects:
        """The objects of slabs, by the PFNs of their first pages and their orders."""
        address = np.uint64(self.vmemmap) + pfn.astype(np.uint64) * np.uint64(self.struct_page)
        slabs, status = gather(self.reader, address, self.slab)
        vector = slabs["obj_exts"].astype(np.uint64) & ~np.uint64(self.flags_mask)
        wanted = (vector != 0) & (status == ReadStatus.READ)
        lost = int((status != ReadStatus.READ).sum())
        slabs, vector, order = slabs[wanted], vector[wanted], order[wanted]
        caches, place = np.unique(slabs["slab_cache"].astype(np.uint64), return_inverse=True)
        found, status = gather(self.reader, caches, self.cache)
        size = np.where(status == ReadStatus.READ, found["size"].astype(np.int64), 0)[place.reshape(-1)]
        shift, mask = self.objects
        count = ((slabs["word"].astype(np.uint64) >> np.uint64(shift)) & np.uint64(mask)).astype(np.int64)
        stride = np.full(len(slabs), self.stride, np.int64)
        if "stride" in (slabs.dtype.names or ()):
            stride = slabs["stride"].astype(np.int64)
        # More objects than the slab has room for are garbage.
        room = np.left_shift(1, np.minimum(order, 24) + self.page_shift)
        good = (size > 0) & (count > 0) & (count * size <= room) & (stride >= 8) & (stride <= room)
        lost += int((~good).sum())
        references, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        vector, count, size, stride = vector[good], count[good], size[good], stride[good]
        # Cut where enough have come together.
        part = (np.cumsum(count) - count) // _BATCH
        for low, high in zip(*_cuts(part), strict=True):
            reference, missing = self._vectors(vector[low:high], count[low:high], stride[low:high])
            lost += missing
            used = reference != 0
            references.append(reference[used])
            sizes.append(np.repeat(size[low:high], count[low:high])[used])
        return Objects(np.concatenate(references), np.concatenate(sizes), lost)

    def _vectors(self, vector: U64, count: I64, stride: I64) -> tuple[U64, int]:
        """The references in these vectors one after the other, and how many vectors are not all there."""
        first = np.cumsum(count) - count
        row = np.repeat(np.arange(len(count)), count)
        index = (np.arange(len(row)) - first[row]) * stride[row] + self.tag
        found, status = gather(self.reader, vector[row] + index.astype(np.uint64), self.pointer)
        bad = status != ReadStatus.READ
        return found.astype(np.uint64), len(np.unique(row[bad]))


def _cuts(part: I64) -> tuple[list[int], list[int]]:
    """Where runs of equal values begin and end."""
    starts = np.flatnonzero(np.diff(part, prepend=-1)).tolist()
    return starts, [*starts[1:], len(part)][: len(starts)]


def read_slab_reader(kernel: Kernel) -> SlabReader | None:
    """What reading the objects' tags needs; None where this kernel's slabs have none."""
    prog = kernel.target.prog
    slab, ext, cache = (find_type(prog, f"struct {name}") for name in ("slab", "slabobj_ext", "kmem_cache"))
    if slab is None or ext is None or cache is None:
        return None
    if not has_member(slab, "obj_exts") or not has_member(ext, "ref") or not has_member(slab, "objects"):
        return None
    objects = slab.member("objects")
    word = objects.bit_offset // 64 * 8
    width = objects.bit_field_size or 8 * sizeof(objects.type)
    order = byteorder(prog)
    names, formats, offsets = ["word"], [np.dtype(order + "u8")], [word]
    # 7.0 put extensions into the objects themselves, where they fit: then they are as far apart as those.
    for name in ("slab_cache", "obj_exts", "stride"):
        found = member_type(slab, name)
        if found is not None:
            names.append(name)
            formats.append(np.dtype(f"{order}u{sizeof(found)}"))
            offsets.append(offsetof(slab, name))
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": sizeof(slab)})
    return SlabReader(
        reader=kernel.target.reader,
        vmemmap=kernel.memmap.vmemmap,
        struct_page=kernel.memmap.page_size,
        page_shift=kernel.target.page_shift,
        slab=dtype,
        cache=struct_dtype(prog, cache, {"size": ("size",)}, itemsize=_end(cache, "size")),
        objects=(objects.bit_offset % 64, (1 << width) - 1),
        stride=sizeof(ext),
        tag=offsetof(ext, "ref"),
        flags_mask=_flags_mask(prog),
        pointer=np.dtype(order + "u8"),
    )


def _end(struct: object, name: str) -> int:
    """Where a member ends: as much of the structure as need be read."""
    from drgn import Type

    assert isinstance(struct, Type)
    return offsetof(struct, name) + sizeof(struct.member(name).type)


def _flags_mask(prog: Program) -> int:
    """OBJEXTS_FLAGS_MASK: one less than the last enumerator."""
    flags = enumerators(prog, "enum objext_flags")
    return flags.get("__NR_OBJEXTS_FLAGS", 8) - 1
