"""The driver: runs analyses over the page array in one pass, whatever their number."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mmdump.errors import MmdumpError, UnsupportedError
from mmdump.result import Coverage, Result, RowSink, Schema, Table
from mmdump.target.reader import ReadStatus
from mmdump.target.summary import summarise

if TYPE_CHECKING:
    from mmdump.analysis import Analysis, Columns, Parts
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import U8

__all__ = ["Collect", "Progress", "run", "run_one"]

#: Called with (pages done, pages in all) after each range.
Progress = Callable[[int, int], None]

#: Rows that wait for a batch: enough that what a frame costs whatever its length no longer matters.
_BATCH_ROWS = 1 << 14
#: Rows of a part that may gather before they are folded.
_FOLD_ROWS = 1 << 16


class Collect:
    """Keeps streamed rows, for callers that want them whole (tests, Python, small dumps)."""

    #: It always wants more.
    satisfied = False

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []

    def begin(self, schema: Schema) -> None:
        """See :class:`mmdump.result.RowSink`."""
        self._schema = schema

    def rows(self, frame: pl.DataFrame) -> None:
        """See :class:`mmdump.result.RowSink`."""
        self._frames.append(frame)

    def finish(self) -> Table:
        """All rows so far as a table."""
        return Table(self._schema, pl.concat(self._frames))


@dataclass
class _Run:
    """One analysis under way: rows wait until they make a batch, and what batches keep is folded."""

    analysis: Analysis
    state: Any
    sink: RowSink
    waiting: dict[str, list[Columns]] = field(default_factory=dict)
    waiting_rows: int = 0
    kept: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    kept_rows: dict[str, int] = field(default_factory=dict)

    def take(self, parts: Mapping[str, Columns]) -> None:
        """Take the rows of one range."""
        for name, columns in parts.items():
            self.waiting.setdefault(name, []).append(columns)
            self.waiting_rows += len(next(iter(columns.values())))
        if self.waiting_rows >= _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Make a batch of the waiting rows: streamed rows go on, all else is kept."""
        if not self.waiting:
            return
        rows = {name: _frame(pieces) for name, pieces in self.waiting.items()}
        self.waiting, self.waiting_rows = {}, 0
        for name, frame in self.analysis.batch(rows, self.state).items():
            if self.analysis.stream is not None and name == self.analysis.stream.name:
                self.sink.rows(frame)
            else:
                self._keep(name, frame)

    def _keep(self, name: str, frame: pl.DataFrame) -> None:
        frames = self.kept.setdefault(name, [])
        frames.append(frame)
        self.kept_rows[name] = self.kept_rows.get(name, 0) + len(frame)
        if self.kept_rows[name] > _FOLD_ROWS and len(frames) > 1:
            folded = self.analysis.fold(name, pl.concat(frames))
            self.kept[name] = [folded]
            # What does not shrink may grow before the next try.
            self.kept_rows[name] = len(folded) // 2

    def parts(self) -> Parts:
        """What was kept, folded once more."""
        self.flush()
        return {name: self.analysis.fold(name, pl.concat(frames)) for name, frames in self.kept.items()}


def _frame(pieces: Sequence[Columns]) -> pl.DataFrame:
    names = pieces[0].keys()
    return pl.DataFrame({name: np.concatenate([piece[name] for piece in pieces]) for name in names})


def run_one(
    kernel: Kernel, analysis: Analysis, sink: RowSink | None = None, progress: Progress | None = None
) -> Result:
    """Run one analysis.

    :param sink: Takes the rows of a streaming analysis as they come; without one they are kept in the result.
    :raises UnsupportedError: It cannot run on this kernel; the message says why.
    """
    reason = analysis.why_not(kernel)
    if reason is not None:
        raise UnsupportedError(f"{analysis.name}: {reason}")
    [result] = run(kernel, [analysis], [sink], progress)
    return result


def run(
    kernel: Kernel,
    analyses: Sequence[Analysis],
    sinks: Sequence[RowSink | None] = (),
    progress: Progress | None = None,
) -> list[Result]:
    """Run analyses that can run (see :meth:`Analysis.why_not`) in one pass over the page array.

    :param sinks: One for each analysis, or None to keep streamed rows in the result.
    :return: One result for each analysis, with coverage filled in.
    """
    runs = []
    for index, analysis in enumerate(analyses):
        sink = sinks[index] if index < len(sinks) else None
        one = _Run(analysis, analysis.start(kernel), sink or Collect())
        if analysis.stream is not None:
            one.sink.begin(analysis.stream)
        runs.append(one)
    scanning = [one for one in runs if one.analysis.scans]
    coverage = _scan(kernel, scanning, progress) if scanning else None

    results = []
    for one in runs:
        result = one.analysis.finish(kernel, one.state, one.parts())
        if isinstance(one.sink, Collect) and one.analysis.stream is not None:
            result = result.with_table(one.sink.finish())
        if one.analysis.scans and coverage is not None:
            own = coverage if one.analysis.page_ext else replace(coverage, page_ext=None)
            result = replace(result, coverage=own, incomplete=[*result.incomplete, *_missing(kernel, own)])
        results.append(replace(result, target=result.target or summarise(kernel.target)))
    return results


def _keep_freed_memory() -> None:
    """Ask malloc to keep what is freed, up to some ranges' worth, instead of returning it to the kernel.

    Every range is a few MiB read into new memory and freed again. glibc would get and return that from the
    kernel each time: the page faults cost three times as much as the reading itself (measured).
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


#: malloc.h of glibc; musl has no mallopt().
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 64 << 20


def _scan(kernel: Kernel, runs: Sequence[_Run], progress: Progress | None) -> Coverage:
    memmap = kernel.memmap
    layout = kernel.page_ext
    ext = any(layout.enabled(name) or layout.flags for one in runs for name in one.analysis.page_ext)
    total, done = memmap.pages, 0
    _keep_freed_memory()
    coverage = Coverage(page_ext=Coverage() if ext else None)
    if not total:
        raise MmdumpError("this kernel has no page of memory that could be looked at")
    for start, end in memmap.chunks():
        pages = kernel.pages(start, end, ext=ext)
        for one in runs:
            one.take(one.analysis.scan(pages, one.state))
        coverage += replace(
            _count(pages.status), page_ext=None if pages.ext is None else _count(pages.ext.status)
        )
        # Before the next range is read: memory just used is memory in the caches.
        del pages
        done += end - start
        if progress is not None:
            progress(done, total)
        if all(one.sink.satisfied for one in runs):
            break
    return coverage


def _count(status: U8) -> Coverage:
    counts = np.bincount(status, minlength=len(ReadStatus))
    return Coverage(
        pages=len(status),
        read=int(counts[ReadStatus.READ]),
        unreadable=int(counts[ReadStatus.UNREADABLE]),
        zero_filled=int(counts[ReadStatus.ZERO_FILLED]),
        erased=int(counts[ReadStatus.ERASED]),
    )


def _missing(kernel: Kernel, coverage: Coverage) -> list[str]:
    """One sentence for each thing that the scan needed and could not read."""
    reasons = []
    if coverage.unreadable or coverage.erased:
        lost = coverage.unreadable + coverage.erased
        reasons.append(f"struct page of {lost} of {coverage.pages} pages could not be read")
    if coverage.page_ext is not None and (coverage.page_ext.unreadable or coverage.page_ext.erased):
        lost = coverage.page_ext.unreadable + coverage.page_ext.erased
        reasons.append(f"page_ext of {lost} of {coverage.page_ext.pages} pages could not be read")
    if kernel.memmap.unreadable_sections:
        reasons.append(
            f"{kernel.memmap.unreadable_sections} parts of the memory section table could not be read: "
            "pages they describe are not counted at all"
        )
    return reasons
