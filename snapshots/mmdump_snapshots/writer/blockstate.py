"""What is in flight to block devices, before it has a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BioState", "DirectIoState", "DiskState"]


@dataclass(frozen=True)
class DiskState:
    """A disk."""

    name: str
    major: int
    minor: int


@dataclass(frozen=True)
class BioState:
    """A bio that writes.

    :ivar address: Physical address of the object that it is in.
    :ivar front: Bytes from there to it.
    :ivar array: Physical address of its vectors; 0 where they are behind it.
    :ivar room: Vectors there is room for.
    :ivar vectors: First PFN and pages of each.
    """

    address: int
    front: int
    array: int
    room: int
    sector: int
    vectors: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class DirectIoState:
    """A write to a block device.

    :ivar pid: The process; of what is waited for, the task.
    :ivar bios: The first is part of the ``struct blkdev_dio``, the others lead to it.
    :ivar kiocb: Physical address of the ``struct aio_kiocb``; 0 where the task waits for it.
    :ivar single: What completes it is ``blkdev_bio_end_io_async()``.
    :ivar pinned: Its pages are pinned, not referenced.
    :ivar done: It completed: this is what is left of it in objects that are free again.
    """

    pid: int
    disk: DiskState
    bios: Sequence[BioState]
    kiocb: int
    single: bool
    pinned: bool
    done: bool
