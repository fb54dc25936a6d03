"""Direct I/O to a block device: pages of a process in the vectors of a bio (block/fops.c, block/bio.c).

What is in flight is what ``bio_iov_iter_get_pages()`` gathered and ``bio_release_pages()`` has not given back
yet. Up to 5.15 the functions were in fs/block_dev.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .callchains import calls

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .era import Era
    from .machine import Machine
    from .tasks import Task

__all__ = ["BIO_MAX_VECS", "Bio", "DirectIo", "Disk"]

BIO_MAX_VECS = 256

#: Vectors that have room behind the bio itself.
_BIO_INLINE_VECS = 4
_SIZEOF_BIO_VEC = 16
_SIZEOF_AIO_KIOCB = 192
#: SLAB_HWCACHE_ALIGN.
_CACHE_LINE = 64


@dataclass(frozen=True)
class Disk:
    """``struct gendisk``; a whole disk, no partition.

    :ivar major: virtio-blk's are given out from the top.
    """

    name: str = "vda"
    major: int = 254
    minor: int = 0


@dataclass
class Bio:
    """``struct bio``.

    :ivar address: Physical address of the object that it is in: of it, or of what it is part of.
    :ivar front: Bytes from there to the bio.
    :ivar array: Physical address of its array of vectors; 0 where they are behind it.
    :ivar room: Vectors there is room for.
    :ivar vectors: (first PFN, pages) of each: pages that lie side by side share one.
    """

    address: int
    front: int
    array: int
    room: int
    sector: int
    vectors: list[tuple[int, int]]

    @property
    def pfns(self) -> list[int]:
        """The pages, each as often as it was got."""
        return [pfn for first, pages in self.vectors for pfn in range(first, first + pages)]


class DirectIo:
    """``struct blkdev_dio``: one write, from submission to completion.

    The pages become pinned; up to 6.4 a reference is got to each. All are pages of their own, no large folio.

    :param pfns: The pages to write, as they follow each other.
    :param sync: The task waits for it. Only what one bio is too small for comes by this way: what is less has
        its bio on the task's stack (``__blkdev_direct_IO_simple()``), which is not modelled.
    :raises ValueError: It is synchronous, and too small.
    :ivar bios: The first is part of this structure.
    :ivar kiocb: Physical address of the ``struct aio_kiocb``; 0 where the task waits for it.
    :ivar done: It completed, and its memory was given back.
    """

    def __init__(
        self,
        machine: Machine,
        task: Task,
        disk: Disk,
        pfns: Iterable[int],
        *,
        sector: int = 0,
        sync: bool = False,
    ) -> None:
        self._machine = machine
        self.task = task
        self.disk = disk
        self.done = False
        wanted = list(pfns)
        if sync and len(wanted) <= BIO_MAX_VECS:
            raise ValueError(f"{len(wanted)} pages that a task waits for are written by a bio on its stack")
        self.kiocb = 0 if sync else machine.objects.alloc("aio_kiocb", _SIZEOF_AIO_KIOCB)
        self.bios: list[Bio] = []
        sectors = machine.era.page_size >> 9
        while wanted:
            part, wanted = wanted[:BIO_MAX_VECS], wanted[BIO_MAX_VECS:]
            self.bios.append(self._bio(part, sector))
            sector += len(part) * sectors
            for pfn in part:
                self._got(pfn)
        machine.direct_io.append(self)

    def _bio(self, pfns: Sequence[int], sector: int) -> Bio:
        """``bio_alloc_bioset()``: of blkdev_dio_pool the first, of fs_bio_set the others."""
        era, objects = self._machine.era, self._machine.objects
        front = 0 if self.bios else _front_pad(era)
        size = front + _sizeof_bio(era) + _BIO_INLINE_VECS * _SIZEOF_BIO_VEC
        # Named by their size since 5.12; before, one after the other.
        name = f"bio-{size if era.version >= (5, 12) else int(not self.bios)}"
        address = objects.alloc(name, -(-size // _CACHE_LINE) * _CACHE_LINE)
        array, room = 0, _BIO_INLINE_VECS
        if len(pfns) > room:
            room = next(room for room in (16, 64, 128, BIO_MAX_VECS) if len(pfns) <= room)
            kind = f"biovec-{room if room < BIO_MAX_VECS else 'max'}"
            array = objects.alloc(kind, room * _SIZEOF_BIO_VEC)
        return Bio(address, front, array, room, sector, _vectors(era, pfns))

    def _got(self, pfn: int) -> None:
        gup = self._machine.gup
        if self._machine.era.direct_io_pins:
            gup.pin(pfn)
        else:
            gup.get(pfn)

    def complete(self) -> None:
        """``blkdev_bio_end_io()``: the device has written all; pages are let go of, and memory is freed."""
        machine = self._machine
        self.done = True
        end = "blkdev_bio_end_io_async" if self.single else "blkdev_bio_end_io"
        release = "__bio_release_pages" if machine.era.version >= (6, 1) else "bio_release_pages"
        with calls(machine, release, end, "bio_endio"):
            for pfn in (pfn for bio in self.bios for pfn in bio.pfns):
                if machine.era.direct_io_pins:
                    machine.gup.unpin(pfn)
                else:
                    machine.gup.put(pfn)
        for bio in self.bios:
            for address in filter(None, (bio.array, bio.address)):
                machine.objects.free(address)
        if self.kiocb:
            machine.objects.free(self.kiocb)

    @property
    def single(self) -> bool:
        """``__blkdev_direct_IO_async()`` (5.16): for what nobody waits for and fits into one bio."""
        return bool(self.kiocb) and len(self.bios) == 1 and self._machine.era.version >= (5, 16)


def _front_pad(era: Era) -> int:
    """``offsetof(struct blkdev_dio, bio)``: it has a cache line of its own since 5.16."""
    return 64 if era.version >= (5, 16) else 24


def _sizeof_bio(era: Era) -> int:
    """With CONFIG_BLK_CGROUP, as distributions have it."""
    return 144 if era.version < (5, 1) else 128 if era.version < (5, 10) else 120


def _vectors(era: Era, pfns: Sequence[int]) -> list[tuple[int, int]]:
    """``bio_try_merge_page()``: what continues the last page goes into its vector (5.1)."""
    found: list[tuple[int, int]] = []
    for pfn in pfns:
        if found and sum(found[-1]) == pfn and era.version >= (5, 1):
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((pfn, 1))
    return found
