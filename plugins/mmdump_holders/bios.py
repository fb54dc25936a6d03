"""Pages under I/O: in the vectors of a ``struct bio`` (block/bio.c, block/fops.c, fs/iomap/direct-io.c)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, Object, container_of, offsetof

from mmdump.holders import Case, Counted, Hit, Holder, Owner, State
from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import byteorder, find_object, find_type, has_member
from mmdump.kernel.percpu import at_each_cpu

if TYPE_CHECKING:
    from drgn import Type

__all__ = ["find_bios"]

#: Vectors of one bio (BIO_MAX_VECS, or more where they are merged).
_MAX_VECTORS = 1 << 12
#: Idle bios of one pool that are looked at.
_MAX_IDLE = 1 << 16
#: Bytes of an object or stack that are searched for a bio.
_MAX_OBJECT = 1 << 15
#: enum req_op, by which the low bits of bi_opf say what is done.
_OPERATIONS = {0: "read", 1: "write", 2: "flush", 3: "discard", 7: "zone append", 9: "write of zeroes"}
#: Completions of direct I/O, whose bio holds its pages itself.
_DIRECT = ("blkdev_bio_end_io", "iomap_dio_bio_end_io", "dio_bio_end", "bio_map", "submit_bio_wait_endio")


def find_bios(case: Case) -> Iterator[Holder]:
    """Vectors of bios: inside of the bio, beside it on a stack, or in an array of their own."""
    struct = find_type(case.prog, "struct bio")
    if struct is None or not has_member(struct, "bi_io_vec"):
        return
    known: dict[int, Object | None] = {}
    idle = _Idle(case)
    for hit in [*case.hits, *case.spans]:
        if hit.tag or hit.form not in ("page", "span") or hit.place.kind not in ("slab", "stack", "pages"):
            continue
        for bio in _bios(case, hit, struct):
            try:
                if bio not in known:
                    known[bio] = _checked(case, bio)
                holder = _holder(case, hit, known[bio], idle)
            except (FaultError, LookupError, AttributeError):
                continue
            if holder is not None:
                yield holder
                break


def _bios(case: Case, hit: Hit, struct: Type) -> Iterator[int]:
    """Where a bio may be whose vectors a hit is one of."""
    place, member = hit.place, offsetof(struct, "bi_io_vec")
    step = case.prog.type("struct bio_vec").size or 16
    if place.start and 0 < place.size <= _MAX_OBJECT:
        # Its pointer to the vectors leads to this very object: the array is at most this long.
        words = _words(case, place.start, place.size)
        low = max(place.start, hit.address - _MAX_VECTORS * step)
        near = (words >= np.uint64(low)) & (words <= np.uint64(hit.address))
        for at in np.flatnonzero(near).tolist():
            bio = place.start + 8 * at - member
            if bio >= place.start:
                yield bio
    # Arrays of vectors have caches of their own, or are of some size.
    array = place.kind == "slab" and place.name.startswith(("biovec-", "kmalloc-"))
    if array and place.start and (hit.address - place.start) % step == 0:
        for at, _value in case.pointers(place.start):
            yield at - member


def _words(case: Case, start: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    chunk = case.kernel.target.reader.read(start, size & ~7)
    return chunk.data.view(byteorder(case.prog) + "u8").astype(np.uint64)


class _Idle:
    """Bios that are allocated and wait for their next use: in a CPU's cache, or in a pool for bad times."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._of: dict[int, set[int]] = {}

    def __contains__(self, bio: Object) -> bool:
        pool = bio.bi_pool.read_()
        if not pool:
            return False
        if pool.value_() not in self._of:
            self._of[pool.value_()] = self._read(pool)
        return bio.address_ in self._of[pool.value_()]

    def _read(self, pool: Object) -> set[int]:
        found: set[int] = set()
        # What can be read of them.
        with contextlib.suppress(FaultError, LookupError, AttributeError):
            reserve, pad = pool.bio_pool, int(pool.front_pad.value_())
            for index in range(min(int(reserve.curr_nr.value_()), _MAX_IDLE)):
                found.add(reserve.elements[index].value_() + pad)
        with contextlib.suppress(FaultError, LookupError, AttributeError):
            # 5.15; those that completed in an interrupt have a list of their own since 6.2.
            for _cpu, cache in at_each_cpu(self._case.prog, pool.cache) if pool.cache else ():
                for name in ("free_list", "free_list_irq"):
                    bio = cache.member_(name).read_() if has_member(cache.type_, name) else None
                    while bio and bio.value_() not in found and len(found) < _MAX_IDLE:
                        found.add(bio.value_())
                        bio = bio.bi_next.read_()
        return found


def _checked(case: Case, address: int) -> Object | None:
    """A bio, if that is what stands there."""
    bio = Object(case.prog, "struct bio", address=address)
    vectors, most = int(bio.bi_vcnt.value_()), int(bio.bi_max_vecs.value_())
    count = int(bio.member_("__bi_cnt").counter.value_())
    if vectors > _MAX_VECTORS or (most and vectors > most) or not 0 < count < 1 << 16:
        return None
    return bio if _device(bio) else None


def _device(bio: Object) -> str:
    """``vda`` or ``vda1``; empty where it leads to none."""
    if not has_member(bio.type_, "bi_bdev"):
        # 4.14 to 5.11: the disk and a partition number.
        disk, part = bio.bi_disk.read_(), int(bio.bi_partno.value_())
    else:
        device = bio.bi_bdev.read_()
        if not device:
            return ""
        disk = device.bd_disk.read_()
        # bd_partno until 6.10; the low byte of __bd_flags since.
        struct = device.type_.type
        if has_member(struct, "bd_partno"):
            part = int(device.bd_partno.value_())
        else:
            part = int(device.member_("__bd_flags").counter.value_()) & 0xFF
    if not disk:
        return ""
    name = printable(disk.disk_name.string_()[:32])
    if not name.isprintable() or not name:
        return ""
    return f"{name}{'p' if name[-1].isdigit() else ''}{part}" if part else name


def _holder(case: Case, hit: Hit, bio: Object | None, idle: _Idle) -> Holder | None:
    """What the hit is to a bio; None where it is none of its vectors."""
    if bio is None:
        return None
    step = case.prog.type("struct bio_vec").size or 16
    start = bio.bi_io_vec.value_()
    index, inside = divmod(hit.address - start, step)
    vectors = int(bio.bi_vcnt.value_())
    # A clone has none of its own; its original has.
    if not vectors or not 0 <= index < max(int(bio.bi_max_vecs.value_()), vectors):
        return None
    if bio in idle:
        # It may still have the device of its last use.
        what = "a bio that waits for its next use"
        return Holder(hit, "bio", State.STALE, what, "", bio.address_ or 0)
    if inside or index >= vectors:
        if hit.form == "span":
            return None
        # Where its vectors will be, the pages that they are made of are gathered first.
        what = f"left over behind its {vectors} vectors"
        return Holder(hit, "bio", State.STALE, what, _device(bio), bio.address_ or 0)
    vector = Object(case.prog, "struct bio_vec *", hit.address)
    shift = case.kernel.target.page_shift
    offset, length = int(vector.bv_offset.value_()), int(vector.bv_len.value_())
    first = hit.pfn + (offset >> shift)
    end = hit.pfn + ((offset + length - 1) >> shift) + 1 if length else first
    pages = min(end, hit.folio + hit.folio_pages) - max(first, hit.folio)
    if pages <= 0:
        return None
    operation = int(bio.bi_opf.value_()) & 0xFF
    done = case.kernel.symbols.text(bio.bi_end_io.value_()).split("+")[0] if bio.bi_end_io else ""
    counted = _counted(case, bio, done)
    what = f"{_OPERATIONS.get(operation, f'operation {operation}')} of {length} bytes"
    sector = int(bio.bi_iter.bi_sector.value_())
    return Holder(
        hit,
        "bio",
        State.LIVE,
        f"{what}, vector {index} of {vectors}, sector {sector}",
        _device(bio),
        bio.address_ or 0,
        _submitters(case, bio, done),
        references=pages if counted is not Counted.NONE else 0,
        counted=counted,
    )


def _counted(case: Case, bio: Object, done: str) -> Counted:
    """Whether the bio holds its pages itself: pins since 6.5, references in direct I/O before."""
    flags = int(bio.bi_flags.value_())
    pinned, reffed, none = (
        find_object(case.prog, name) for name in ("BIO_PAGE_PINNED", "BIO_PAGE_REFFED", "BIO_NO_PAGE_REF")
    )
    if pinned is not None:
        if flags >> pinned.value_() & 1:
            return Counted.PIN
        referenced = reffed is not None and flags >> reffed.value_() & 1
        return Counted.REFERENCE if referenced else Counted.NONE
    if none is not None and flags >> none.value_() & 1:
        return Counted.NONE
    return Counted.REFERENCE if done.startswith(_DIRECT) else Counted.NONE


def _submitters(case: Case, bio: Object, done: str) -> Sequence[Owner]:
    """Whose I/O it is: who has the file open, or the task that waits for it."""
    private = bio.bi_private.value_()
    # What it is waited for with is on the waiter's stack; up to 5.17 it may be the waiter itself
    # (__blkdev_direct_IO_simple()).
    task = case.tasks.on_stack(private) or case.tasks.by_address.get(private)
    if task is not None:
        return [Owner(task.tgid, task.comm)]
    control: Object | None = None
    if done == "blkdev_bio_end_io_async":
        # The bio is part of it.
        control = container_of(Object(case.prog, "struct bio *", bio.address_), "struct blkdev_dio", "bio")
    elif done == "blkdev_bio_end_io":
        control = Object(case.prog, "struct blkdev_dio *", private)
    elif done == "iomap_dio_bio_end_io":
        control = Object(case.prog, "struct iomap_dio *", private)
    elif done.startswith("dio_bio_end"):
        control = Object(
            case.prog, case.prog.pointer_type(case.prog.type("struct dio", "fs/direct-io.c")), private
        )
    if control is None or not control:
        return []
    first = control.iocb.value_()
    # A union: who waits for it itself stands where the control block would.
    waiter = case.tasks.by_address.get(first)
    if waiter is not None:
        return [Owner(waiter.tgid, waiter.comm)]
    return case.owners(control.iocb.ki_filp.value_())
