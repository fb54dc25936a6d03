"""The driver: runs analyses over the page array in one pass, whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mmdump.errors import MmdumpError, UnsupportedError
from mmdump.result import Coverage, Result, RowSink, Table
from mmdump.target.reader import ReadStatus
from mmdump.target.summary import summarise

if TYPE_CHECKING:
    from mmdump.analysis import Analysis, Parts
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import U8

__all__ = ["Collect", "Progress", "run", "run_one"]

#: Called with (pages done, pages in all) after each range.
Progress = Callable[[int, int], None]

#: Rows of a part that may gather before they are folded.
_FOLD_ROWS = 1 << 16


class Collect:
    """Keeps streamed rows, for callers that want them whole (tests, Python, small dumps)."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []
        self.table: Table | None = None

    def begin(self, schema: Any) -> None:
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
    """One analysis under way."""

    analysis: Analysis
    state: Any
    sink: RowSink | Collect
    gathered: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def take(self, parts: Parts) -> None:
        """Hand streamed rows on, and gather the other parts, folded now and then."""
        for name, frame in parts.items():
            if self.analysis.stream is not None and name == self.analysis.stream.name:
                self.sink.rows(frame)
                continue
            kept = self.gathered.setdefault(name, [])
            kept.append(frame)
            self.rows[name] = self.rows.get(name, 0) + len(frame)
            if self.rows[name] > _FOLD_ROWS and len(kept) > 1:
                folded = self.analysis.fold(name, pl.concat(kept))
                self.gathered[name] = [folded]
                # What does not shrink is let grow twofold before the next try.
                self.rows[name] = len(folded) // 2

    def parts(self) -> Parts:
        """The gathered parts, folded once more."""
        return {name: self.analysis.fold(name, pl.concat(frames)) for name, frames in self.gathered.items()}


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


def _scan(kernel: Kernel, runs: Sequence[_Run], progress: Progress | None) -> Coverage:
    memmap = kernel.memmap
    layout = kernel.page_ext
    ext = any(layout.enabled(name) or layout.flags for one in runs for name in one.analysis.page_ext)
    total, done = memmap.pages, 0
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
        done += end - start
        if progress is not None:
            progress(done, total)
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
