"""Run every analysis in one pass, each on its own account, and put what they found together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from mmdump.checking import CheckRun
from mmdump.document import Report, Section
from mmdump.errors import MmdumpError, UsageError
from mmdump.info import info
from mmdump.report.provenance import facts_of, provenance_of
from mmdump.report.ranking import ranked
from mmdump.report.redact import redacted
from mmdump.report.secrets import find_secrets
from mmdump.result import Result, Schema, Table
from mmdump.scan import Outcome, OutOfTimeError, run_guarded
from mmdump.target.faults import error_words
from mmdump.target.summary import summarise

if TYPE_CHECKING:
    from mmdump.analysis import Analysis
    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins
    from mmdump.scan import Progress

__all__ = ["Choice", "FirstRows", "make_report"]

#: Rows of a streamed table that a report keeps.
_FIRST_ROWS = 1000
_INFO, _CHECK = "info", "check"
#: What info says in short stands at the head of the report.
_INFO_RANK = 85


@dataclass(frozen=True)
class Choice:
    """What a report shall have.

    :param only: Names of the sections to make; all when empty.
    :param skip: Names of those to leave out.
    :param seconds: Time that each may take; None for no limit.
    :param redact: Mask what is nobody else's business.
    :param digest: Name the dump's SHA-256, which takes reading it once more.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    seconds: float | None = None
    redact: bool = False
    digest: bool = False

    def wants(self, name: str) -> bool:
        """Whether there shall be a section of that name."""
        return (not self.only or name in self.only) and name not in self.skip


class FirstRows:
    """Keeps the first of the rows that are streamed, and counts all."""

    #: Whatever else the analysis finds is wanted.
    satisfied = False

    def __init__(self, most: int = _FIRST_ROWS) -> None:
        self._most = most
        self._frames: list[pl.DataFrame] = []
        self._schema: Schema | None = None
        self._kept = 0
        #: All rows so far.
        self.total = 0

    def needs(self, schema: Schema) -> frozenset[str]:
        """All columns."""
        return frozenset(schema.names)

    def begin(self, schema: Schema) -> None:
        """See :class:`mmdump.result.RowSink`."""
        self._schema = schema

    def rows(self, frame: pl.DataFrame) -> None:
        """See :class:`mmdump.result.RowSink`."""
        self.total += frame.height
        if self._kept < self._most and frame.height:
            # A copy of its own: the rest of the frame need not stay in memory.
            self._frames.append(frame.head(self._most - self._kept).clone())
            self._kept += self._frames[-1].height

    def add_to(self, result: Result) -> Result:
        """The result with the table that was streamed."""
        if self._schema is None:
            return result
        if self._frames:
            frame = pl.concat(self._frames, how="vertical_relaxed")
        else:
            frame = pl.DataFrame(schema=dict.fromkeys(self._schema.names, pl.Null))
        return result.with_table(Table(self._schema, frame))


def make_report(
    kernel: Kernel, plugins: Plugins, choice: Choice | None = None, progress: Progress | None = None
) -> Report:
    """Everything that mmdump has to say of a dump.

    Analyses that can run do so in one pass over the page array; what fails in one is said in its section.

    :raises UsageError: There is no section of a name that was given.
    """
    choice = choice or Choice()
    analyses_by_name = plugins.analyses()
    classes = {name: each for name, each in analyses_by_name.items() if each.in_report}
    commands = [name for name in analyses_by_name if name not in classes]
    _check_names(choice, [_INFO, *classes, _CHECK], commands)
    begun = time.monotonic()
    sections: list[tuple[int, Section]] = []
    absent = [(name, _a_command(name)) for name in commands]
    if choice.wants(_INFO):
        sections.append((_INFO_RANK, _info(kernel, plugins)))
    chosen: list[tuple[int, str, Analysis]] = []
    for name, each in classes.items():
        if not choice.wants(name):
            absent.append((name, "left out on request"))
            continue
        try:
            analysis = each.for_report(kernel)
            reason = analysis.why_not(kernel)
        except Exception as error:
            reason = _words(error)
        if reason is not None:
            absent.append((name, reason))
        else:
            plugin = plugins.of(each)
            chosen.append((each.report_rank, "" if plugin is None else plugin.name, analysis))
    if choice.wants(_CHECK):
        check = CheckRun(plugins.checks())
        chosen.append((check.report_rank, "", check))
    analyses = [analysis for _, _, analysis in chosen]
    sinks = [None if each.stream is None else FirstRows() for each in analyses]
    outcomes = run_guarded(kernel, analyses, sinks, progress, choice.seconds)
    for (rank, plugin_name, analysis), sink, outcome in zip(chosen, sinks, outcomes, strict=True):
        sections.append((rank, _section(analysis, plugin_name, sink, outcome)))
    sections.sort(key=lambda each: (each[0], each[1].name))
    truncated = kernel.target.dump.truncated if kernel.target.dump is not None else None
    in_order = [_own(section, truncated) for _, section in sections]
    facts = facts_of(kernel)
    if truncated and not any(each.name == _INFO and each.result is not None for each in in_order):
        # Else it is among what is found.
        facts.append(("damage", truncated))
    report = Report(
        title=kernel.target.describe(),
        facts=facts,
        findings=ranked(in_order),
        sections=in_order,
        absent=sorted(absent),
        provenance=provenance_of(
            kernel,
            plugins,
            in_order,
            options=_options(choice),
            seconds=time.monotonic() - begun,
            digest=choice.digest,
        ),
        target=summarise(kernel.target),
    )
    return redacted(report, find_secrets(kernel, plugins)) if choice.redact else report


def _a_command(name: str) -> str:
    return f"a command of its own: mmdump {name}"


def _check_names(choice: Choice, names: Sequence[str], commands: Sequence[str]) -> None:
    for option, given in (("--only", choice.only), ("--skip", choice.skip)):
        for name in given:
            if name not in names:
                why = f"it is {_a_command(name)}" if name in commands else "there is no such section"
                raise UsageError(f"{option} {name}: {why}", f"Sections: {', '.join(names)}.")


def _info(kernel: Kernel, plugins: Plugins) -> Section:
    begun = time.monotonic()
    section = Section(_INFO, "what is in this dump, and which analyses can run on it")
    try:
        section = replace(section, result=info(kernel, plugins))
    except Exception as error:
        section = replace(section, error=_words(error))
    return replace(section, seconds=time.monotonic() - begun)


def _section(analysis: Analysis, plugin: str, sink: FirstRows | None, outcome: Outcome) -> Section:
    result, error, totals = outcome.result, None, {}
    if outcome.error is not None:
        error = _words(outcome.error)
    elif result is not None and sink is not None and analysis.stream is not None:
        result = sink.add_to(result)
        totals = {analysis.stream.name: sink.total}
    return Section(analysis.name, analysis.summary, result, error, outcome.seconds, totals, plugin)


def _own(section: Section, truncated: str | None) -> Section:
    """The section without what is to be said of the whole dump."""
    if truncated is None or section.result is None or section.name == _INFO:
        return section
    notes = [note for note in section.result.notes if note != truncated]
    return replace(section, result=replace(section.result, notes=notes))


def _words(error: Exception) -> str:
    """What went wrong, in one sentence."""
    if isinstance(error, MmdumpError):
        return error.message
    if isinstance(error, OutOfTimeError):
        return f"dropped: {error}"
    # drgn's errors say which address; what else comes is a bug in the analysis.
    return f"failed: {error_words(error)}"


def _options(choice: Choice) -> list[str]:
    words = [f"--only {name}" for name in choice.only] + [f"--skip {name}" for name in choice.skip]
    if choice.seconds is not None:
        words.append(f"--time-limit {choice.seconds:g}")
    words += ["--redact"] * choice.redact + ["--hash"] * choice.digest
    return words
