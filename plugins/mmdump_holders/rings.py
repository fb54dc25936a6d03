"""User memory that io_uring holds: registered buffers, and rings in memory of the user (io_uring/rsrc.c)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from drgn import FaultError, Object, TypeKind, offsetof

from mmdump.holders import Case, Counted, Holder, Owner, State
from mmdump.kernel.layout import find_object, find_type, has_member

if TYPE_CHECKING:
    from drgn import Type

__all__ = ["find_rings"]

#: IORING_MAX_REG_BUFFERS.
_MAX_BUFFERS = 1 << 14
#: Vectors of one buffer: at most 1 GiB of pages.
_MAX_VECTORS = 1 << 18
#: Pages of a ring.
_MAX_PAGES = 1 << 16
#: IORING_SETUP_NO_MMAP of include/uapi/linux/io_uring.h (6.5).
_SETUP_NO_MMAP = 1 << 14


def find_rings(case: Case) -> Iterator[Holder]:
    """What every ring that a task has open holds."""
    if find_type(case.prog, "struct io_ring_ctx") is None:
        return
    for file in case.files.with_operations("io_uring_fops"):
        ring, owners = file.private_data, case.owners(file)
        for find in (_buffers, _own_pages, _provided):
            try:
                yield from find(case, Object(case.prog, "struct io_ring_ctx *", ring), owners)
            except (FaultError, LookupError, AttributeError):
                continue


def _buffers(case: Case, ring: Object, owners: Sequence[Owner]) -> Iterator[Holder]:
    """The registered buffers: each vector has one pin, however many pages of a folio it spans."""
    step = case.prog.type("struct bio_vec").size or 16
    for number, count, buffer in _registered(case, ring):
        try:
            start, vectors = _vectors(buffer)
            # 6.15: buffers of the kernel's own, such as a request of ublk, are held by whoever lent them.
            lent = has_member(buffer.type_.type, "is_kbuf") and bool(buffer.is_kbuf)
            first = int(buffer.ubuf.value_())
        except FaultError:
            continue
        for hit in case.within(start, min(vectors, _MAX_VECTORS) * step):
            vector, inside = divmod(hit.address - start, step)
            if inside:
                continue
            length = Object(case.prog, "struct bio_vec *", hit.address).bv_len.value_()
            where = "" if lent else f" (user address {first:#x})"
            what = f"buffer {number} of {count}{where}, vector {vector} of {vectors}, {length} bytes"
            yield Holder(
                hit,
                "io_uring",
                State.LIVE,
                what,
                "lent by the kernel" if lent else "",
                ring.value_(),
                owners,
                references=0 if lent else 1,
                counted=Counted.NONE if lent else Counted.PIN,
            )


def _registered(case: Case, ring: Object) -> Iterator[tuple[int, int, Object]]:
    """(number, how many there are, struct io_mapped_ubuf) of each registered buffer."""
    struct = ring.type_.type
    if has_member(struct, "buf_table.nodes"):
        # 6.13.
        count = min(int(ring.buf_table.nr.value_()), _MAX_BUFFERS)
        for number in range(count):
            node = ring.buf_table.nodes[number].read_()
            if node and node.buf:
                yield number, count, node.buf.read_()
        return
    if not has_member(struct, "user_bufs"):
        return
    count = min(int(ring.nr_user_bufs.value_()), _MAX_BUFFERS)
    # One that is shared by all slots without a buffer.
    dummy = find_object(case.prog, "dummy_ubuf")
    for number in range(count if ring.user_bufs else 0):
        buffer = ring.user_bufs[number]
        if buffer.type_.unaliased().kind != TypeKind.POINTER:
            # An array of the structures themselves up to 5.12.
            yield number, count, buffer.address_of_()
            continue
        buffer = buffer.read_()
        if buffer and (dummy is None or buffer.value_() != dummy.address_):
            yield number, count, buffer


def _vectors(buffer: Object) -> tuple[int, int]:
    """Address and number of a buffer's vectors."""
    bvec: Type = buffer.type_.type.member("bvec").type.unaliased()
    count = int(buffer.nr_bvecs.value_())
    if bvec.kind == TypeKind.POINTER:
        return int(buffer.bvec.value_()), count
    return buffer.value_() + offsetof(buffer.type_.type, "bvec"), count


def _own_pages(case: Case, ring: Object, owners: Sequence[Owner]) -> Iterator[Holder]:
    """Rings that lie in memory of the user (IORING_SETUP_NO_MMAP, 6.5), and those the kernel allocated.

    Of the latter there are arrays since 6.10 (``io_pages_map()``, also in later 6.1).
    """
    struct = ring.type_.type
    user = bool(ring.flags.value_() & _SETUP_NO_MMAP)
    places: list[tuple[str, Object, int, bool]] = []
    for name, what in (
        ("ring", "the rings"),
        ("sqe", "the submission queue"),
        ("sq", "the submission queue"),
    ):
        if has_member(struct, f"{name}_pages") and has_member(struct, f"n_{name}_pages"):
            count = int(ring.member_(f"n_{name}_pages").value_())
            places.append((what, ring.member_(f"{name}_pages"), count, user))
        if has_member(struct, f"{name}_region"):
            # 6.14: who provided the pages is a flag.
            region = ring.member_(f"{name}_region")
            places.append((what, region.pages, int(region.nr_pages.value_()), _of_user(case, region)))
    for what, pages, count, pinned in places:
        yield from _array(case, pages, count, pinned, what, ring, owners)


def _of_user(case: Case, region: Object) -> bool:
    flag = find_object(case.prog, "IO_REGION_F_USER_PROVIDED")
    return flag is not None and bool(region.flags.value_() & flag.value_())


def _provided(case: Case, ring: Object, owners: Sequence[Owner]) -> Iterator[Holder]:
    """Rings of provided buffers (IORING_REGISTER_PBUF_RING, 5.19)."""
    from drgn.helpers.linux.xarray import xa_for_each

    if not has_member(ring.type_.type, "io_bl_xa"):
        return
    for number, (group, entry) in enumerate(xa_for_each(ring.io_bl_xa.address_of_())):
        if number > _MAX_BUFFERS:
            return
        entries = Object(case.prog, "struct io_buffer_list *", entry.value_())
        what = f"ring of provided buffers {group}"
        if has_member(entries.type_.type, "region"):
            region = entries.region
            count, user = int(region.nr_pages.value_()), _of_user(case, region)
            yield from _array(case, region.pages, count, user, what, ring, owners)
        elif has_member(entries.type_.type, "buf_pages"):
            # A list of single buffers has the same bytes for something else.
            count = int(entries.buf_nr_pages.value_())
            user = not _mapped(case, entries)
            yield from _array(case, entries.buf_pages, count, user, what, ring, owners)


def _mapped(case: Case, entries: Object) -> bool:
    """Whether the kernel allocated a ring of provided buffers, for the user to map."""
    struct = entries.type_.type
    if has_member(struct, "is_mmap"):
        # 6.4.
        return bool(entries.is_mmap.value_())
    flag = find_object(case.prog, "IOBL_MMAP")
    # 6.12.
    return flag is not None and has_member(struct, "flags") and bool(entries.flags.value_() & flag.value_())


def _array(
    case: Case, pages: Object, count: int, user: bool, what: str, ring: Object, owners: Sequence[Owner]
) -> Iterator[Holder]:
    """An array of pointers to pages: pinned ones of the user, or the kernel's own."""
    start = int(pages.value_())
    for hit in case.within(start, 8 * min(count, _MAX_PAGES)) if start else ():
        index, inside = divmod(hit.address - start, 8)
        if not inside:
            counted = Counted.PIN if user else Counted.REFERENCE
            text = f"{what}, page {index} of {count}"
            yield Holder(hit, "io_uring", State.LIVE, text, "", ring.value_(), owners, 1, counted)
