"""makedumpfile's flattened format: a dump as a stream of (offset, size, data) records.

Written by ``makedumpfile -F`` and by QEMU's dump-guest-memory with -z, -l or -s, to be sent through a
pipe (makedumpfile.h: struct makedumpfile_header, struct makedumpfile_data_header).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

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
#: makedumpfile writes records of up to megabytes, QEMU of 16 KiB. More than so many, of less than so many
#: bytes each, are a file made to exhaust memory.
MANY_RECORDS = 1 << 20
LEAST_SIZE = 1 << 10
MAX_RECORDS = 1 << 25
#: Headers are written twice; no more than so many records hide others.
MAX_OVERLAPPING = 1 << 16
#: Bytes read at once where records are short.
WINDOW = 1 << 16
#: A dump that would be larger than this once flattened out does not exist.
MAX_OFFSET = 1 << 56

Words = npt.NDArray[np.int64]


class FlattenedSource:
    """The dump inside a flattened file. Where nothing was written there are zeros.

    :param outer: The flattened file.
    :raises ValueError: not a flattened file, or a damaged one; the message says what is wrong
    """

    def __init__(self, outer: ByteSource) -> None:
        self._outer = outer
        #: Whether the file ends without the end marker.
        self.truncated = True
        header = outer.pread(0, HEADER.size)
        if len(header) < HEADER.size or outer.size < HEADER_SIZE:
            raise ValueError("the header of the flattened format is cut off")
        signature, kind, _version = HEADER.unpack(header)
        if signature != SIGNATURE or kind != TYPE_FLATTENED:
            raise ValueError("not a file in makedumpfile's flattened format")
        # Pieces of data, sorted and disjoint: where they are in the dump, and where they begin in the file.
        self._starts, self._ends, self._positions = _disjoint(*self._records())
        self.size = int(self._ends[-1]) if len(self._ends) else 0

    def _records(self) -> tuple[Words, Words, Words]:
        """Start and end in the dump, and position in the file, of every record's data."""
        outer = self._outer
        starts, ends, positions = array("q"), array("q"), array("q")
        position = HEADER_SIZE
        window, base = b"", 0
        size = WINDOW
        while True:
            if not base <= position <= base + len(window) - RECORD.size:
                # Records of a page or more are skipped over, not read.
                window, base = outer.pread(position, WINDOW if size < LEAST_SIZE else RECORD.size), position
                if len(window) < RECORD.size:
                    break
            offset, size = RECORD.unpack_from(window, position - base)
            position += RECORD.size
            if offset == -1 and size == -1:
                self.truncated = False
                break
            if offset < 0 or size <= 0 or offset + size > MAX_OFFSET:
                raise ValueError(f"a record of the flattened format at offset {position} is damaged")
            available = min(size, outer.size - position)
            if available > 0:
                starts.append(offset)
                ends.append(offset + available)
                positions.append(position)
            position += size
            if len(starts) > MANY_RECORDS and (
                position < LEAST_SIZE * len(starts) or len(starts) > MAX_RECORDS
            ):
                raise ValueError("the flattened format has too many records")
        return (
            np.frombuffer(starts, np.int64),
            np.frombuffer(ends, np.int64),
            np.frombuffer(positions, np.int64),
        )

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """(offset, size, position in the flattened file) of all data, sorted by offset, disjoint."""
        for start, end, position in zip(self._starts, self._ends, self._positions, strict=True):
            yield int(start), int(end - start), int(position)

    @property
    def stored(self) -> int:
        """Bytes of data there are."""
        return int((self._ends - self._starts).sum())

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
        first = max(0, int(np.searchsorted(self._starts, offset, "right")) - 1)
        last = int(np.searchsorted(self._starts, offset + size, "left"))
        for start, end, position in zip(
            *(each[first:last].tolist() for each in (self._starts, self._ends, self._positions)), strict=True
        ):
            low, high = max(start, offset), min(end, offset + size)
            if low < high:
                part = self._outer.pread(position + low - start, high - low)
                data[low - offset : low - offset + len(part)] = np.frombuffer(part, dtype=np.uint8)
        data.flags.writeable = False
        return data


def _disjoint(starts: Words, ends: Words, positions: Words) -> tuple[Words, Words, Words]:
    """The same sorted by offset, without what later records hide.

    :raises ValueError: More overlap than ever do.
    """
    order = np.argsort(starts, kind="stable")
    first, last = starts[order], ends[order]
    # Records that overlap lie between two offsets that none of them crosses.
    reach = np.maximum.accumulate(last) if len(last) else last
    alone = np.ones(len(first), np.bool_)
    alone[1:] &= first[1:] >= reach[:-1]
    alone[:-1] &= alone[1:]
    if alone.all():
        return first, last, positions[order]
    tangled = np.flatnonzero(~alone)
    if len(tangled) > MAX_OVERLAPPING:
        raise ValueError("the flattened format has too many records that overlap")
    # In the order in which they were written.
    numbers = np.sort(order[tangled])
    pieces = overlay(list(zip(starts[numbers].tolist(), ends[numbers].tolist(), strict=True)))
    source = numbers[[piece.number for piece in pieces]]
    begin = np.array([piece.start for piece in pieces], np.int64)
    first = np.concatenate([first[alone], begin])
    last = np.concatenate([last[alone], np.array([piece.end for piece in pieces], np.int64)])
    where = np.concatenate([positions[order][alone], positions[source] + begin - starts[source]])
    order = np.argsort(first, kind="stable")
    return first[order], last[order], where[order]
