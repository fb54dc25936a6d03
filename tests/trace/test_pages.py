"""The events on pages of a ring buffer: where they begin and when they happened."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump_trace.pages import RawPages, decode_pages, read_pages
from tests.trace.builders import (
    HEADER,
    LAYOUT,
    PAGE,
    Memory,
    data_event,
    discarded,
    entry,
    page_of,
    time_extend,
    time_stamp,
)

BASE = 0xFFFF888000000000


def _read(*pages: bytes, size: int = PAGE) -> RawPages:
    memory = Memory({BASE + number * 2 * size: page for number, page in enumerate(pages)})
    addresses = np.array([BASE + number * 2 * size for number in range(len(pages))], np.uint64)
    return read_pages(memory, LAYOUT, addresses, size)  # type: ignore[arg-type]


def _events(*pages: bytes, skip: int = 0, size: int = PAGE) -> tuple[list[tuple[int, int, bytes]], list[int]]:
    """(page, time, data) of each event, and the torn pages."""
    raw = _read(*pages, size=size)
    read = np.zeros(len(pages), np.int64)
    read[0] = skip
    found = decode_pages(raw, LAYOUT, read)
    data = raw.words.view(np.uint8)
    return [
        (page, stamp, data[page, 4 * start : 4 * start + length].tobytes())
        for page, start, length, stamp in zip(
            found.page.tolist(),
            found.start.tolist(),
            found.size.tolist(),
            found.stamp.tolist(),
            strict=True,
        )
    ], found.torn.tolist()


SMALL, LARGE = entry(1, 7, b"abcd" * 3), entry(2, 8, b"wxyz" * 40)


def test_events_are_found_with_their_times_whatever_their_length() -> None:
    data = data_event(SMALL, 5) + data_event(LARGE, 10) + data_event(SMALL, 0)
    assert _events(page_of(1000, data)) == ([(0, 1005, SMALL), (0, 1015, LARGE), (0, 1015, SMALL)], [])


def test_a_time_extend_adds_to_the_events_behind_it() -> None:
    data = data_event(SMALL, 1) + time_extend(1 << 40) + data_event(SMALL, 2)
    assert [time for _, time, _ in _events(page_of(10, data))[0]] == [11, 13 + (1 << 40)]


def test_an_absolute_time_stands_for_the_event_behind_it_and_keeps_the_upper_bits() -> None:
    upper = 3 << 59
    data = time_stamp(500) + data_event(SMALL, 9) + data_event(SMALL, 1)
    # What is behind goes on from there, the difference of the first included.
    assert [time for _, time, _ in _events(page_of(upper | 100, data))[0]] == [upper | 500, upper | 510]
    wrapped = page_of(upper | ((1 << 59) - 1), time_stamp(2) + data_event(SMALL, 0))
    assert [time for _, time, _ in _events(wrapped)[0]] == [(4 << 59) | 2]


def test_what_was_discarded_is_no_event_and_takes_no_time() -> None:
    data = data_event(SMALL, 1) + discarded(20) + data_event(SMALL, 1)
    assert [time for _, time, _ in _events(page_of(0, data))[0]] == [1, 2]


def test_padding_without_a_time_ends_its_page() -> None:
    data = data_event(SMALL, 1) + struct.pack("<II", 29, 0xFFFFFFF0) + data_event(SMALL, 1)
    assert _events(page_of(0, data)) == ([(0, 1, SMALL)], [])


def test_what_a_reader_took_is_left_out_but_its_time_counts() -> None:
    first = data_event(SMALL, 100)
    assert _events(page_of(0, first + data_event(LARGE, 1)), skip=len(first))[0] == [(0, 101, LARGE)]


def test_pages_of_different_fill_are_told_apart() -> None:
    pages = [page_of(number * 100, data_event(SMALL, 1) * number) for number in range(5)]
    found, torn = _events(*pages)
    assert [page for page, _, _ in found] == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    assert not torn


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<II", 28, 0),
        struct.pack("<II", 0, 0x7FFFFFFF),
        struct.pack("<II", 0, 2),
        struct.pack("<II", 1 << 5 | 29, 0xFFFFFFFF),
        struct.pack("<II", 1 << 5 | 29, 3),
        struct.pack("<I", 1 << 5 | 1),
    ],
    ids=["past the end", "endless", "no length", "endless padding", "odd padding", "half a header"],
)
def test_garbage_ends_its_page_and_is_said(bad: bytes) -> None:
    good = data_event(SMALL, 1)
    found, torn = _events(page_of(0, good + bad), page_of(50, good))
    assert found == [(0, 1, SMALL), (1, 51, SMALL)]
    assert torn == [0]


def test_a_commit_beyond_the_page_is_garbage() -> None:
    raw = _read(page_of(0, data_event(SMALL, 1), commit=PAGE), page_of(0, data_event(SMALL, 1), commit=21))
    assert raw.garbage.tolist() == [True, True]
    assert not len(decode_pages(raw, LAYOUT, np.zeros(2, np.int64)).page)


def test_bits_beside_the_commit_say_that_events_were_missed() -> None:
    data = data_event(SMALL, 1)
    raw = _read(page_of(0, data, commit=len(data) | 1 << 31 | 1 << 30))
    assert raw.missed.tolist() == [True]
    assert raw.commit.tolist() == [len(data)]


def test_a_missing_page_is_lost_and_its_neighbours_are_not() -> None:
    data = data_event(SMALL, 1)
    memory = Memory({BASE: page_of(0, data), BASE + 2 * PAGE: page_of(9, data)})
    addresses = np.array([BASE + 2 * PAGE, BASE + PAGE, BASE], np.uint64)
    raw = read_pages(memory, LAYOUT, addresses, PAGE)  # type: ignore[arg-type]
    assert raw.lost.tolist() == [False, True, False]
    assert decode_pages(raw, LAYOUT, np.zeros(3, np.int64)).stamp.tolist() == [10, 1]


def _one_by_one(page: bytes) -> tuple[list[tuple[int, int, int]], bool]:
    """The events of a page, as the kernel's reader takes them one after the other."""
    stamp, commit = struct.unpack_from("<QQ", page)
    end, at, found, absolute = commit & 0x3FFFFFFF, 0, [], None
    if end > len(page) - HEADER or end % 4:
        return [], False
    while at < end:
        if at + 8 > end:
            return found, True
        word, array = struct.unpack_from("<II", page, HEADER + at)
        kind, delta = word & 31, word >> 5
        if kind == 29 and delta == 0:
            break
        own = kind in (0, 29)
        length = 4 + array if own else 8 if kind > 29 else 4 + 4 * kind
        if (own and (array < 4 or array % 4)) or at + length > end:
            return found, True
        if kind == 30:
            stamp += (array << 27) + delta
        elif kind == 31:
            low, upper = ((array << 27) + delta) & ((1 << 59) - 1), stamp & ~((1 << 59) - 1)
            after = low | upper
            stamp = after + (1 << 59) if upper and after < stamp else after
            stamp %= 1 << 64
            absolute = stamp
        elif kind < 29:
            stamp += delta
            offset = 8 if kind == 0 else 4
            when = absolute if absolute else stamp
            found.append((HEADER + at + offset, length - offset, when % (1 << 64)))
            absolute = None
        stamp %= 1 << 64
        at += length
    return found, False


PIECES = st.one_of(
    st.binary(min_size=4, max_size=4),
    st.builds(data_event, st.sampled_from([SMALL, LARGE]), st.integers(0, (1 << 27) - 1)),
    st.builds(time_extend, st.integers(0, (1 << 59) - 1)),
    st.builds(time_stamp, st.integers(0, (1 << 59) - 1)),
    st.builds(discarded, st.sampled_from([0, 4, 40])),
)


@given(
    pages=st.lists(
        st.tuples(st.integers(0, (1 << 64) - 1), st.lists(PIECES, max_size=12)), min_size=1, max_size=5
    ),
    commit=st.none() | st.integers(0, (1 << 32) - 1),
)
def test_all_pages_at_once_are_what_each_is_by_itself(
    pages: list[tuple[int, list[bytes]]], commit: int | None
) -> None:
    made = [page_of(stamp, b"".join(pieces)[:2000], commit=commit) for stamp, pieces in pages]
    raw = _read(*made)
    found = decode_pages(raw, LAYOUT, np.zeros(len(made), np.int64))
    for number, page in enumerate(made):
        want, torn = _one_by_one(page)
        own = found.page == number
        got = zip(
            (found.start[own] * 4).tolist(), found.size[own].tolist(), found.stamp[own].tolist(), strict=True
        )
        assert list(got) == want
        assert (number in found.torn.tolist()) == torn
