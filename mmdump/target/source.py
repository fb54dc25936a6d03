"""Bytes at an offset, from a plain file or from one inside another format."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["ByteSource", "FileSource"]


class ByteSource(Protocol):
    """Random access to the bytes of a dump."""

    #: One more than the offset of the last byte there is.
    size: int

    def pread(self, offset: int, size: int) -> bytes:
        """``size`` bytes at ``offset``; fewer where the source ends.

        :raises ValueError: a negative offset or size, or more than the source can hold
        :raises OSError: the file cannot be read
        """

    def array(self, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """Like :meth:`pread`, as a read-only uint8 array that need not be in memory yet."""


class FileSource:
    """A plain file, by descriptor; the descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # Works for block devices too, where st_size is 0.
        self.size = os.lseek(fd, 0, os.SEEK_END)

    def pread(self, offset: int, size: int) -> bytes:
        """See :meth:`ByteSource.pread`."""
        size = _clip(offset, size, self.size)
        parts = []
        while size > 0:
            part = os.pread(self.fd, size, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def array(self, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """See :meth:`ByteSource.array`; a memory map, so that bitmaps of huge machines cost nothing."""
        size = _clip(offset, size, self.size)
        if size == 0:
            return np.zeros(0, dtype=np.uint8)
        with open(self.fd, "rb", closefd=False) as file:
            return np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=(size,))


def _clip(offset: int, size: int, end: int) -> int:
    if offset < 0 or size < 0:
        raise ValueError("negative offset or size")
    return max(0, min(size, end - offset))
