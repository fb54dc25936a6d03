"""The events on the pages of ring buffers, many pages at once (kernel/trace/ring_buffer.c).

Where an event begins only its predecessor tells, so that the first events of all pages are decoded together,
then the second ones, and so on: as many steps as the fullest page has events, whatever the number of pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.kernel.arrays import I64, U64, Bools, Struct
    from mmdump.target import Reader
    from mmdump_trace.layout import TraceLayout

__all__ = ["RawEvents", "RawPages", "decode_pages", "read_pages"]

#: RB_MISSED_EVENTS and RB_MISSED_STORED, which stand in ``commit`` beside its value.
_COMMIT, _MISSED = np.int64((1 << 30) - 1), np.int64(1 << 31)
#: Values of type_len; those up to 28 are the length of the data in words.
_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
#: ``TS_MSB``: an absolute time stamp has the 59 bits below.
_STAMP_BITS = np.uint64((1 << 59) - 1)
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class RawPages:
    """Sub-buffers as they lie in memory.

    :param words: uint32 array of shape (pages, words of a sub-buffer), in the dump's byte order.
    :param stamps: The time of each page, uint64.
    :param commit: Bytes of data on each page that hold events, int64; 0 where there are none or it is lost.
    :param missed: Pages before which events were lost, as the writer itself noted.
    :param lost: Pages that are not in the dump.
    :param garbage: Pages that say that they hold more than fits.
    """

    words: Struct
    stamps: U64
    commit: I64
    missed: Bools
    lost: Bools
    garbage: Bools


@dataclass(frozen=True)
class RawEvents:
    """Events with data, in the order of their pages.

    :param page: Row of the page each lies on, int64.
    :param start: Where its data begins: word of the page, int64.
    :param size: Bytes of its data, int64; ``ring_buffer_event_length()``.
    :param stamp: Its time on the trace's clock, uint64.
    :param torn: Pages whose events could not be followed to the end: rows, int64.
    """

    page: I64
    start: I64
    size: I64
    stamp: U64
    torn: I64


def read_pages(reader: Reader, layout: TraceLayout, addresses: U64, subbuf_size: int) -> RawPages:
    """Read sub-buffers; neighbours in memory together.

    :param addresses: Of each ``struct buffer_data_page``, uint64.
    """
    count = len(addresses)
    raw = np.zeros((count, subbuf_size), np.uint8)
    lost = np.zeros(count, bool)
    order = np.argsort(addresses, kind="stable")
    inorder = addresses[order]
    breaks = np.flatnonzero(np.diff(inorder) != np.uint64(subbuf_size)) + 1
    for rows in np.split(order, breaks):
        if not len(rows):
            continue
        # No more at once than one read takes.
        for part in np.split(rows, range(_MOST_TOGETHER, len(rows), _MOST_TOGETHER)):
            chunk = reader.read(int(addresses[part[0]]), subbuf_size * len(part))
            if len(chunk.data) != subbuf_size * len(part):
                lost[part] = True
                continue
            raw[part] = chunk.data.reshape(len(part), subbuf_size)
            if not chunk.complete:
                lost[part] = chunk.row_status(subbuf_size, len(part)) != ReadStatus.READ
    raw[lost] = 0
    header = raw[:, : layout.header_size].copy().view(layout.data_page).reshape(-1)
    stored = header["commit"].astype(np.int64)
    commit = stored & _COMMIT
    garbage = (commit > subbuf_size - layout.header_size) | (commit % 4 != 0)
    return RawPages(
        raw.view(layout.order + "u4"),
        header["time_stamp"].astype(np.uint64),
        np.where(garbage, 0, commit),
        (stored & _MISSED) != 0,
        lost,
        garbage,
    )


#: Sub-buffers that lie together and are read together: 16 MiB of single pages.
_MOST_TOGETHER = 1 << 12


def decode_pages(pages: RawPages, layout: TraceLayout, skip: I64) -> RawEvents:
    """Find the events on the pages, and when they happened.

    Mirrors ``rb_iter_peek()``: time extends add up, an absolute time stamp stands for the event behind it,
    and discarded events (padding with a length) count neither as events nor in time. What does not fit where
    it claims to be ends its page.

    :param skip: Bytes of data of each page that were read before, int64.
    """
    words, width = pages.words.reshape(-1), pages.words.shape[1]
    big = layout.order == ">"
    first = layout.header_size // 4
    live = np.flatnonzero(pages.commit > 0)
    at = np.zeros(len(live), np.int64)
    end = pages.commit[live] >> 2
    stamp = pages.stamps[live].copy()
    absolute = np.zeros(len(live), np.uint64)
    found: list[tuple[I64, I64, I64, U64]] = []
    torn: list[I64] = []
    while len(live):
        # The shortest event is of two words: each has its first two.
        fits = at + 2 <= end
        if not fits.all():
            torn.append(live[~fits & (at < end)])
            live, at, end, stamp, absolute = _rows(fits, live, at, end, stamp, absolute)
            if not len(live):
                break
        place = live * width + first + at
        header = words[place]
        array = words[place + 1].astype(np.int64)
        if big:
            kind, delta = (header >> 27).astype(np.int64), (header & 0x7FFFFFF).astype(np.uint64)
        else:
            kind, delta = (header & 31).astype(np.int64), (header >> 5).astype(np.uint64)
        data = kind < _PADDING
        large = kind == 0
        # In words: an event of its own length has that in the word after its header, and counts it.
        counted = (array + 4) >> 2
        length = np.where(large, counted, kind + 1)
        special = np.flatnonzero(~data)
        good = ~large | ((array >= 4) & (array & 3 == 0))
        if len(special):
            sort = kind[special]
            length[special] = np.where(sort == _PADDING, counted[special], 2)
            padding = sort == _PADDING
            good[special] = ~padding | ((array[special] >= 4) & (array[special] & 3 == 0))
            # Padding without a time ends the page: nothing follows, whatever its length says.
            over = special[padding & (delta[special] == 0)]
            good[over] = True
            length[over] = end[over] - at[over]
            extend = special[sort == _TIME_EXTEND]
            stamp[extend] += (array[extend].astype(np.uint64) << np.uint64(27)) + delta[extend]
            fixed = special[sort == _TIME_STAMP]
            if len(fixed):
                low = ((array[fixed].astype(np.uint64) << np.uint64(27)) + delta[fixed]) & _STAMP_BITS
                stamp[fixed] = absolute[fixed] = _with_upper_bits(low, stamp[fixed])
        good &= (length >= 2) & (at + length <= end)
        if not good.all():
            torn.append(live[~good])
            live, at, end, stamp, absolute = _rows(good, live, at, end, stamp, absolute)
            length, data, large, delta = _rows(good, length, data, large, delta)
        after = stamp + np.where(data, delta, np.uint64(0))
        seen = np.flatnonzero(data & (at >= skip[live] >> 2))
        if len(seen):
            offset = 1 + large[seen]
            found.append(
                (
                    live[seen],
                    first + at[seen] + offset,
                    (length[seen] - offset) * 4,
                    np.where(absolute[seen] != 0, absolute[seen], after[seen]),
                )
            )
        absolute[data] = 0
        stamp = after
        at = at + length
        going = at < end
        if not going.all():
            live, at, end, stamp, absolute = _rows(going, live, at, end, stamp, absolute)
    if not found:
        return RawEvents(_NONE, _NONE, _NONE, _NONE.astype(np.uint64), np.concatenate([_NONE, *torn]))
    page, start, size, when = (np.concatenate([each[part] for each in found]) for part in range(4))
    # Within a page they were found in order.
    inorder = np.argsort(page, kind="stable")
    return RawEvents(
        page[inorder], start[inorder], size[inorder], when[inorder], np.concatenate([_NONE, *torn])
    )


def _rows(which: Bools, *columns: Struct) -> tuple[Struct, ...]:
    return tuple(each[which] for each in columns)


def _with_upper_bits(low: U64, before: U64) -> U64:
    """``rb_fix_abs_ts()``: the five bits that an absolute time stamp has no room for."""
    upper = before & ~_STAMP_BITS
    whole = low | upper
    wrapped = (upper != 0) & (whole < before)
    return np.where(wrapped, whole + _STAMP_BITS + np.uint64(1), whole)
