"""What is in flight to block devices: ``struct blkdev_dio``, bios and their vectors, the disk (block/)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdump_snapshots.writer.arena import Struct
from mmdump_snapshots.writer.vfs import new_file, new_inode

if TYPE_CHECKING:
    from mmdump_snapshots.writer.arena import Arena
    from mmdump_snapshots.writer.blockstate import BioState, DirectIoState, DiskState
    from mmdump_snapshots.writer.state import State

__all__ = ["write_direct_io"]

#: S_IFBLK, and who may read and write.
_MODE = 0o060660
#: FMODE_READ | FMODE_WRITE; O_RDWR.
_FMODE, _O_RDWR = 3, 2
#: O_DIRECT.
_O_DIRECT = {"x86_64": 0o40000, "aarch64": 0o200000}
#: IOCB_DIRECT | IOCB_WRITE: since 5.10, and before.
_DIRECT_WRITE, _DIRECT_WRITE_BEFORE = 1 << 17 | 1 << 18, 1 << 2 | 1 << 6
#: REQ_OP_WRITE; REQ_SYNC and REQ_IDLE, as dio_bio_write_op() adds them.
_OPF = 1 | 1 << 11 | 1 << 15
#: DIO_IS_SYNC (5.16).
_IS_SYNC = 2
#: BVEC_POOL_OFFSET, and the vectors in arrays of each pool (both up to 5.11).
_POOL_OFFSET, _POOLS = 13, (1, 4, 16, 64, 128, 256)
#: MINORBITS.
_MINORBITS = 20


def write_direct_io(arena: Arena, state: State, tasks: Mapping[int, int]) -> dict[int, list[int]]:
    """Write what is in flight, and what is left of what was.

    :param tasks: The address of the ``struct task_struct`` of each task, by PID.
    :return: Addresses of the files of block devices that each process has open, by PID.
    """
    if not state.direct_io:
        return {}
    pool = arena.variable("blkdev_dio_pool")
    pool.set("front_pad", arena.profile.types.member("struct blkdev_dio", "bio").offset)
    arena.store(pool)
    disks: dict[DiskState, tuple[int, int]] = {}
    files: dict[tuple[int, DiskState], int] = {}
    for each in sorted(state.direct_io, key=lambda one: not one.done):
        # What has taken the place of something older is written over it.
        if each.disk not in disks:
            disks[each.disk] = _disk(arena, each.disk)
        device, inode = disks[each.disk]
        if (each.pid, each.disk) not in files:
            files[each.pid, each.disk] = _file(arena, inode)
        file = files[each.pid, each.disk]
        _write(arena, each, device, _kiocb(arena, each, file) if each.kiocb else tasks[each.pid])
    found: dict[int, list[int]] = {}
    for (pid, _), file in files.items():
        found.setdefault(pid, []).append(file)
    return found


def _write(arena: Arena, state: DirectIoState, device: int, whose: int) -> None:
    """``struct blkdev_dio``, its bio in it, and those beside it."""
    first, *others = state.bios
    dio = Struct(arena.profile, "struct blkdev_dio", arena.addresses.direct(first.address))
    assert dio.offset("bio") == first.front
    # Who waits is woken by taking its address away.
    dio.set("iocb", whose if state.kiocb or not state.done else 0)
    page, pages = arena.profile.page_size, sum(pages for bio in state.bios for _, pages in bio.vectors)
    dio.set("size", page * pages)
    # Where there are several, each counts until it is done.
    dio.set("ref.counter", len(state.bios) if others and not state.done else 0)
    if not dio.maybe("flags", 0 if state.kiocb else _IS_SYNC):
        dio.set("multi_bio", len(state.bios) > 1)
        dio.set("is_sync", not state.kiocb)
    bio = Struct(arena.profile, "struct bio", dio.at("bio"))
    _fill(arena, state, bio, first, device, dio.address)
    start = dio.offset("bio")
    dio.data[start : start + len(bio.data)] = bio.data
    arena.finish(dio)
    # They begin where the bio ends: in the padding of the structure around it.
    _vectors(arena, bio, first)
    for each in others:
        bio = Struct(arena.profile, "struct bio", arena.addresses.direct(each.address))
        _fill(arena, state, bio, each, device, dio.address)
        arena.finish(bio)
        _vectors(arena, bio, each)


def _array(arena: Arena, bio: Struct, what: BioState) -> int:
    return arena.addresses.direct(what.array) if what.array else bio.address + len(bio.data)


def _vectors(arena: Arena, bio: Struct, what: BioState) -> None:
    data, size = bytearray(), arena.profile.types.sizeof("struct page")
    for pfn, pages in what.vectors:
        vector = Struct(arena.profile, "struct bio_vec")
        vector.set("bv_page", arena.addresses.page(pfn, size))
        vector.set("bv_len", pages * arena.profile.page_size)
        data += vector.data
    arena.memory.write(arena.addresses.phys(_array(arena, bio, what)), bytes(data))


def _fill(arena: Arena, state: DirectIoState, bio: Struct, what: BioState, device: int, dio: int) -> None:
    """A bio, all but written."""
    page = arena.profile.page_size
    bio.first(("bi_bdev", "bi_disk"), device)
    bio.set("bi_opf", _OPF)
    flags = 0
    if state.pinned:
        flags |= 1 << arena.profile.types.constant("BIO_PAGE_PINNED")
    # The first of several is held until all are done; up to 5.15 that of one alone was as well.
    first = what is state.bios[0]
    held = first and (len(state.bios) > 1 or arena.profile.version < (5, 16))
    if held:
        flags |= 1 << arena.profile.types.constant("BIO_REFFED")
    if what.array and arena.profile.version < (5, 12):
        flags |= (_POOLS.index(what.room) + 1) << _POOL_OFFSET
    bio.set("bi_flags", flags)
    bio.set("__bi_remaining.counter", 1)
    bio.set("__bi_cnt.counter", 1 + held)
    bio.set("bi_iter.bi_sector", what.sector)
    # What is left to do; a driver counts it down when the device says that it is done.
    bio.set("bi_iter.bi_size", 0 if state.done else page * sum(pages for _, pages in what.vectors))
    bio.set("bi_iter.bi_idx", len(what.vectors) if state.done else 0)
    end = "blkdev_bio_end_io_async" if state.single else "blkdev_bio_end_io"
    bio.set("bi_end_io", arena.addresses.kernel(arena.vmlinux.symbols[end].address))
    bio.set("bi_private", 0 if state.single else dio)
    bio.set("bi_vcnt", len(what.vectors))
    bio.set("bi_max_vecs", what.room)
    bio.set("bi_io_vec", _array(arena, bio, what))
    bio.set("bi_pool", arena.address("blkdev_dio_pool" if first else "fs_bio_set"))


def _kiocb(arena: Arena, state: DirectIoState, file: int) -> int:
    """``struct aio_kiocb``; what of the context of the process it belongs to is not there."""
    request = Struct(arena.profile, "struct aio_kiocb", arena.addresses.direct(state.kiocb))
    request.set("rw.ki_filp", file)
    request.set("rw.ki_pos", state.bios[0].sector << 9)
    request.set("rw.ki_complete", arena.addresses.kernel(arena.vmlinux.symbols["aio_complete_rw"].address))
    flags = _DIRECT_WRITE if arena.profile.version >= (5, 10) else _DIRECT_WRITE_BEFORE
    request.set("rw.ki_flags", flags)
    arena.finish(request)
    return request.at("rw")


def _disk(arena: Arena, state: DiskState) -> tuple[int, int]:
    """``struct gendisk``, and its whole as a block device (5.12).

    :return: What bios have of it, and the address of its inode.
    """
    disk = arena.struct("struct gendisk")
    disk.set("major", state.major)
    disk.set("first_minor", state.minor)
    disk.set("minors", 1)
    disk.set("disk_name", state.name.encode()[:31])
    number = state.major << _MINORBITS | state.minor
    inode = new_inode(arena, _MODE)
    inode.set("i_rdev", number)
    arena.finish(inode)
    device = disk.address
    if "struct block_device" in arena.profile.types:
        whole = arena.struct("struct block_device")
        whole.set("bd_disk", disk.address)
        whole.set("bd_dev", number)
        whole.first(("bd_openers.counter", "bd_openers"), 1)
        if not whole.maybe("bd_mapping", inode.at("i_data")):
            # Up to 6.9.
            whole.set("bd_inode", inode.address)
        device = arena.finish(whole)
        disk.set("part0", device)
    arena.finish(disk)
    return device, inode.address


def _file(arena: Arena, inode: int) -> int:
    """The device, opened for direct I/O."""
    file = new_file(arena, inode, "def_blk_fops", _FMODE)
    file.set("f_flags", _O_RDWR | _O_DIRECT[arena.profile.arch])
    return arena.finish(file)
