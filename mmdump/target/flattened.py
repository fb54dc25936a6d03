"""makedumpfile's flattened format: a dump as a stream of (offset, size, data) records.

Written by ``makedumpfile -F`` and by QEMU's dump-guest-memory with -z, -l or -s, to be sent through a
pipe (makedumpfile.h: struct makedumpfile_header, struct makedumpfile_data_header).
"""

from __future__ import annotations

import struct
from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from mmdump.target.overlay import overlay
from mmdump.target.source import ByteSource

__all__ = ["HEADER_SIZE", "SIGNATURE", "FlattenedSource"]

SIGNATURE = b"makedumpfile\0\0\0\0"
HEADER_SIZE = 4096
#: Signature, type and version: all the header has before its padding.
HEADER = struct.Struct(">16sqq")
TYPE_FLATTENED = 1
RECORD = struct.Struct(">qq")
#: makedumpfile writes records of up to megabytes; this many are a file made to exhaust memory.
MAX_RECORDS = 1 << 23
#: A dump that would be larger than this once flattened out does not exist.
MAX_OFFSET = 1 << 56


class FlattenedSource:
    """The dump inside a flattened file. Where nothing was written there are zeros.

    :param outer: The flattened file.
    :raises ValueError: not a flattened file, or a damaged one; the message says what is wrong
    """

    def __init__(self, outer: ByteSource) -> None:
        self._outer = outer
        #: Whether the file ends without the end marker.
        self.truncated = True
        ranges: list[tuple[int, int]] = []
        positions: list[int] = []
        header = outer.pread(0, HEADER.size)
        if len(header) < HEADER.size or outer.size < HEADER_SIZE:
            raise ValueError("the header of the flattened format is cut off")
        signature, kind, _version = HEADER.unpack(header)
        if signature != SIGNATURE or kind != TYPE_FLATTENED:
            raise ValueError("not a file in makedumpfile's flattened format")
        position = HEADER_SIZE
        while len(raw := outer.pread(position, RECORD.size)) == RECORD.size:
            offset, size = RECORD.unpack(raw)
            position += RECORD.size
            if offset == -1 and size == -1:
                self.truncated = False
                break
            if offset < 0 or size <= 0 or offset + size > MAX_OFFSET:
                raise ValueError(f"a record of the flattened format at offset {position} is damaged")
            if len(ranges) >= MAX_RECORDS:
                raise ValueError("the flattened format has too many records")
            available = min(size, outer.size - position)
            if available > 0:
                ranges.append((offset, offset + available))
                positions.append(position)
            position += size
        self._pieces = overlay(ranges)
        self._starts = [piece.start for piece in self._pieces]
        # Where the bytes of a piece begin in the file.
        self._positions = [
            positions[piece.number] + piece.start - ranges[piece.number][0] for piece in self._pieces
        ]
        self.size = self._pieces[-1].end if self._pieces else 0

    def pieces(self) -> list[tuple[int, int, int]]:
        """(offset, size, position in the flattened file) of all data, sorted by offset, disjoint."""
        return [
            (piece.start, piece.end - piece.start, position)
            for piece, position in zip(self._pieces, self._positions, strict=True)
        ]

    def pread(self, offset: int, size: int) -> bytes:
        """See :meth:`ByteSource.pread`."""
        return self.array(offset, size).tobytes()

    def array(self, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """See :meth:`ByteSource.array`; a copy.

        :raises ValueError: more is asked for than the file could hold: tables that are mostly hole
        """
        if offset < 0 or size < 0:
            raise ValueError("negative offset or size")
        size = max(0, min(size, self.size - offset))
        if size > self._outer.size + (1 << 20):
            raise ValueError("a table of the dump is larger than the file")
        data = np.zeros(size, dtype=np.uint8)
        number = max(0, bisect_right(self._starts, offset) - 1)
        while number < len(self._pieces) and self._pieces[number].start < offset + size:
            piece = self._pieces[number]
            low = max(piece.start, offset)
            high = min(piece.end, offset + size)
            if low < high:
                part = self._outer.pread(self._positions[number] + low - piece.start, high - low)
                data[low - offset : low - offset + len(part)] = np.frombuffer(part, dtype=np.uint8)
            number += 1
        data.flags.writeable = False
        return data
