"""The driver: runs analyses over the page array in one pass, whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl

from mmdump.errors import IncompleteError, MmdumpError, UnsupportedError
from mmdump.guard import Attempt, Guard, Outcome, OutOfTimeError, Progress
from mmdump.malloc import keep_freed_memory
from mmdump.result import Coverage, Result, RowSink, Schema, Table
from mmdump.target.faults import error_words
from mmdump.target.reader import ReadStatus
from mmdump.target.summary import summarise

if TYPE_CHECKING:
    from mmdump.analysis import Analysis, Columns, Parts
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import U8
    from mmdump.kernel.page import PageRange

__all__ = ["Collect", "OutOfTimeError", "Outcome", "Progress", "Ranges", "run", "run_guarded", "run_one"]

T = TypeVar("T")

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

    def needs(self, schema: Schema) -> frozenset[str]:
        """All columns."""
        return frozenset(schema.names)

    def begin(self, schema: Schema) -> None:
        """See :class:`mmdump.result.RowSink`."""
        self._schema = schema

    def rows(self, frame: pl.DataFrame) -> None:
        """See :class:`mmdump.result.RowSink`."""
        self._frames.append(frame)

    def finish(self) -> Table:
        """All rows so far as a table."""
        if not self._frames:
            # No range had any.
            return Table(self._schema, pl.DataFrame(schema=dict.fromkeys(self._schema.names, pl.Null)))
        return Table(self._schema, pl.concat(self._frames))


@dataclass(eq=False)
class _Run:
    """One analysis under way: rows wait until they make a batch, and what batches keep is folded.

    :ivar broken: What it raised when rows of it had been given away already: it goes no further, but what is
        written of it must come to an end.
    :ivar where: How far it has come.
    """

    analysis: Analysis
    state: Any
    sink: RowSink
    attempt: Attempt = field(default_factory=Attempt)
    waiting: dict[str, list[Columns]] = field(default_factory=dict)
    waiting_rows: int = 0
    kept: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    kept_rows: dict[str, int] = field(default_factory=dict)
    begun: bool = False
    where: str = "at its start"
    broken: Exception | None = None

    def begin(self) -> None:
        """Say to who takes the rows that they come."""
        if not self.begun and self.analysis.stream is not None:
            self.sink.begin(self.analysis.stream)
        self.begun = True

    @property
    def given_away(self) -> bool:
        """Whether rows are on their way to somebody who does not wait for the rest."""
        return self.begun and self.analysis.stream is not None and not isinstance(self.sink, Collect)

    def goes_on(self) -> bool:
        """Whether it does: in time, else what it has so far is let go, and not broken."""
        if self.attempt.in_time():
            return self.broken is None
        self.waiting, self.kept = {}, {}
        return False

    def scan(self, pages: PageRange) -> Mapping[str, Columns] | None:
        """Its rows of one range."""
        return self.own(self.analysis.scan, pages, self.state)

    def own(self, what: Callable[..., T], *given: Any) -> T | None:
        """Call the analysis' own code. None if that breaks it."""
        try:
            return what(*given)
        except Exception as error:
            self.breaks(error)
            return None

    def breaks(self, error: Exception) -> None:
        """Go no further, after an error; where no row was given away it is the caller's."""
        if not self.given_away:
            raise error
        self.broken = self.broken or error

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
        for name, frame in (self.own(self.analysis.batch, rows, self.state) or {}).items():
            if self.analysis.stream is not None and name == self.analysis.stream.name:
                self.sink.rows(frame)
            else:
                self._keep(name, frame)

    def _only_rows(self) -> Result:
        """What is left of a streaming analysis that failed when rows of it had been given away."""
        error, stream = self.broken, self.analysis.stream
        assert stream is not None
        assert error is not None
        words = error_words(error)
        return Result(
            self.analysis.name,
            primary=stream.name,
            text_tables=[stream.name],
            incomplete=[
                f"{self.analysis.name} failed {self.where}, so that there is no more than rows: {words}"
            ],
        )

    def _keep(self, name: str, frame: pl.DataFrame) -> None:
        frames = self.kept.setdefault(name, [])
        frames.append(frame)
        self.kept_rows[name] = self.kept_rows.get(name, 0) + len(frame)
        if self.kept_rows[name] > _FOLD_ROWS and len(frames) > 1:
            folded = self.own(self.analysis.fold, name, pl.concat(frames))
            if folded is None:
                return
            self.kept[name] = [folded]
            # What does not shrink may grow before the next try.
            self.kept_rows[name] = len(folded) // 2

    def finish(self, kernel: Kernel) -> Result:
        """Its result, or what there is of it."""
        self.flush()
        if self.broken is None:
            self.where = "at its end"
            result = self.own(self._finish, kernel)
            if result is not None:
                return result
        return self._only_rows()

    def _finish(self, kernel: Kernel) -> Result:
        return self.analysis.finish(kernel, self.state, self._parts())

    def _parts(self) -> Parts:
        """What was kept, folded once more."""
        return {name: self.analysis.fold(name, pl.concat(frames)) for name, frames in self.kept.items()}


def _frame(pieces: Sequence[Columns]) -> pl.DataFrame:
    names = pieces[0].keys()
    return pl.DataFrame({name: np.concatenate([piece[name] for piece in pieces]) for name in names})


def why_not(kernel: Kernel, analysis: Analysis) -> str | None:
    """Why an analysis would give no answer: what it needs is not there, or the pages cannot be read.

    :return: One sentence, or None. Errors of :meth:`.Analysis.why_not` are raised.
    """
    reason = analysis.why_not(kernel)
    if reason is not None or not analysis.wants_pages(kernel):
        return reason
    try:
        _check_pages(kernel)
        _ = kernel.page_layout
    except MmdumpError as error:
        return error.message
    return None


def _check_pages(kernel: Kernel) -> None:
    """:raises IncompleteError: No page is known, or the page array could not be read."""
    if not kernel.memmap.pages:
        raise IncompleteError("no page of this kernel's memory is known", "The dump may be damaged.")


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
    """Run analyses that can run (see :meth:`.Analysis.why_not`) in one pass over the page array.

    :param sinks: One for each analysis, or None to keep streamed rows in the result.
    :return: One result for each analysis, with coverage filled in.
    """
    outcomes = _run(kernel, analyses, sinks, progress, None)
    return [each.result for each in outcomes if each.result is not None]


def run_guarded(
    kernel: Kernel,
    analyses: Sequence[Analysis],
    sinks: Sequence[RowSink | None] = (),
    progress: Progress | None = None,
    most: float | None = None,
) -> list[Outcome]:
    """As :func:`run`, but one that fails costs only itself.

    :param most: Seconds that each may take: one that takes more is dropped between two ranges.
    :return: One outcome for each analysis.
    """
    return _run(kernel, analyses, sinks, progress, Guard(most))


def _run(
    kernel: Kernel,
    analyses: Sequence[Analysis],
    sinks: Sequence[RowSink | None],
    progress: Progress | None,
    guard: Guard | None,
) -> list[Outcome]:
    kernel.progress = progress
    runs = []
    for index, analysis in enumerate(analyses):
        sink = (sinks[index] if index < len(sinks) else None) or Collect()
        asked = analysis if analysis.stream is None else analysis.only(sink.needs(analysis.stream))
        one = _Run(asked, None, sink, Attempt(guard))
        one.state = one.attempt.call(asked.start, kernel)
        runs.append(one)
    scanning = [one for one in runs if one.attempt.call(one.analysis.wants_pages, kernel)]
    # A kernel whose page_ext mmdump does not know may still do for analyses that need none.
    ext = any(one.attempt.call(_wants_ext, kernel, one.analysis) for one in scanning)
    ranges = Ranges(kernel, ext=ext, progress=progress)
    _scan(ranges, runs, scanning)
    for one in runs:
        one.begin()
    for one in runs:
        if one.attempt.in_time():
            kernel.progress = one.attempt.watched(progress)
            one.attempt.outcome.result = one.attempt.call(
                _finish, kernel, one, ranges if one in scanning else None
            )
    return [one.attempt.outcome for one in runs]


def _wants_ext(kernel: Kernel, analysis: Analysis) -> bool:
    return any(kernel.page_ext.enabled(name) for name in analysis.page_ext)


def _scan(ranges: Ranges, runs: Sequence[_Run], scanning: Sequence[_Run]) -> None:
    """The pass over the page array."""
    going = [one for one in scanning if one.goes_on()]
    reading = iter(ranges)
    while going and (pages := _next(reading, going)) is not None:
        for one in going:
            one.where = f"when it had come to PFN {pages.start}"
        parts = [one.attempt.call(one.scan, pages) for one in going]
        # Not before: what keeps the first range from being read leaves no half of an answer behind.
        for one in runs:
            one.begin()
        for one, found in zip(going, parts, strict=True):
            if found is not None:
                one.attempt.call(one.take, found)
        del pages, parts
        going = [one for one in going if one.goes_on()]
        if all(one.sink.satisfied for one in going):
            break


def _next(reading: Iterator[PageRange], going: Sequence[_Run]) -> PageRange | None:
    """The next range; None after the last, or when it fails."""
    try:
        return next(reading, None)
    except Exception as error:
        for one in going:
            one.attempt.call(one.breaks, error)
        return None


def _finish(kernel: Kernel, one: _Run, ranges: Ranges | None) -> Result:
    """The result, with coverage if it looked at pages."""
    result = one.finish(kernel)
    if isinstance(one.sink, Collect) and one.analysis.stream is not None:
        result = result.with_table(one.sink.finish())
    if ranges is not None:
        coverage, ext = ranges.coverage, _wants_ext(kernel, one.analysis)
        result = replace(
            result,
            # What others needed of page_ext is none of its business.
            coverage=coverage if ext else replace(coverage, page_ext=None),
            incomplete=[*result.incomplete, *ranges.missing(ext=ext)],
        )
    truncated = kernel.target.dump.truncated if kernel.target.dump is not None else None
    if truncated:
        result = replace(result, notes=[truncated, *result.notes])
    findings = sorted(result.findings, key=lambda each: each.severity.rank)
    return replace(result, findings=findings, target=result.target or summarise(kernel.target))


class Ranges:
    """The pages of a kernel, one range after the other, with an account of what could be read.

    :param ext: Whether the page_ext entries are wanted too, where the kernel has them.
    """

    def __init__(self, kernel: Kernel, *, ext: bool = False, progress: Progress | None = None) -> None:
        self._kernel = kernel
        self._ext = ext
        self._progress = progress
        #: What was read so far.
        self.coverage = Coverage(page_ext=Coverage() if ext else None)

    def __iter__(self) -> Iterator[PageRange]:
        _check_pages(self._kernel)
        memmap = self._kernel.memmap
        total = memmap.pages
        keep_freed_memory()
        for start, end in memmap.chunks():
            pages = self._kernel.pages(start, end, ext=self._ext)
            ext = None if pages.ext is None else _count(pages.ext.status)
            self.coverage += replace(_count(pages.status), page_ext=ext)
            yield pages
            # Before the next range is read: memory just used is memory in the caches.
            del pages
            if self._progress is not None:
                self._progress(self.coverage.pages, total)

    def missing(self, *, ext: bool = True) -> list[str]:
        """One sentence for each thing that should have been read and could not be.

        :param ext: Of page_ext too, where it was read.
        """
        reasons = []
        for what, part in (("struct page", self.coverage), ("page_ext", self.coverage.page_ext)):
            if part is None or (part is not self.coverage and not ext):
                continue
            if part.unreadable or part.erased:
                lost = part.unreadable + part.erased
                reasons.append(f"{what} of {lost} of {part.pages} pages could not be read")
            if part.zero_filled:
                # The dump holds nothing there, and drgn reads zeros: what was left out need not be zero.
                reasons.append(f"{what} of {part.zero_filled} of {part.pages} pages is not in the dump")
        if self._kernel.memmap.unreadable_sections:
            reasons.append(
                f"{self._kernel.memmap.unreadable_sections} parts of the memory section table could not be "
                "read: pages they describe are not counted at all"
            )
        return reasons


def _count(status: U8) -> Coverage:
    if not status.any():
        # ReadStatus.READ, all of them: as nearly always.
        return Coverage(pages=len(status), read=len(status))
    counts = np.bincount(status, minlength=len(ReadStatus))
    return Coverage(
        pages=len(status),
        read=int(counts[ReadStatus.READ]),
        unreadable=int(counts[ReadStatus.UNREADABLE]),
        zero_filled=int(counts[ReadStatus.ZERO_FILLED]),
        erased=int(counts[ReadStatus.ERASED]),
    )
