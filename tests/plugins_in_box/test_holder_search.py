"""The search behind ``mmdump holders``: every word that is sought is found, and no other."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.target.coverage import PhysicalCoverage, PhysStatus, SegmentCoverage
from mmdump.target.reader import Chunk, ReadStatus
from mmdump_holders import search as module
from mmdump_holders.casework import Forms, _Pages, spans_of
from mmdump_holders.ranges import Own, joined_runs, runs_of
from mmdump_holders.search import Span, search

PAGE = 4096
PAGES = 64
WORDS = PAGES * PAGE // 8
VMEMMAP = 0xFFFFEA0000000000


@dataclass
class Memory:
    """A machine of 64 pages. Addresses of its pages stand where a test puts them."""

    words: np.ndarray = field(default_factory=lambda: np.zeros(PAGES * PAGE // 8, np.uint64))
    coverage: PhysicalCoverage | None = None
    unreadable: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        flags = SimpleNamespace(flags=1)
        self.memmap = SimpleNamespace(vmemmap=VMEMMAP, page_size=64)
        self.target = SimpleNamespace(
            prog=SimpleNamespace(platform=flags),
            page_size=PAGE,
            page_shift=12,
            dump=None if self.coverage is None else SimpleNamespace(coverage=self.coverage),
            reader=SimpleNamespace(read_physical=self._read),
        )

    def _read(self, address: int, size: int) -> Chunk:
        data = self.words.view(np.uint8)[address : address + size].copy()
        status = np.zeros(size // PAGE, np.uint8)
        for page in range(size // PAGE):
            if address // PAGE + page in self.unreadable:
                status[page] = ReadStatus.UNREADABLE
                data[page * PAGE : (page + 1) * PAGE] = 0
        return Chunk(address, data, status, PAGE, complete=not status.any())


@pytest.fixture(autouse=True)
def little_endian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "byteorder", lambda _prog: "<")


def runs(*pages: tuple[int, int]) -> pl.DataFrame:
    return pl.DataFrame(pages, schema=dict.fromkeys(("start", "pages"), pl.Int64()), orient="row")


WHOLE = runs((0, PAGES))
spans = st.lists(st.tuples(st.integers(1, (1 << 64) - 40), st.integers(1, 20)), min_size=1, max_size=6)


@given(
    ranges=spans,
    planted=st.lists(st.tuples(st.integers(0, WORDS - 1), st.integers(0, 5), st.integers(-3, 22))),
    holes=st.lists(st.booleans(), min_size=PAGES, max_size=PAGES),
)
def test_what_is_found_is_what_is_there(ranges, planted, holes):
    memory = Memory()
    for at, which, offset in planted:
        memory.words[at] = max(ranges[which % len(ranges)][0] + offset, 0)
    starts, ends = [], []
    for start, size in sorted(ranges):
        if starts and start <= ends[-1]:
            ends[-1] = max(ends[-1], start + size)
        else:
            starts.append(start)
            ends.append(start + size)
    wanted = np.array(holes)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False])).astype(np.int8)))
    frame = runs(*zip(edges[::2].tolist(), (edges[1::2] - edges[::2]).tolist(), strict=True))
    found = search(
        memory, frame, [Span("any", np.array(starts, np.uint64), np.array(ends, np.uint64))]
    ).found["any"]
    truth = [
        at
        for at, value in enumerate(memory.words.tolist())
        if wanted[at * 8 // PAGE] and any(a <= value < b for a, b in zip(starts, ends, strict=True))
    ]
    assert (found.physical // 8).tolist() == truth
    assert found.value.tolist() == memory.words[truth].tolist()
    for value, index in zip(found.value.tolist(), found.index.tolist(), strict=True):
        assert starts[index] <= value < ends[index]


def page_address(pfn: int) -> int:
    return VMEMMAP + 64 * pfn


def find(memory: Memory, *pfns: int, pages: int = 1, frame: pl.DataFrame = WHOLE) -> dict[int, int]:
    """Where addresses that lead to these pages stand -> what stands there."""
    head = np.array(sorted(pfns), np.int64)
    spans = spans_of(memory, head, np.full(len(head), pages), Forms())
    found = search(memory, frame, spans).found["page"]
    return dict(zip(found.physical.tolist(), found.value.tolist(), strict=True))


def test_tagged_addresses_of_pages_are_found_and_links_of_lists_are_not():
    memory = Memory()
    for at, offset in enumerate((0, 1, 2, 3, 8, 16)):
        memory.words[10 + 2 * at] = page_address(33) + offset
    assert sorted(find(memory, 33)) == [8 * (10 + 2 * at) for at in range(4)]


def test_a_vector_over_neighbours_leads_to_each_of_them():
    memory = Memory()
    memory.words[100] = page_address(30)
    memory.words[101] = 4 * PAGE  # bv_len; bv_offset 0
    assert find(memory, 33) == {800: page_address(30)}
    assert find(memory, 34) == {}


def test_an_address_of_a_neighbour_before_something_else_leads_nowhere():
    memory = Memory()
    memory.words[100] = page_address(30)
    memory.words[101] = 0xFFFF888001234568
    assert find(memory, 33) == {}


def test_a_span_reaches_what_its_length_says():
    pages = _Pages(np.array([50]), np.array([1]), VMEMMAP, 64, 12)
    following = np.array([4096, 4097, 1 | (4095 << 32), 2 | (4095 << 32), 0, 1 << 60], np.uint64)
    assert pages.reach(following).tolist() == [1, 2, 1, 2, 1, 1]


def test_what_is_not_in_the_dump_is_counted():
    coverage = SegmentCoverage(
        [
            (0, 16 * PAGE, PhysStatus.PRESENT),
            (16 * PAGE, 24 * PAGE, PhysStatus.EXCLUDED),
            (32 * PAGE, 64 * PAGE, PhysStatus.PRESENT),
        ],
        PAGE,
    )
    memory = Memory(coverage=coverage, unreadable=frozenset({40}))
    memory.words[:] = page_address(5)
    head = np.array([5])
    result = search(memory, WHOLE, spans_of(memory, head, head * 0 + 1, Forms()))
    # Pages 24 to 31 are no memory at all.
    assert (result.wanted, result.read, result.missing) == (56, 47, 9)
    assert len(result.found["page"].physical) == 47 * PAGE // 8


def test_hits_without_end_are_counted_and_not_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_HITS", 1000)
    monkeypatch.setattr(module, "BLOCK", PAGE)
    memory = Memory()
    memory.words[: 20 * PAGE // 8] = page_address(5)
    result = search(memory, WHOLE, spans_of(memory, np.array([5]), np.array([1]), Forms()))
    kept = len(result.found["page"].physical)
    assert kept <= 1000
    assert kept + result.dropped == 20 * PAGE // 8


def test_runs_of_ranges_join():
    skipped = np.array([True, False, False, True, False])
    pages = SimpleNamespace(start=100)
    frame = pl.DataFrame(runs_of(pages, skipped))
    assert list(frame.iter_rows()) == [(101, 2), (104, 1)]
    joined = joined_runs(pl.concat([frame, pl.DataFrame({"start": [105], "pages": [7]})]))
    assert list(joined.iter_rows()) == [(101, 2), (104, 8)]
    assert joined_runs(joined).equals(joined)


def test_the_page_array_is_masked_where_it_lies():
    own = Own(np.array([10, 90]), np.array([20, 110]))
    assert np.flatnonzero(own.mask(0, 100)).tolist() == [*range(10, 20), *range(90, 100)]
    assert not own.mask(30, 40).any()
    assert own.mask(95, 5).all()
