"""The ring buffer of each CPU: which pages it has, and in which order they are read
(kernel/trace/ring_buffer.c).

A reader takes pages out of the ring one by one, in exchange for its own: what is still to be read begins on
that page, goes on at the head of the ring and ends on the page that events are committed to. The pointers of
the list carry two bits: the one to the head is marked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdump.kernel.percpu import possible_cpus
from mmdump_trace.layout import TraceLayout, read_record

if TYPE_CHECKING:
    from mmdump.kernel.arrays import U64
    from mmdump.target import Reader, Target

__all__ = ["CpuRing", "Ring", "read_ring"]

#: Pages of one CPU's buffer: 256 GiB of 4 KiB pages are more than anybody traces into.
_MOST_PAGES = 1 << 26
#: The largest sub-buffer, by its order: ``ring_buffer_subbuf_order_set()`` takes up to the page allocator's.
_MOST_ORDER = 10
#: RB_FLAG_MASK: bits in a pointer to the next page, RB_PAGE_HEAD or, while it is moved, RB_PAGE_UPDATE.
_FLAGS = 3
#: Bytes of one read of structures that lie close together.
_BLOCK = 4096


@dataclass(frozen=True)
class CpuRing:
    """What one CPU has written and nobody has read.

    :param cpu: Its number.
    :param pages: Addresses of the sub-buffers (``struct buffer_data_page``) in reading order, uint64.
    :param first_read: Bytes of data of the first that were read already.
    :param entries: Events in the buffer by its own count; ``ring_buffer_entries_cpu()``.
    :param overrun: Events that were overwritten before anybody read them.
    :param dropped: Events that were not written, as the buffer was full (without overwriting).
    :param commit_overrun: Events that were not written, as the writer was interrupted too deeply.
    :param writing: Whether an event was being written when the dump was taken.
    :param problems: One sentence for each thing that is wrong with it.
    """

    cpu: int
    pages: U64
    first_read: int
    entries: int
    overrun: int
    dropped: int = 0
    commit_overrun: int = 0
    writing: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ring:
    """A ring buffer.

    :param subbuf_size: Bytes of each of its sub-buffers, header included.
    :param cpus: Of each CPU that has one, in ascending order.
    :param problems: What is wrong with it as a whole.
    """

    subbuf_size: int
    cpus: tuple[CpuRing, ...]
    problems: tuple[str, ...] = ()


def read_ring(target: Target, layout: TraceLayout, address: int) -> Ring:
    """Read a ``struct trace_buffer`` and the lists of pages it leads to. What is broken is said, not raised.

    :raises drgn.FaultError: The mask of possible CPUs is not in the dump.
    """
    reader = target.reader
    buffer = read_record(reader, address, layout.buffer)
    if buffer is None:
        return Ring(layout.page_size, (), ("the ring buffer is not in the dump",))
    order = int(buffer["subbuf_order"]) if "subbuf_order" in (layout.buffer.names or ()) else 0
    if not 0 <= order <= _MOST_ORDER:
        return Ring(layout.page_size, (), ("the ring buffer is garbage: it has sub-buffers of no size",))
    table = address + layout.buffer.itemsize if layout.buffers_inline else int(buffer["buffers"])
    possible = possible_cpus(target.prog)
    pointers = reader.read(table, 8 * (max(possible, default=-1) + 1))
    missing = pointers.row_status(8, len(pointers.data) // 8) != 0
    words = pointers.data.view(layout.order + "u8")
    rings = []
    lost = 0
    for cpu in possible:
        if cpu >= len(words) or missing[cpu]:
            lost += 1
        elif words[cpu]:
            rings.append(_CpuReader(reader, layout, layout.page_size << order, cpu).read(int(words[cpu])))
    problems = (f"where the buffers of {lost} CPUs are is not in the dump",) if lost else ()
    return Ring(layout.page_size << order, tuple(rings), problems)


@dataclass
class _CpuReader:
    """Follows the list of one CPU's buffer.

    :ivar blocks: Memory read so far: ``struct buffer_page`` lie close together.
    """

    reader: Reader
    layout: TraceLayout
    subbuf_size: int
    cpu: int
    problems: list[str] = field(default_factory=list)
    blocks: dict[int, bytes | None] = field(default_factory=dict)

    def read(self, address: int) -> CpuRing:
        buffer = read_record(self.reader, address, self.layout.cpu_buffer)
        if buffer is None:
            return self._nothing("its buffer is not in the dump")
        if int(buffer["cpu"]) != self.cpu:
            return self._nothing(f"its buffer is garbage: it says that it is CPU {int(buffer['cpu'])}'s")
        entries, overrun, read = (int(buffer[name]) for name in ("entries", "overrun", "read"))
        count = entries - overrun - read
        if count < 0 or overrun < 0:
            self._problem("the counts of its events are garbage")
            count, overrun = max(count, 0), max(overrun, 0)
        pages, first_read, writing = self._in_order(buffer)
        self.blocks.clear()
        return CpuRing(
            self.cpu,
            np.array(pages, np.uint64),
            first_read,
            count,
            overrun,
            self._counter(buffer, "dropped_events"),
            self._counter(buffer, "commit_overrun"),
            writing,
            tuple(f"CPU {self.cpu}: {each}" for each in self.problems),
        )

    def _nothing(self, why: str) -> CpuRing:
        return CpuRing(self.cpu, np.empty(0, np.uint64), 0, 0, 0, problems=(f"CPU {self.cpu}: {why}",))

    def _problem(self, sentence: str) -> None:
        self.problems.append(sentence)

    def _counter(self, buffer: Any, name: str) -> int:
        return max(0, int(buffer[name])) if name in (buffer.dtype.names or ()) else 0

    def _in_order(self, buffer: Any) -> tuple[list[int], int, bool]:
        """The sub-buffers in reading order, what of the first was read, and whether a writer was at work."""
        reader_page, commit_page = int(buffer["reader_page"]), int(buffer["commit_page"])
        reader = self._page(reader_page)
        pages: list[int] = []
        first_read = 0
        if reader is None:
            self._problem("its reader's page is not in the dump: the oldest events are missing")
        else:
            pages.append(int(reader["page"]))
            first_read = int(reader["read"])
        writing = self._writing(buffer, commit_page)
        if commit_page == reader_page and reader is not None:
            return pages, first_read, writing
        ring, head = self._follow(buffer)
        # What is in the ring begins at its head and ends at the page of the last commit.
        ring = ring[head:] + ring[:head]
        addresses = [address for address, _ in ring]
        if commit_page in addresses:
            ring = ring[: addresses.index(commit_page) + 1]
        elif ring:
            self._problem("the page it last wrote to is not in its list: the newest events may be missing")
        pages += [page for _, page in ring]
        return pages, first_read, writing

    def _writing(self, buffer: Any, commit_page: int) -> bool:
        """Whether space was reserved for an event that was not committed yet."""
        if int(buffer["tail_page"]) != commit_page:
            return True
        page = self._page(commit_page)
        if page is None:
            return False
        data = read_record(self.reader, int(page["page"]), self.layout.data_page)
        # RB_WRITE_MASK: above it the writers that moved the page are counted.
        return data is not None and int(page["write"]) & 0xFFFFF != int(data["commit"]) & 0x3FFFFFFF

    def _follow(self, buffer: Any) -> tuple[list[tuple[int, int]], int]:
        """The ring as (``struct buffer_page``, its sub-buffer), and where in that the head is."""
        count = int(buffer["nr_pages"])
        best: tuple[list[tuple[int, int]], int | None, bool] = ([], None, False)
        # Any page of the ring leads to all others, where it is whole.
        for name in ("pages", "head_page", "commit_page", "tail_page"):
            found, head, whole = self._around(int(buffer[name]) & ~_FLAGS, min(count, _MOST_PAGES))
            if len(found) > len(best[0]):
                best = found, head, whole
            if len(found) == count:
                break
        found, head, whole = best
        if len(found) != count or not whole:
            self._problem(f"its list of {count} pages is torn: {len(found)} of them could be found")
        addresses = [address for address, _ in found]
        if head not in addresses:
            head = int(buffer["head_page"])
        if head not in addresses:
            if found:
                self._problem("the head of its list is unknown: the order of its events is uncertain")
            return found, 0
        return found, addresses.index(head)

    def _around(self, start: int, most: int) -> tuple[list[tuple[int, int]], int | None, bool]:
        """All pages that one leads to, in order, the one that is marked as the head, whether it closed."""
        found, head, whole = self._walk(start, most, "next")
        if not whole and found:
            # What comes before where the list is torn can be reached from its other end.
            backward, _, _ = self._walk(start, most - len(found), "prev")
            known = {address for address, _ in found}
            found = [each for each in backward if each[0] not in known][::-1] + found
        return found, head, whole

    def _walk(self, start: int, most: int, direction: str) -> tuple[list[tuple[int, int]], int | None, bool]:
        """Follow the list one way: pages found, the one that is marked as the head, whether it closed."""
        found: list[tuple[int, int]] = []
        seen: set[int] = set()
        head: int | None = None
        at, back = start, "prev" if direction == "next" else "next"
        before: int | None = None
        while len(found) < most and at not in seen:
            page = self._page(at)
            if page is None or (before is not None and int(page[back]) & ~_FLAGS != before):
                return found, head, False
            seen.add(at)
            if before is not None or direction == "next":
                found.append((at, int(page["page"])))
            link = int(page[direction])
            if link & _FLAGS and direction == "next":
                head = link & ~_FLAGS
            before, at = at, link & ~_FLAGS
        return found, head, at == start

    def _page(self, address: int) -> Any | None:
        """A ``struct buffer_page``; None where it is not in the dump."""
        dtype = self.layout.buffer_page
        raw = self._bytes(address, dtype.itemsize)
        return None if raw is None else np.frombuffer(raw, dtype, 1)[0]

    def _bytes(self, address: int, size: int) -> bytes | None:
        if not address or address % 8:
            return None
        block, offset = address // _BLOCK * _BLOCK, address % _BLOCK
        if offset + size > _BLOCK:
            chunk = self.reader.read(address, size)
            return chunk.data.tobytes() if chunk.complete else None
        if block not in self.blocks:
            chunk = self.reader.read(block, _BLOCK)
            self.blocks[block] = chunk.data.tobytes() if chunk.complete else None
        found = self.blocks[block]
        return None if found is None else found[offset : offset + size]
