"""Pages in the scatterlists of block devices' requests (block/blk-mq.c, drivers/block/virtio_blk.c).

A scatterlist holds no reference: the bio that it was made from does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from drgn import FaultError, Object, sizeof

from mmdump.holders import Case, Counted, Holder, State
from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import byteorder, find_object, find_type, has_member

__all__ = ["find_requests"]

#: Disks, hardware queues of one, and requests in all that are looked at.
_MAX_DISKS = 1 << 12
_MAX_QUEUES = 1 << 12
_MAX_REQUESTS = 1 << 18
#: Entries of one scatterlist.
_MAX_ENTRIES = 1 << 12
#: Where the driver's part of a request has its ``struct sg_table``: operations -> structure, member.
_TABLES = {
    "virtio_mq_ops": ("struct virtblk_req", "sg_table"),
    "scsi_mq_ops": ("struct scsi_cmnd", "sdb.table"),
    "scsi_mq_ops_no_commit": ("struct scsi_cmnd", "sdb.table"),
}
#: enum mq_rq_state.
_IN_FLIGHT = 1


def find_requests(case: Case) -> Iterator[Holder]:
    """Entries of scatterlists, chained ones too, of requests that a device is at work on."""
    from drgn.helpers.linux.block import for_each_disk

    if find_type(case.prog, "struct blk_mq_tags") is None or not case.hits:
        return
    left = _MAX_REQUESTS
    seen: set[int] = set()
    try:
        for number, disk in enumerate(for_each_disk(case.prog)):
            if number >= _MAX_DISKS or left <= 0:
                return
            try:
                queue = disk.queue.read_()
                kind = _kind(case, queue)
                if kind is None:
                    continue
                name = printable(disk.disk_name.string_()[:32])
                for request in _requests(case, queue, left):
                    left -= 1
                    if request not in seen:
                        seen.add(request)
                        yield from _in_request(case, request, kind, name)
            except (FaultError, LookupError, AttributeError):
                continue
    except (FaultError, LookupError, AttributeError):
        return


def _kind(case: Case, queue: Object) -> tuple[str, str] | None:
    """Structure and member of the driver's part of a request."""
    operations = queue.mq_ops.value_()
    for name, kind in _TABLES.items():
        found = find_object(case.prog, name)
        if found is not None and found.address_ == operations and find_type(case.prog, kind[0]) is not None:
            return kind
    return None


def _requests(case: Case, queue: Object, most: int) -> Iterator[int]:
    """Addresses of all requests that a queue has: its own ones, and those of its scheduler."""
    tags = queue.tag_set
    for index in range(min(int(tags.nr_hw_queues.value_()), _MAX_QUEUES)):
        yield from _of_tags(case, tags.tags[index].read_(), most)
    for hardware in _hardware_queues(queue):
        yield from _of_tags(case, hardware.sched_tags.read_(), most)


def _hardware_queues(queue: Object) -> Iterator[Object]:
    """``struct blk_mq_hw_ctx *``: in an array up to 5.17 and again since 7.0, in an xarray between."""
    if has_member(queue.type_.type, "hctx_table"):
        from drgn.helpers.linux.xarray import xa_for_each

        for number, (_index, entry) in enumerate(xa_for_each(queue.hctx_table.address_of_())):
            if number >= _MAX_QUEUES:
                return
            yield Object(queue.prog_, "struct blk_mq_hw_ctx *", entry.value_())
        return
    for index in range(min(int(queue.nr_hw_queues.value_()), _MAX_QUEUES)):
        yield queue.queue_hw_ctx[index].read_()


def _of_tags(case: Case, tags: Object, most: int) -> Iterator[int]:
    if not tags or not tags.static_rqs:
        return
    count = min(int(tags.nr_tags.value_()), most)
    chunk = case.kernel.target.reader.read(tags.static_rqs.value_(), 8 * count)
    words = chunk.data.view(byteorder(case.prog) + "u8")
    yield from words[np.flatnonzero(words)].tolist()


def _in_request(case: Case, address: int, kind: tuple[str, str], name: str) -> Iterator[Holder]:
    request = Object(case.prog, "struct request *", address)
    if not has_member(request.type_.type, "state") or int(request.state.value_()) != _IN_FLIGHT:
        return
    # The driver's part follows.
    part = Object(case.prog, f"{kind[0]} *", address + sizeof(request.type_.type))
    table = part[0].subobject_(kind[1])
    tag, entries = int(request.tag.value_()), int(table.nents.value_())
    sector = int(request.member_("__sector").value_())
    for index, entry in enumerate(_entries(case, table.sgl.value_(), entries)):
        for hit in case.within(entry, 8):
            # The low bits: this is the last entry, or not.
            if hit.tag & 1:
                continue
            what = f"request {tag} in flight, sector {sector}, scatterlist entry {index} of {entries}"
            yield Holder(hit, "request", State.LIVE, what, name, address, (), 0, Counted.NONE)


def _entries(case: Case, first: int, count: int) -> Iterator[int]:
    """Addresses of a scatterlist's entries, ``sg_next()``: an entry with bit 0 leads to more of them."""
    step = case.prog.type("struct scatterlist").size or 32
    at, chained = first, 0
    for _ in range(min(count, _MAX_ENTRIES)):
        link = case.prog.read_u64(at)
        while link & 1 and chained < _MAX_ENTRIES:
            chained += 1
            at = link & ~3
            link = case.prog.read_u64(at)
        yield at
        if link & 2:
            return
        at += step
