"""The ring buffer that the writer fills, against what mmdump makes of its pages."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Machine
from mmdump_snapshots.writer.image import build
from mmdump_snapshots.writer.ring_buffer import HEADER, CpuBuffer, SubBuffer
from mmdump_trace.layout import TraceLayout, read_trace_layout
from mmdump_trace.pages import RawPages, decode_pages

SIZE = 512
#: The least that needs a time extend, 134 ms.
LONG = 1 << 27


@cache
def _layout() -> TraceLayout:
    machine = Machine(profile("6.12").era, memory=64 << 20)
    return read_trace_layout(build(machine, profile("6.12")).program(), 4096)


def _unread(buffer: CpuBuffer) -> list[SubBuffer]:
    """The pages in reading order."""
    if buffer.head <= buffer.tail:
        ring = buffer.ring[buffer.head : buffer.tail + 1]
    else:
        ring = buffer.ring[buffer.head :] + buffer.ring[: buffer.tail + 1]
    return [buffer.reader, *ring]


def _decoded(buffer: CpuBuffer, size: int = SIZE) -> list[tuple[int, bytes]]:
    """Time and data of every event."""
    pages = _unread(buffer)
    raw = np.zeros((len(pages), size), np.uint8)
    for row, page in enumerate(pages):
        data = bytes(page.data) + page.behind
        raw[row, HEADER : HEADER + len(data)] = np.frombuffer(data, np.uint8)
    none = np.zeros(len(pages), bool)
    found = decode_pages(
        RawPages(
            raw.view("<u4"),
            np.array([page.stamp for page in pages], np.uint64),
            np.array([len(page.data) for page in pages]),
            none,
            none,
            none,
        ),
        _layout(),
        np.array([page.read for page in pages]),
    )
    assert not len(found.torn)
    return [
        (int(stamp), raw[page, 4 * start : 4 * start + length].tobytes())
        for page, start, length, stamp in zip(
            found.page.tolist(), found.start.tolist(), found.size.tolist(), found.stamp.tolist(), strict=True
        )
    ]


def _same(found: list[tuple[int, bytes]], written: list[tuple[int, bytes]]) -> bool:
    """Whether these are the events; data is padded to words."""
    return len(found) == len(written) and all(
        time == theirs and data[: len(event)] == event and len(data) - len(event) < 8
        for (time, data), (theirs, event) in zip(found, written, strict=True)
    )


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 300) | st.sampled_from([LONG - 1, LONG, LONG + 1, LONG << 20]),
        st.binary(min_size=1, max_size=200),
    ),
    max_size=80,
)


@given(EVENTS, st.integers(2, 6))
def test_what_was_not_overwritten_is_read_as_it_was_written(
    events: list[tuple[int, bytes]], pages: int
) -> None:
    buffer, time = CpuBuffer(pages, SIZE), 1000
    written = []
    for delta, data in events:
        time += delta
        assert buffer.write(time, data)
        written.append((time, data))
    assert buffer.entries == len(events)
    assert _same(_decoded(buffer), written[buffer.overrun :])
    assert sum(page.entries for page in _unread(buffer)) == buffer.entries - buffer.overrun


@given(EVENTS, st.integers(2, 4))
def test_without_overwriting_the_oldest_stay(events: list[tuple[int, bytes]], pages: int) -> None:
    buffer, time = CpuBuffer(pages, SIZE, overwrite=False), 1000
    written = []
    for delta, data in events:
        time += delta
        if buffer.write(time, data):
            written.append((time, data))
    assert buffer.entries + buffer.dropped == len(events)
    assert buffer.overrun == 0
    assert _same(_decoded(buffer), written)


@given(EVENTS.filter(lambda events: len(events) > 20), st.integers(0, 15), st.integers(0, 40))
def test_what_a_reader_took_is_not_read_again(
    events: list[tuple[int, bytes]], taken: int, later: int
) -> None:
    buffer, time = CpuBuffer(40, SIZE), 1000
    written = []
    for index, (delta, data) in enumerate(events):
        time += delta
        if index == min(later, len(events) - 1):
            on_pages = sum(page.entries for page in buffer.ring if page is not buffer.ring[buffer.tail])
            buffer.consume(min(taken, on_pages))
        buffer.write(time, data)
        written.append((time, data))
    assert _same(_decoded(buffer), written[buffer.read :])


def test_a_length_of_its_own_begins_above_28_words() -> None:
    buffer = CpuBuffer(2, SIZE)
    for size in (4, 8, 112, 113, 116):
        buffer.write(size, bytes(size))
    data = buffer.ring[0].data
    # 4 bytes make an event of 8, and 8 one of 16: that of 12 would leave no room for padding.
    assert [data[0] & 31, data[8] & 31, data[24] & 31] == [1, 3, 28]
    assert int.from_bytes(data[140:144], "little") & 31 == 0
    assert int.from_bytes(data[144:148], "little") == 120
    assert buffer.ring[0].entries == 5


def test_a_full_page_ends_in_padding() -> None:
    buffer = CpuBuffer(3, SIZE)
    while buffer.tail == 0:
        buffer.write(0, bytes(100))
    page = buffer.ring[0]
    assert len(page.data) + len(page.behind) <= SIZE - HEADER
    assert page.behind[0] & 31 == 29
    assert int.from_bytes(page.behind[4:8], "little") + 4 == SIZE - HEADER - len(page.data)


@pytest.mark.parametrize(("time", "size"), [(5, SIZE), (-1, 4)])
def test_no_event_is_larger_than_a_page_or_earlier_than_the_last(time: int, size: int) -> None:
    buffer = CpuBuffer(2, SIZE)
    buffer.write(0, bytes(4))
    with pytest.raises(ValueError, match="no event"):
        buffer.write(time, bytes(size))
