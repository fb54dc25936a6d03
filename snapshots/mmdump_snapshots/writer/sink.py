"""Where a dump is written to: at any offset, holes left as holes."""

from __future__ import annotations

import os
from typing import BinaryIO, Protocol, cast

import numpy as np

from mmdump_snapshots.writer.memory import Bytes

__all__ = ["Data", "FileSink", "Sink", "is_zero"]

Data = bytes | bytearray | memoryview | Bytes


class Sink(Protocol):
    """Takes a dump's bytes in any order.

    :ivar sparse: What is never written reads as zeros.
    """

    sparse: bool

    def write_at(self, offset: int, data: Data) -> None:
        """Put bytes at an offset of the dump."""

    def finish(self, size: int) -> None:
        """Nothing more comes; the dump has ``size`` bytes."""


class FileSink:
    """A file, or a BytesIO.

    :param file: Opened for writing, at best unbuffered; it is not closed here.
    """

    sparse = True

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write_at(self, offset: int, data: Data) -> None:
        """See :meth:`Sink.write_at`."""
        view = memoryview(cast("bytes", data))
        self._file.seek(offset)
        while view:
            view = view[self._file.write(view) :]

    def finish(self, size: int) -> None:
        """See :meth:`Sink.finish`."""
        if self._file.seek(0, os.SEEK_END) < size:
            self._file.seek(size - 1)
            self._file.write(b"\0")


def is_zero(data: Bytes) -> bool:
    """Whether all bytes are 0. Fast both ways: most data shows itself in a sample."""
    words = data[: len(data) & ~7]
    if words.ctypes.data & 7 or not words.flags.c_contiguous:
        return not data.any()
    quads = words.view(np.uint64)
    return not (quads[::61].any() or quads.any() or data[len(words) :].any())
