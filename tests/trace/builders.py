"""Ring buffers made by hand: pages as the kernel's writer fills them, and memory to put them in."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmdump.target.reader import Chunk, ReadStatus
from mmdump_trace.layout import TraceLayout

PAGE = 4096
#: Of struct buffer_data_page.
HEADER = 16
_COUNTS = ("cpu", "entries", "overrun", "read", "dropped_events", "commit_overrun")
_POINTERS = ("nr_pages", "pages", "head_page", "tail_page", "commit_page", "reader_page")
CPU_BUFFER = np.dtype([*((name, "<i8") for name in _COUNTS), *((name, "<u8") for name in _POINTERS)])
_WORDS = ("next", "prev", "write", "read", "entries", "page")
BUFFER_PAGE = np.dtype([(name, "<u8") for name in _WORDS])
LAYOUT = TraceLayout(
    order="<",
    page_size=PAGE,
    array=np.dtype([("next", "<u8")]),
    array_list=0,
    buffer=np.dtype([("subbuf_order", "<i4"), ("pad", "<i4"), ("buffers", "<u8")]),
    buffers_inline=False,
    cpu_buffer=CPU_BUFFER,
    buffer_page=BUFFER_PAGE,
    data_page=np.dtype([("time_stamp", "<u8"), ("commit", "<u8")]),
    entry=np.dtype([("type", "<u2"), ("flags", "u1"), ("preempt_count", "u1"), ("pid", "<i4")]),
    option_bits={},
    event_flags={},
)


@dataclass
class Memory:
    """Memory by address: pages of which nothing is there cannot be read."""

    parts: dict[int, bytes] = field(default_factory=dict)

    def read(self, address: int, size: int) -> Chunk:
        """As :meth:`mmdump.target.Reader.read`."""
        first = address // PAGE
        pages = (address + size + PAGE - 1) // PAGE - first
        data, status = np.zeros(size, np.uint8), np.full(pages, ReadStatus.UNREADABLE, np.uint8)
        for start, part in self.parts.items():
            touched = range(start // PAGE - first, (start + len(part) - 1) // PAGE - first + 1)
            status[[page for page in touched if 0 <= page < pages]] = ReadStatus.READ
            low, high = max(start, address), min(start + len(part), address + size)
            if low < high:
                raw = np.frombuffer(part, np.uint8)
                data[low - address : high - address] = raw[low - start : high - start]
        data.flags.writeable = False
        return Chunk(address, data, status, PAGE, complete=not status.any())


def data_event(payload: bytes, delta: int) -> bytes:
    """An event: up to 112 bytes of data have their length in the header."""
    assert len(payload) % 4 == 0
    assert payload
    if len(payload) <= 112:
        return struct.pack("<I", delta << 5 | len(payload) // 4) + payload
    return struct.pack("<II", delta << 5, len(payload) + 4) + payload


def time_extend(delta: int) -> bytes:
    """More time than fits into a header."""
    return struct.pack("<II", (delta & 0x7FFFFFF) << 5 | 30, delta >> 27)


def time_stamp(stamp: int) -> bytes:
    """An absolute time, without its upper five bits."""
    stamp &= (1 << 59) - 1
    return struct.pack("<II", (stamp & 0x7FFFFFF) << 5 | 31, stamp >> 27)


def discarded(size: int) -> bytes:
    """An event that was given up: padding with a length, and a time that says so."""
    return struct.pack("<II", 1 << 5 | 29, size + 4) + b"\xaa" * size


def page_of(stamp: int, data: bytes, size: int = PAGE, commit: int | None = None) -> bytes:
    """A sub-buffer."""
    head = struct.pack("<QQ", stamp, len(data) if commit is None else commit)
    return (head + data).ljust(size, b"\0")


def entry(kind: int, pid: int, rest: bytes = b"", flags: int = 0, preempt: int = 0) -> bytes:
    """An event's data: what all have in common, and more."""
    return struct.pack("<HBBi", kind, flags, preempt, pid) + rest


@dataclass
class CpuPages:
    """The pages of one CPU's buffer in memory: the reader's, then the ring, whose head is page ``head``."""

    memory: Memory
    base: int
    ring: Sequence[bytes]
    reader: bytes
    head: int = 0
    commit: int | None = None
    read: int = 0

    def descriptor(self, number: int) -> int:
        """Address of the struct buffer_page of a page of the ring; -1 is the reader's."""
        return self.base + 0x100000 + (number + 1) * 64

    def data(self, number: int) -> int:
        """Address of a sub-buffer."""
        return self.base + 0x200000 + (number + 1) * 2 * PAGE

    def write(self, **changed: int) -> int:
        """Put all into memory; the address of the struct ring_buffer_per_cpu."""
        count = len(self.ring)
        commit = self.commit if self.commit is not None else (self.head - 1) % count
        for number in range(-1, count):
            following, before = self.descriptor((number + 1) % count), self.descriptor((number - 1) % count)
            flag = 1 if number >= 0 and (number + 1) % count == self.head else 0
            record = np.zeros(1, BUFFER_PAGE)
            record["next"], record["prev"], record["page"] = following | flag, before, self.data(number)
            record["read"] = self.read if number < 0 else 0
            page = self.reader if number < 0 else self.ring[number]
            record["write"] = int.from_bytes(page[8:16], "little") & 0xFFFFF
            self.memory.parts[self.descriptor(number)] = record.tobytes()
            self.memory.parts[self.data(number)] = page
        buffer = np.zeros(1, CPU_BUFFER)
        buffer["nr_pages"], buffer["pages"] = count, self.descriptor(0)
        buffer["head_page"], buffer["reader_page"] = self.descriptor(self.head), self.descriptor(-1)
        buffer["commit_page"] = buffer["tail_page"] = self.descriptor(commit)
        for name, value in changed.items():
            buffer[name] = value
        self.memory.parts[self.base] = buffer.tobytes()
        return self.base
