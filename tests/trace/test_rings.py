"""The lists of pages that make a ring buffer, whole and torn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmdump_trace import rings, stream
from mmdump_trace.rings import CpuRing, read_ring
from mmdump_trace.stream import Account, Source
from tests.trace.builders import BUFFER_PAGE, LAYOUT, CpuPages, Memory, data_event, entry, page_of

BUFFER, TABLE = 0xFFFF888000001000, 0xFFFF888000002000
CPU0, CPU1 = 0xFFFF888001000000, 0xFFFF888002000000


def _page(first: int, count: int = 2, step: int = 10) -> bytes:
    """A page whose events are ``step`` apart, the first at time ``first``."""
    data = data_event(entry(1, first % 1000), 0) + data_event(entry(1, 0), step) * (count - 1)
    return page_of(first, data)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setattr(rings, "possible_cpus", lambda _: [0, 1])
    memory = Memory()
    memory.parts[BUFFER] = np.array([(0, 0, TABLE)], LAYOUT.buffer).tobytes()
    memory.parts[TABLE] = np.array([CPU0, 0], "<u8").tobytes()
    return memory


def _cpu(memory: Memory, **options: Any) -> CpuPages:
    ring = [_page(300), _page(400), _page(100), _page(200)]
    return CpuPages(memory, CPU0, ring, _page(0), **({"head": 2} | options))


def _ring(memory: Memory) -> rings.Ring:
    return read_ring(SimpleNamespace(reader=memory, prog=None), LAYOUT, BUFFER)  # type: ignore[arg-type]


def _only(memory: Memory) -> CpuRing:
    [found] = _ring(memory).cpus
    return found


def _times(memory: Memory, account: Account | None = None) -> list[int]:
    source = Source(memory, LAYOUT, _ring(memory))  # type: ignore[arg-type]
    return [time for part in source.merged(account or Account()) for time in part.stamp.tolist()]


def test_pages_are_read_from_the_readers_over_the_head_to_the_last_commit(memory: Memory) -> None:
    _cpu(memory).write(entries=10)
    assert _times(memory) == [0, 10, 100, 110, 200, 210, 300, 310, 400, 410]
    assert not _only(memory).problems


def test_what_lies_behind_the_last_commit_is_old(memory: Memory) -> None:
    _cpu(memory, commit=3).write(entries=6)
    assert _times(memory) == [0, 10, 100, 110, 200, 210]


def test_a_buffer_whose_events_are_all_on_the_readers_page(memory: Memory) -> None:
    pages = _cpu(memory)
    pages.write(entries=2, commit_page=pages.descriptor(-1))
    assert _times(memory) == [0, 10]


def test_entries_overwritten_and_entries_read_do_not_count(memory: Memory) -> None:
    _cpu(memory, read=12).write(entries=100, overrun=85, read=6)
    found = _only(memory)
    assert (found.entries, found.overrun, found.first_read) == (9, 85, 12)
    account = Account()
    assert _times(memory, account)[0] == 10
    assert not account.problems(_ring(memory))
    assert account.notes(_ring(memory)) == ["85 events were overwritten by later ones."]


def test_a_writer_at_work_is_noted(memory: Memory) -> None:
    pages = _cpu(memory, commit=1)
    pages.write(entries=10, tail_page=pages.descriptor(2))
    assert _only(memory).writing


def _change(memory: Memory, at: int, **changed: int) -> None:
    record = np.frombuffer(memory.parts[at], BUFFER_PAGE).copy()
    for name, value in changed.items():
        record[name] = value
    memory.parts[at] = record.tobytes()


def test_a_torn_list_is_followed_from_its_other_end(memory: Memory) -> None:
    pages = _cpu(memory)
    pages.write(entries=10)
    _change(memory, pages.descriptor(1), next=0xFFFF88800BAD0000 | 1)
    found = _only(memory)
    assert any("torn: 4 of them" in each for each in found.problems)
    assert sorted(_times(memory)) == [0, 10, 100, 110, 200, 210, 300, 310, 400, 410]


@pytest.mark.parametrize("link", [0, 1, 0xFFFFFFFFFFFFFFFF])
def test_a_list_that_leads_nowhere_leaves_what_can_be_found(memory: Memory, link: int) -> None:
    pages = _cpu(memory)
    pages.write(entries=10)
    for number in (0, 1, 2, 3):
        _change(memory, pages.descriptor(number), next=link, prev=link)
    assert _only(memory).problems
    account = Account()
    assert _times(memory, account)[:2] == [0, 10]
    assert account.problems(_ring(memory))


def test_a_list_that_runs_in_a_circle_of_its_own_ends(memory: Memory) -> None:
    pages = _cpu(memory)
    pages.write(entries=10, nr_pages=1 << 40)
    _change(memory, pages.descriptor(3), next=pages.descriptor(2))
    assert any("torn" in each for each in _only(memory).problems)


def test_a_buffer_of_another_cpu_is_garbage(memory: Memory) -> None:
    _cpu(memory).write(cpu=5)
    found = _only(memory)
    assert not len(found.pages)
    assert found.problems == ("CPU 0: its buffer is garbage: it says that it is CPU 5's",)


def test_an_absent_buffer_is_said(memory: Memory) -> None:
    assert _only(memory).problems == ("CPU 0: its buffer is not in the dump",)
    del memory.parts[TABLE]
    assert _ring(memory).problems == ("where the buffers of 2 CPUs are is not in the dump",)
    del memory.parts[BUFFER]
    assert _ring(memory).problems == ("the ring buffer is not in the dump",)


def test_a_sub_buffer_order_that_none_has_is_garbage(memory: Memory) -> None:
    memory.parts[BUFFER] = np.array([(99, 0, TABLE)], LAYOUT.buffer).tobytes()
    assert _ring(memory).problems


def test_counts_that_do_not_fit_the_events_are_said(memory: Memory) -> None:
    _cpu(memory).write(entries=12)
    account = Account()
    _times(memory, account)
    assert account.problems(_ring(memory)) == ["CPU 0: 12 events are counted, 10 were found"]


def test_cpus_are_merged_as_the_kernel_does(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    # One page after the other, where that is asked for.
    monkeypatch.setattr(stream, "_AT_LEAST", 1)
    memory.parts[TABLE] = np.array([CPU0, CPU1], "<u8").tobytes()
    _cpu(memory).write(entries=10)
    # Its second event is older than its first: the kernel shows each CPU's events as they were written.
    odd = page_of(105, data_event(entry(2, 1), 0) + data_event(entry(2, 2), 295))
    late = [odd, page_of(50, data_event(entry(2, 3), 0)), page_of(100, data_event(entry(2, 4), 310))]
    CpuPages(memory, CPU1, late, page_of(0, b""), head=0, commit=2).write(cpu=1, entries=4)
    source = Source(memory, LAYOUT, _ring(memory))  # type: ignore[arg-type]
    want = [(0, 0), (0, 10), (0, 100), (1, 105), (0, 110), (0, 200), (0, 210), (0, 300), (0, 310)]
    want += [(0, 400), (1, 400), (1, 50), (0, 410), (1, 410)]
    for together in (1, 1 << 13, 1 << 24):
        found = [
            each
            for part in source.merged(Account(), together)
            for each in zip(part.cpu.tolist(), part.stamp.tolist(), strict=True)
        ]
        assert found == want
    by_pages = [part.number.tolist() for part in source.by_pages(Account(), 1) if part.cpu[0] == 1]
    assert by_pages == [[0, 1], [2], [3]]


def test_events_from_before_the_start_do_not_count(memory: Memory) -> None:
    _cpu(memory).write(entries=10)
    account = Account()
    source = Source(memory, LAYOUT, _ring(memory), time_start=205)  # type: ignore[arg-type]
    times = [time for part in source.merged(account) for time in part.stamp.tolist()]
    assert times == [210, 300, 310, 400, 410]
    assert account.skipped == {0: 5}
