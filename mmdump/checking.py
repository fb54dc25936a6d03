"""``mmdump check``: runs the invariants of all plugins in one pass over the page array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Columns, Parts
from mmdump.checks import Check, Violations, initialised
from mmdump.errors import UsageError
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from mmdump.target.faults import error_words

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["CheckRun"]

CHECKS = Schema(
    "checks",
    (
        Column("check", description="its name"),
        Column(
            "state",
            description="holds, broken, not checked, or failed",
            values=("holds", "broken", "not checked", "failed"),
        ),
        Column("violations", Kind.COUNT, "pages (or counters) that break it"),
        Column("invariant", description="what holds on a healthy machine"),
        Column("why_not", description="why it was not checked", in_text=False),
    ),
    "Invariants",
)
VIOLATIONS = Schema(
    "violations",
    (
        Column("check", description="the invariant that is broken"),
        Column("pfn", Kind.PFN, "the page that breaks it; absent where it is not a page"),
        Column("what", description="what is wrong"),
    ),
    "Violations",
)
_TYPES = {"check": pl.String(), "pfn": pl.Int64(), "what": pl.String()}

#: Violations of one check that are described: of a range, and of all. All are counted.
_SHOWN_OF_RANGE, _SHOWN = 64, 1024


@dataclass
class State:
    """What the checks need while they run.

    :param of: The state of each check that runs, by index.
    :param why_not: Why others do not.
    :param failed: What went wrong in those that failed.
    """

    of: dict[int, Any] = field(default_factory=dict)
    why_not: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def fail(self, index: int, error: Exception) -> None:
        """Leave a check out from here on: its plugin is broken, or this dump is more so than it thought."""
        self.failed[index] = error_words(error)
        self.of.pop(index, None)


class CheckRun(Analysis):
    """Invariants of the kernel's memory management that do not hold: fsck for struct page.

    :param checks: Those there are.
    :param only: Names of those to run; all when empty.
    :raises UsageError: There is no check of such a name.
    """

    name = "check"
    summary = "invariants that do not hold"
    report_rank = 90

    def __init__(self, checks: Sequence[Check], only: Sequence[str] = ()) -> None:
        names = [each.name for each in checks]
        for name in only:
            if name not in names:
                raise UsageError(f"there is no check {name}", f"Checks: {', '.join(sorted(names))}.")
        chosen = sorted(
            (each for each in checks if not only or each.name in only), key=lambda each: each.name
        )
        # Analyses are frozen: their fields are options.
        object.__setattr__(self, "checks", tuple(chosen))
        object.__setattr__(self, "page_ext", tuple({name for each in chosen for name in each.page_ext}))

    checks: tuple[Check, ...]

    def start(self, kernel: Kernel) -> State:
        """Start every check; one that cannot run, or fails, does not keep the others from it."""
        state = State()
        for index, check in enumerate(self.checks):
            try:
                reason = check.why_not(kernel)
                if reason is None:
                    state.of[index] = check.start(kernel)
                else:
                    state.why_not[index] = reason
            except Exception as error:
                state.fail(index, error)
        return state

    def scan(self, pages: PageRange, state: State) -> Mapping[str, Columns]:
        """What breaks the invariants in this range: all counted, some described; and the sums."""
        # Empty ones too: every range has the same parts.
        parts: dict[str, Columns] = {
            "counts": {"check": np.zeros(0, np.int64), "violations": np.zeros(0, np.int64)},
            "violations": _described([]),
        }
        counts: list[tuple[int, int]] = []
        described: list[tuple[int, int, str]] = []
        for index in list(state.of):
            try:
                found = self._violations(index, pages, state)
                total = sum(len(each.rows) for each in found)
                if total:
                    counts.append((index, total))
                    described += _first(index, pages, found)
                sums = self.checks[index].tally(pages, state.of[index])
            except Exception as error:
                state.fail(index, error)
                continue
            if sums is not None:
                parts[f"sums {index}"] = sums
        if counts:
            codes, totals = zip(*counts, strict=True)
            parts["counts"] = {"check": np.array(codes, np.int64), "violations": np.array(totals, np.int64)}
            parts["violations"] = _described(described)
        return parts

    def _violations(self, index: int, pages: PageRange, state: State) -> list[Violations]:
        check = self.checks[index]
        found = _known(check.scan(pages, state.of[index]), pages)
        if not found or pages.again is None:
            return found
        # A live kernel changes pages while they are read: what is wrong twice is wrong.
        again = pages.again()
        still = np.zeros(len(pages), bool)
        for each in _known(check.scan(again, state.of[index]), again):
            still[each.rows] = True
        kept = [Violations(each.what, each.rows[still[each.rows]], each.values) for each in found]
        return [each for each in kept if len(each.rows)]

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum what is counted, and keep the first violations of each check."""
        if part == "violations":
            return frame.group_by("check", maintain_order=True).head(_SHOWN).select("check", "pfn", "what")
        check = None if part == "counts" else self.checks[int(part.split()[1])]
        keys, least = (["check"], ()) if check is None else (list(check.keys), check.least)
        values = [
            pl.col(name).min() if name in least else pl.col(name).sum()
            for name in frame.columns
            if name not in keys
        ]
        return frame.group_by(keys, maintain_order=True).agg(values) if keys else frame.select(values)

    def finish(self, kernel: Kernel, state: State, parts: Parts) -> Result:
        """Hold the sums against the kernel's own, and say what was found."""
        counts = dict(parts["counts"].iter_rows())
        described = list(parts["violations"].iter_rows())
        for index, started in list(state.of.items()):
            try:
                broken = list(self.checks[index].finish(kernel, started, parts.get(f"sums {index}")))
            except Exception as error:
                state.fail(index, error)
                continue
            if broken:
                counts[index] = counts.get(index, 0) + len(broken)
                described += [(index, each.pfn, each.what) for each in broken[:_SHOWN]]
        return self._result(state, counts, described)

    def _result(
        self, state: State, counts: Mapping[int, int], described: list[tuple[int, int | None, str]]
    ) -> Result:
        described = sorted(described, key=lambda each: each[0])
        rows = [(self.checks[index].name, pfn, what) for index, pfn, what in described]
        checks = [self._row(index, state, counts.get(index, 0)) for index in range(len(self.checks))]
        order = {"broken": 0, "failed": 1, "holds": 2, "not checked": 3}
        checks.sort(key=lambda row: order[row[1]])
        held, broken = (
            [row for row in checks if row[1] == "holds"],
            [row for row in checks if row[1] == "broken"],
        )
        ran = len(held) + len(broken)
        if not broken:
            summary = f"All of {ran} invariants hold." if ran else "No invariant could be checked."
        else:
            violations = sum(counts.values())
            summary = (
                f"{len(broken)} of {ran} invariants {'is' if len(broken) == 1 else 'are'} broken: "
                f"{violations} violation{'' if violations == 1 else 's'}."
            )
        types = {
            "check": pl.String,
            "state": pl.String,
            "violations": pl.Int64,
            "invariant": pl.String,
            "why_not": pl.String,
        }
        frame = pl.DataFrame(rows, schema=_TYPES, orient="row")
        tables = {
            "violations": Table(VIOLATIONS, frame),
            "checks": Table(CHECKS, pl.DataFrame(checks, schema=types, orient="row")),
        }
        return Result(
            self.name,
            summary=[summary],
            tables=tables,
            primary="violations",
            text_tables=["violations", "checks"],
            findings=[self._finding(row, described) for row in broken],
            notes=[f"Not checked: {row[0]}: {row[4]}." for row in checks if row[1] == "not checked"],
            incomplete=[f"check {row[0]} failed: {row[4]}" for row in checks if row[1] == "failed"],
        )

    def _row(self, index: int, state: State, violations: int) -> tuple[str, str, int | None, str, str | None]:
        check = self.checks[index]
        if index in state.why_not:
            return check.name, "not checked", None, check.summary, state.why_not[index]
        # What was found before it failed was found.
        if violations:
            return check.name, "broken", violations, check.summary, state.failed.get(index)
        if index in state.failed:
            return check.name, "failed", None, check.summary, state.failed[index]
        return check.name, "holds", 0, check.summary, None

    def _finding(self, row: tuple[Any, ...], described: list[tuple[int, int | None, str]]) -> Finding:
        name, _, violations, invariant, _ = row
        pfn, what = next((each[1:] for each in described if self.checks[each[0]].name == name), (None, ""))
        where = f"page {pfn:#x}: " if pfn is not None else ""
        return Finding(
            f"check-{name}",
            Severity.PROBLEM,
            f"{name}: {violations} violation{'' if violations == 1 else 's'} of: {invariant}. "
            f"{'The first: ' if violations > 1 else ''}{where}{what}.",
            "violations",
            f"check = '{name}'",
        )


def _known(found: Sequence[Violations], pages: PageRange) -> list[Violations]:
    """Only rows whose struct page is known; those that are not are counted by the coverage."""
    if not any(len(each.rows) for each in found):
        return []
    known = initialised(pages)
    kept = [Violations(each.what, each.rows[known[each.rows]], each.values) for each in found]
    return [each for each in kept if len(each.rows)]


def _first(index: int, pages: PageRange, found: Sequence[Violations]) -> list[tuple[int, int, str]]:
    rows = [
        (pages.start + row, each.text(row)) for each in found for row in each.rows[:_SHOWN_OF_RANGE].tolist()
    ]
    rows.sort()
    return [(index, pfn, what) for pfn, what in rows[:_SHOWN_OF_RANGE]]


def _described(rows: list[tuple[int, int, str]]) -> Columns:
    return {
        "check": np.array([row[0] for row in rows], np.int64),
        "pfn": np.array([row[1] for row in rows], np.int64),
        "what": np.array([row[2] for row in rows], "U1" if not rows else None),
    }
