"""A CPU's ring buffer as the kernel fills it (kernel/trace/ring_buffer.c): events, times, padding, readers.

Nothing here has an address: :mod:`.trace` lays the pages out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["HEADER", "CpuBuffer", "SubBuffer"]

#: Bytes of a sub-buffer before its data, BUF_PAGE_HDR_SIZE.
HEADER = 16
#: ``enum ring_buffer_type``: what ``type_len`` says beyond a length.
_PADDING, _TIME_EXTEND = 29, 30
#: RB_MAX_SMALL_DATA: larger events have their length in a word of its own.
_SMALL = 4 * 28
#: Bits of a time delta; what is longer needs an event of its own (RB_LEN_TIME_EXTEND bytes).
_DELTA_BITS, _EXTEND = 27, 8
#: RB_WRITE_INTCNT: how often a page was written to is counted above the index (RB_WRITE_MASK).
_WRITE_COUNT = 1 << 20


@dataclass(eq=False)
class SubBuffer:
    """``struct buffer_page`` and its data.

    :ivar stamp: Time of the first event.
    :ivar data: What was committed.
    :ivar behind: Padding behind that, in a page that is full.
    :ivar entries: Events on it, those that are padding for time alone not among them.
    :ivar read: Bytes that the reader has read.
    :ivar turns: How often it was written to before.
    """

    stamp: int = 0
    data: bytearray = field(default_factory=bytearray)
    behind: bytes = b""
    entries: int = 0
    read: int = 0
    turns: int = 0

    @property
    def write(self) -> int:
        """``buffer_page->write``."""
        return self.turns * _WRITE_COUNT + len(self.data)

    def reset(self) -> None:
        """Empty it, for what comes next."""
        self.stamp, self.data, self.behind, self.entries, self.read = 0, bytearray(), b"", 0, 0


class CpuBuffer:
    """``struct ring_buffer_per_cpu``.

    :param pages: Sub-buffers in the ring; the reader has one more.
    :param size: Bytes of a sub-buffer, header included.
    :param overwrite: Whether the newest events take the place of the oldest; if not they are dropped.
    :ivar ring: The ring, from any page on.
    :ivar reader: The reader's page.
    :ivar head: Index of the oldest page of the ring.
    :ivar tail: Index of the page that is written to.
    :ivar entries: Events ever written; those that were overwritten or read are among them.
    """

    def __init__(self, pages: int, size: int, *, overwrite: bool = True) -> None:
        if pages < 2:
            raise ValueError("a ring buffer has two pages at least")
        self.ring = [SubBuffer() for _ in range(pages)]
        self.reader = SubBuffer()
        self.swapped = False
        self.head = self.tail = 0
        self.entries = self.overrun = self.dropped = self.read = 0
        self.touched = self.lost = self.pages_read = 0
        self.bytes = self.read_bytes = 0
        self._capacity = size - HEADER
        self._overwrite = overwrite
        self._stamp = 0

    def write(self, time: int, event: bytes) -> bool:
        """``ring_buffer_lock_reserve()`` and ``ring_buffer_unlock_commit()``.

        :param time: Not before that of the last event.
        :return: Whether it was recorded.
        :raises ValueError: It does not fit into any sub-buffer, or comes before its predecessor.
        """
        raw = _event(event, 0)
        if len(raw) > self._capacity - _EXTEND or time < self._stamp:
            raise ValueError("no event of a ring buffer")
        page = self.ring[self.tail]
        delta = time - self._stamp if page.data else 0
        extend = delta >> _DELTA_BITS
        if page.data and len(page.data) + len(raw) + (_EXTEND if extend else 0) > self._capacity:
            if not self._next():
                self.dropped += 1
                return False
            page, delta, extend = self.ring[self.tail], 0, 0
        if not page.data:
            page.stamp = time
        if extend:
            low = delta & ((1 << _DELTA_BITS) - 1)
            page.data += _word(_TIME_EXTEND, low) + extend.to_bytes(4, "little")
            delta = 0
        page.data += _event(event, delta)
        page.entries += 1
        self.entries += 1
        self._stamp = time
        return True

    def _next(self) -> bool:
        """``rb_move_tail()``: on to the next page, if need be by giving up the oldest."""
        following = (self.tail + 1) % len(self.ring)
        if following == self.head:
            if not self._overwrite:
                return False
            self.overrun += self.ring[following].entries
            self.lost += 1
            self.head = (following + 1) % len(self.ring)
        page = self.ring[self.tail]
        # rb_reset_tail(): readers of whole pages find padding where nothing more fits.
        left = self._capacity - len(page.data)
        if left >= 8:
            page.behind = _word(_PADDING, 1) + (left - 4).to_bytes(4, "little")
        elif left:
            page.behind = _word(_PADDING, 0)
        self.tail = following
        self.touched += 1
        self.ring[following].reset()
        self.ring[following].turns += 1
        return True

    def consume(self, count: int) -> None:
        """``ring_buffer_consume()``: ``trace_pipe`` was read so far.

        The reader takes the oldest page in exchange for its own.

        :raises ValueError: There are not so many on pages that the writer has left.
        """
        while count:
            if self.reader.read >= len(self.reader.data):
                if self.head == self.tail:
                    raise ValueError("so many events were not written, or are on the writer's page")
                self.reader.reset()
                self.reader, self.ring[self.head] = self.ring[self.head], self.reader
                self.head = (self.head + 1) % len(self.ring)
                self.swapped = True
                self.pages_read += 1
            skip = _skip(self.reader.data, self.reader.read)
            self.reader.read += skip
            self.read_bytes += skip
            self.read += 1
            count -= 1


def _word(type_len: int, delta: int) -> bytes:
    """The first word of an event: ``type_len:5, time_delta:27`` of a little-endian kernel."""
    return (type_len | delta << 5).to_bytes(4, "little")


def _event(data: bytes, delta: int) -> bytes:
    """``rb_calculate_event_length()``, ``rb_update_event()``."""
    length = max(len(data), 1)
    length = -(-(length + 4 + (4 if length > _SMALL else 0)) // 4) * 4
    # A time extend and the least that is aligned: an event that is discarded leaves room for no other.
    if length == _EXTEND + 4:
        length += 4
    content = length - 4
    size = content.to_bytes(4, "little") if content > _SMALL else b""
    head = _word(0 if size else content // 4, delta) + size
    return (head + data).ljust(length, b"\0")


def _skip(data: bytearray, at: int) -> int:
    """Bytes from one event with data to the next."""
    start = at
    while True:
        word = int.from_bytes(data[at : at + 4], "little")
        kind = word & 31
        if kind == _TIME_EXTEND:
            at += _EXTEND
        elif kind:
            return at + 4 + 4 * kind - start
        else:
            return at + 4 + int.from_bytes(data[at + 4 : at + 8], "little") - start
