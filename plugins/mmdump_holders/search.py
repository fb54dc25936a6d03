"""One pass over memory for numbers within some ranges, all at once.

What is sought are addresses: of ``struct page``, of the memory behind it, of any structure. Nearly all words
of memory lie outside of everything sought, so that comparing each word with the whole span settles it; what a
hundred pages cost more than one are the few words within the span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdump.kernel.arrays import I64, U8, U64, Bools
from mmdump.kernel.layout import byteorder
from mmdump.malloc import keep_freed_memory
from mmdump.target.coverage import PhysStatus
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    import polars as pl

    from mmdump.kernel import Kernel
    from mmdump.target import Reader

__all__ = ["Found", "Searched", "Span", "search"]

#: Bytes that are read at once. What a pass over them needs stays in the caches.
BLOCK = 1 << 20
#: Pages whose presence in the dump is asked at once.
_WINDOW = 1 << 14
#: Hits that are kept; more are counted. A dump may consist of nothing but the address that is sought.
MAX_HITS = 1 << 18
#: Entries of the table that says which parts of a span anything is sought in.
_TABLE = 1 << 16


@dataclass(frozen=True)
class Span:
    """Numbers that are sought: those in any of some ranges that lie near each other.

    :param name: Of it.
    :param start: The least of each range, ascending and disjoint, uint64.
    :param end: One past the greatest of each, uint64.
    :param mask: What is taken of each word before it is compared.
    :param keep: Given words that are sought and the words behind them, says which are worth keeping.
    """

    name: str
    start: U64
    end: U64
    mask: int = (1 << 64) - 1
    keep: Callable[[U64, U64], Bools] | None = None


@dataclass(frozen=True)
class Found:
    """Words within a span, in order of where they stand.

    :param physical: Where, physical addresses, int64.
    :param value: What stands there, uint64.
    :param following: What stands behind it, in the same page, uint64.
    :param index: In which of the span's ranges it lies, int64.
    """

    physical: I64
    value: U64
    following: U64
    index: I64


@dataclass
class Searched:
    """What a pass found, and what it went through.

    :param found: By the name of the span.
    :param wanted: Pages that were to be searched.
    :param read: Those that were.
    :param missing: Those that are not in the dump.
    :param dropped: Hits beyond those that are kept.
    """

    found: dict[str, Found] = field(default_factory=dict)
    wanted: int = 0
    read: int = 0
    missing: int = 0
    dropped: int = 0


@dataclass
class _Filter:
    """A span as the pass needs it.

    A word that lies within the whole is looked up in a table of equal parts of it, and only what lies in a
    part where anything is sought is compared with the ranges.
    """

    span: Span
    low: np.uint64
    width: np.uint64
    shift: np.uint64
    table: Bools
    hits: list[tuple[I64, U64, U64, I64]] = field(default_factory=list)
    #: Whether few words are as large as the least that is sought: then one comparison leaves out most.
    high: bool = True

    @classmethod
    def of(cls, span: Span) -> _Filter:
        low, last = int(span.start[0]), int(span.end[-1]) - 1
        shift = max((last - low).bit_length() - (_TABLE.bit_length() - 1), 0)
        edges = np.zeros(((last - low) >> shift) + 2, np.int32)
        first = ((span.start - np.uint64(low)) >> np.uint64(shift)).astype(np.int64)
        final = ((span.end - np.uint64(1) - np.uint64(low)) >> np.uint64(shift)).astype(np.int64)
        np.add.at(edges, first, 1)
        np.add.at(edges, final + 1, -1)
        table = np.cumsum(edges[:-1]) > 0
        return cls(span, np.uint64(low), np.uint64(last - low), np.uint64(shift), table)

    def _within(self, words: U64, scratch: U64, test: Bools) -> tuple[I64, U64]:
        """Positions of words within the span, in a part of it where anything is sought; and these, masked."""
        if self.span.mask != (1 << 64) - 1:
            words = np.bitwise_and(words, np.uint64(self.span.mask), out=scratch)
        elif self.high:
            # The page array lies above nearly all else that kernel pointers lead to.
            at = np.flatnonzero(np.greater_equal(words, self.low, out=test))
            self.high = len(at) < len(words) >> 3
            offset = words[at] - self.low
            good = offset <= self.width
            return self._in_table(at[good], offset[good])
        np.subtract(words, self.low, out=scratch)
        at = np.flatnonzero(np.less_equal(scratch, self.width, out=test))
        return self._in_table(at, scratch[at])

    def _in_table(self, at: I64, offset: U64) -> tuple[I64, U64]:
        if not len(at):
            return at, offset
        good = self.table[(offset >> self.shift).astype(np.int64)]
        return at[good], offset[good] + self.low

    def look(self, words: U64, scratch: U64, test: Bools) -> tuple[I64, U64, U64, I64]:
        """Positions, values, following words and range numbers of the words that are sought."""
        at, value = self._within(words, scratch[: len(words)], test[: len(words)])
        if not len(at):
            return at, value, value, at
        index = np.searchsorted(self.span.start, value, "right") - 1
        good = value < self.span.end[index]
        at, index = at[good], index[good]
        value, following = words[at], words[np.minimum(at + 1, len(words) - 1)]
        if self.span.keep is not None:
            good = self.span.keep(value, following)
            return at[good], value[good], following[good], index[good]
        return at, value, following, index


def search(
    kernel: Kernel,
    runs: pl.DataFrame,
    spans: Sequence[Span],
    progress: Callable[[int, int], None] | None = None,
) -> Searched:
    """Search memory for words within any of the spans: words at multiples of their size, as pointers are.

    Memory is read as far as it can be read; what cannot is counted. A live kernel's moves meanwhile.

    :param runs: The memory: columns start (PFN) and pages, ascending.
    """
    keep_freed_memory()
    spans = [span for span in spans if len(span.start)]
    filters = [_Filter.of(span) for span in spans]
    result = Searched(wanted=int(runs["pages"].sum()) if len(runs) else 0)
    word = np.dtype(f"{byteorder(kernel.target.prog)}u8")
    scratch, test = np.empty(BLOCK // 8, np.uint64), np.empty(BLOCK // 8, bool)
    shift, page_size = kernel.target.page_shift, kernel.target.page_size
    kept = done = 0
    buffer = np.empty(BLOCK, np.uint8)
    for batch in _batches(kernel, runs, result) if filters else ():
        data, lost = batch.read(kernel.target.reader, shift, buffer)
        result.read += batch.pages
        if lost is not None:
            count = int(np.count_nonzero(lost))
            result.missing += count
            result.read -= count
        words: Any = data.view(word)
        for each in filters:
            at, value, following, index = each.look(words, scratch, test)
            if not len(at):
                continue
            page, inside = np.divmod(at, page_size // 8)
            if lost is not None:
                good = ~lost[page]
                page, inside = page[good], inside[good]
                value, following, index = value[good], following[good], index[good]
            if kept + len(page) > MAX_HITS:
                result.dropped += len(page)
                continue
            kept += len(page)
            each.hits.append(((batch.pfn(page) << shift) + inside * 8, value, following, index))
        done += batch.pages
        if progress is not None:
            progress(done, result.wanted)
    for each in filters:
        result.found[each.span.name] = _joined(each.hits)
    return result


def _joined(hits: list[tuple[I64, U64, U64, I64]]) -> Found:
    if not hits:
        none = np.empty(0, np.int64)
        return Found(none, none.astype(np.uint64), none.astype(np.uint64), none)
    physical, value, following, index = (np.concatenate(parts) for parts in zip(*hits, strict=True))
    # In the machine's own byte order.
    return Found(physical, value.astype(np.uint64), following.astype(np.uint64), index)


@dataclass(frozen=True)
class _Batch:
    """Pieces of memory that are searched together: what a search costs whatever its length is paid once.

    :param start: First PFN of each piece, ascending.
    :param before: Pages of the pieces before each.
    :param pages: Pages of all.
    """

    start: Sequence[int]
    before: Sequence[int]
    pages: int

    def read(self, reader: Reader, shift: int, buffer: U8) -> tuple[U8, Bools | None]:
        """Their bytes, one after the other, and which pages could not be read; None for that when all could.

        :param buffer: Where several pieces are put together.
        """
        if len(self.start) == 1:
            chunk = reader.read_physical(self.start[0] << shift, self.pages << shift)
            return chunk.data, None if chunk.complete else chunk.status != ReadStatus.READ
        lost: Bools | None = None
        ends = [*self.before[1:], self.pages]
        for start, low, high in zip(self.start, self.before, ends, strict=True):
            chunk = reader.read_physical(start << shift, (high - low) << shift)
            buffer[low << shift : high << shift] = chunk.data
            if not chunk.complete:
                lost = np.zeros(self.pages, bool) if lost is None else lost
                lost[low:high] = chunk.status != ReadStatus.READ
        return buffer[: self.pages << shift], lost

    def pfn(self, page: I64) -> I64:
        """The PFNs of pages by their place in the batch."""
        before = np.array(self.before, np.int64)
        piece = np.searchsorted(before, page, "right") - 1
        pfn: I64 = np.array(self.start, np.int64)[piece] + page - before[piece]
        return pfn


def _batches(kernel: Kernel, runs: pl.DataFrame, result: Searched) -> Iterator[_Batch]:
    """The pieces to search, as many together as fill a block."""
    most = BLOCK >> kernel.target.page_shift
    starts: list[int] = []
    before: list[int] = []
    pages = 0
    for first, count in _pieces(kernel, runs, result):
        start, left = first, count
        while left:
            part = min(left, most - pages)
            starts.append(start)
            before.append(pages)
            start, left, pages = start + part, left - part, pages + part
            if pages == most:
                yield _Batch(starts, before, pages)
                starts, before, pages = [], [], 0
    if pages:
        yield _Batch(starts, before, pages)


def _pieces(kernel: Kernel, runs: pl.DataFrame, result: Searched) -> Iterator[tuple[int, int]]:
    """The runs as far as they are in the dump: (first PFN, pages). What is not there is counted."""
    dump = kernel.target.dump
    coverage = dump.coverage if dump is not None else None
    if coverage is not None and coverage.page_size != kernel.target.page_size:
        coverage = None
    start = runs["start"].to_numpy()
    end = start + runs["pages"].to_numpy()
    run = 0
    while run < len(start):
        at = int(start[run]) // _WINDOW * _WINDOW
        while True:
            wanted = _inside(start, end, at)
            if coverage is not None:
                known = coverage.status(at, _WINDOW)
                # What is no memory at all cannot be missing.
                absent = wanted & (known == PhysStatus.ABSENT)
                result.wanted -= int(np.count_nonzero(absent))
                there = wanted & (known == PhysStatus.PRESENT)
                result.missing += int(np.count_nonzero(wanted & ~absent & ~there))
                wanted = there
            edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False])).astype(np.int8)))
            yield from zip((at + edges[::2]).tolist(), (edges[1::2] - edges[::2]).tolist(), strict=True)
            at += _WINDOW
            # The next window that a run reaches into; a long run reaches into many.
            run = int(np.searchsorted(end, at, "right"))
            if run == len(start) or start[run] >= at:
                break


def _inside(start: I64, end: I64, at: int) -> Bools:
    """Which pages of the window that begins at ``at`` lie in a run."""
    low, high = int(np.searchsorted(end, at, "right")), int(np.searchsorted(start, at + _WINDOW, "left"))
    edges = np.zeros(_WINDOW + 1, np.int32)
    np.add.at(edges, np.maximum(start[low:high] - at, 0), 1)
    np.add.at(edges, np.minimum(end[low:high] - at, _WINDOW), -1)
    return np.cumsum(edges[:-1]) > 0
