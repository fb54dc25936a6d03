"""makedumpfile's flattened format: a dump as records of (offset, size, data), to go through a pipe."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, cast

from mmdump_snapshots.writer.memory import CHUNK
from mmdump_snapshots.writer.sink import Data

__all__ = ["FlattenedSink", "flatten"]

#: struct makedumpfile_header: signature, type, version; big endian, padded to 4096 bytes.
HEADER = struct.Struct(">16sqq")
HEADER_SIZE = 4096
SIGNATURE = b"makedumpfile"
TYPE_FLATTENED = 1
VERSION_FLATTENED = 1
#: struct makedumpfile_data_header; both fields -1 at the end.
RECORD = struct.Struct(">qq")


class FlattenedSink:
    """Writes a dump in the flattened format, record after record, never seeking.

    Nothing may be left out: makedumpfile would make a hole of it, libkdumpfile reads what is no data of it.

    :param file: Opened for writing; it is not closed here.
    """

    sparse = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = 0
        file.write(HEADER.pack(SIGNATURE, TYPE_FLATTENED, VERSION_FLATTENED).ljust(HEADER_SIZE, b"\0"))

    def write_at(self, offset: int, data: Data) -> None:
        """See :meth:`~mmdump_snapshots.writer.sink.Sink.write_at`."""
        if not len(data):
            return
        self._file.write(RECORD.pack(offset, len(data)))
        view = memoryview(cast("bytes", data))
        while view:
            view = view[self._file.write(view) :]
        self._end = max(self._end, offset + len(data))

    def finish(self, size: int) -> None:
        """See :meth:`~mmdump_snapshots.writer.sink.Sink.finish`."""
        if self._end < size:
            self.write_at(size - 1, b"\0")
        self._file.write(RECORD.pack(-1, -1))


def flatten(dump: Path, out: BinaryIO) -> None:
    """Write a dump file in the flattened format, holes and all."""
    sink = FlattenedSink(out)
    offset = 0
    with dump.open("rb") as file:
        while data := file.read(CHUNK):
            sink.write_at(offset, data)
            offset += len(data)
    sink.finish(offset)
