"""What a report has in it: every analysis that can run, whatever becomes of the others."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from mmdump.analysis import Analysis, Columns, Need, Parts
from mmdump.document import Report, Section
from mmdump.errors import UsageError
from mmdump.report import Choice
from mmdump.report.ranking import ranked
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from tests.report.dumps import dump_of, plugins_with, report_of

ROWS = Schema("rows", (Column("pfn", Kind.PFN), Column("who")))


@dataclass(frozen=True)
class Counts(Analysis):
    """Streams every page and counts them."""

    name = "counts"
    summary = "pages"
    stream = ROWS
    ranges: ClassVar[list[int]] = []

    def scan(self, pages: Any, state: Any) -> Mapping[str, Columns]:
        self.ranges.append(pages.start)
        return {"rows": {"pfn": pages.pfn, "who": np.full(len(pages), "x")}}

    def finish(self, kernel: Any, state: Any, parts: Parts) -> Result:
        return Result(self.name, summary=["counted"], primary="rows", text_tables=["rows"])


@dataclass(frozen=True)
class BreaksInScan(Counts):
    name = "breaks"

    def scan(self, pages: Any, state: Any) -> Mapping[str, Columns]:
        raise ZeroDivisionError("of no use")


@dataclass(frozen=True)
class BreaksInStart(BreaksInScan):
    name = "never-starts"
    stream = None

    def start(self, kernel: Any) -> Any:
        raise KeyError("no such member")


@dataclass(frozen=True)
class Slow(Counts):
    name = "slow"
    scanned: ClassVar[list[int]] = []

    def scan(self, pages: Any, state: Any) -> Mapping[str, Columns]:
        self.scanned.append(pages.start)
        time.sleep(0.3)
        return super().scan(pages, state)


@dataclass(frozen=True)
class Cannot(Counts):
    name = "cannot"
    needs = (Need(lambda _kernel: "this kernel has nothing to count"),)


def section(report: Report, name: str) -> Section:
    [found] = [each for each in report.sections if each.name == name]
    return found


def test_every_analysis_has_a_section_or_a_reason(cma_dump: Path) -> None:
    plugins = plugins_with(Cannot)
    report = report_of(cma_dump, plugins=plugins)
    told = {each.name for each in report.sections} | {name for name, _ in report.absent}
    assert told == {"info", "check"} | plugins.analyses().keys()
    for name in ("trace", "holders", "pages"):
        assert (name, f"a command of its own: mmdump {name}") in report.absent
    assert ("cannot", "this kernel has nothing to count") in report.absent
    assert not report.incomplete


def test_a_section_says_what_its_command_says(cma_dump: Path) -> None:
    from mmdump.kernel import Kernel
    from mmdump.scan import run_one
    from mmdump.target import open_target

    report, plugins = report_of(cma_dump), plugins_with()
    with open_target(cma_dump) as target:
        kernel = Kernel(target, plugins.page_ext_clients())
        for name in ("pinned", "page-owner", "buddy", "thp"):
            alone, told = (
                run_one(kernel, plugins.analyses()[name].for_report(kernel)),
                section(report, name).result,
            )
            assert told is not None
            assert told.summary == alone.summary
            assert told.findings == alone.findings
            assert told.coverage == alone.coverage
            for table, rows in alone.tables.items():
                assert told.tables[table].frame.equals(rows.frame), (name, table)


def test_what_fails_costs_only_itself(cma_dump: Path) -> None:
    report = report_of(cma_dump, plugins=plugins_with(BreaksInScan, BreaksInStart, Counts))
    assert section(report, "breaks").error == "failed: ZeroDivisionError: of no use"
    assert section(report, "breaks").result is None
    assert section(report, "never-starts").error == "failed: KeyError: 'no such member'"
    assert section(report, "counts").result is not None
    whole = report_of(cma_dump)
    assert [each.finding for each in report.findings] == [each.finding for each in whole.findings]
    assert report.incomplete == [
        "breaks: failed: ZeroDivisionError: of no use",
        "never-starts: failed: KeyError: 'no such member'",
    ]


def test_what_takes_too_long_is_dropped_between_two_ranges(tmp_path: Path) -> None:
    vmcore = dump_of("idle", tmp_path)
    Slow.scanned.clear()
    Counts.ranges.clear()
    choice = Choice(only=("slow", "counts"), seconds=0.2)
    report = report_of(vmcore, choice, plugins_with(Slow, Counts))
    assert section(report, "slow").error == "dropped: it took more than the 0.2 seconds it was given"
    assert len(Slow.scanned) == 1
    # The others saw all of memory.
    assert len(set(Counts.ranges)) > 1
    assert section(report, "counts").result is not None


@dataclass(frozen=True)
class Searches(Analysis):
    """Works by itself for as long as it may, and says how far it is."""

    name = "searches"
    summary = "searches"
    scans = False

    def finish(self, kernel: Any, state: Any, parts: Parts) -> Result:
        for step in range(1000):
            time.sleep(0.02)
            kernel.progress(step, 1000)
        return Result(self.name)


def test_a_search_of_its_own_that_takes_too_long_ends_at_its_next_step(cma_dump: Path) -> None:
    report = report_of(cma_dump, Choice(only=("searches", "info"), seconds=0.1), plugins_with(Searches))
    assert section(report, "searches").error == "dropped: it took more than the 0.1 seconds it was given"
    assert section(report, "info").result is not None


def test_of_streamed_rows_the_first_are_kept_and_all_counted(cma_dump: Path) -> None:
    report = report_of(cma_dump, Choice(only=("counts",)), plugins_with(Counts))
    counts = section(report, "counts")
    assert counts.result is not None
    table = counts.result.tables["rows"]
    assert table.frame.height == 1000
    assert table.frame["pfn"].to_list() == list(range(1000))
    assert counts.result.coverage is not None
    assert counts.rows(table) == counts.result.coverage.pages


def test_sections_are_chosen_by_name(cma_dump: Path) -> None:
    report = report_of(cma_dump, Choice(only=("pinned", "info"), skip=("info",)))
    assert [each.name for each in report.sections] == ["pinned"]
    assert ("buddy", "left out on request") in report.absent
    for choice in (Choice(only=("pined",)), Choice(skip=("pined",))):
        with pytest.raises(UsageError, match="pined"):
            report_of(cma_dump, choice)
    with pytest.raises(UsageError, match="--only trace: it is a command of its own: mmdump trace"):
        report_of(cma_dump, Choice(only=("trace",)))


def finding(severity: Severity, message: str, about: str | None = None, table: str | None = None) -> Finding:
    return Finding("key", severity, message, table, about=about)


def ranks(*sections: Section) -> list[str]:
    return [each.finding.message for each in ranked(sections)]


def test_findings_are_ranked_by_severity_then_in_order_of_sections() -> None:
    first = Result("a", findings=[finding(Severity.NOTE, "1"), finding(Severity.PROBLEM, "2")])
    second = Result("b", findings=[finding(Severity.PROBLEM, "3"), finding(Severity.WARNING, "4")])
    check = Result("check", findings=[finding(Severity.PROBLEM, "5")])
    sections = [Section("a", "", first), Section("b", "", second), Section("check", "", check)]
    # Where an invariant is broken, nothing else is sure.
    assert ranks(*sections) == ["5", "2", "3", "4", "1"]


def test_what_two_sections_find_of_one_thing_is_told_once() -> None:
    first = Result(
        "a", findings=[finding(Severity.WARNING, "1", "area"), finding(Severity.WARNING, "2", "x")]
    )
    second = Result("b", findings=[finding(Severity.PROBLEM, "3", "area"), finding(Severity.NOTE, "4")])
    assert ranks(Section("a", "", first), Section("b", "", second)) == ["3", "2", "4"]


def test_evidence_is_the_rows_that_the_condition_selects() -> None:
    frame = pl.DataFrame({"pfn": range(40), "who": ["a", "b"] * 20})
    told = Finding("key", Severity.NOTE, "", "rows", "who = 'a' AND pfn >= 0x4")
    broken = Finding("key", Severity.NOTE, "", "rows", "nobody = 3")
    result = Result("a", tables={"rows": Table(ROWS, frame)}, findings=[told, broken])
    first, second = ranked([Section("a", "", result)])
    assert first.evidence is not None
    assert first.evidence.frame["pfn"].to_list() == list(range(4, 24, 2))
    assert first.rows == 18
    assert second.evidence is None
    # How many there are is not known where not all rows were kept.
    [cut, _] = ranked([Section("a", "", result, totals={"rows": 1000})])
    assert cut.rows is None


def test_the_first_finding_of_a_blocked_area_names_who_is_in_the_way(cma_dump: Path) -> None:
    told = report_of(cma_dump).findings[0]
    assert told.finding.key == "cma-blocked"
    assert "12 by FOLL_PIN (allocated by postgres 1204)" in told.finding.message
    assert "4 by unexplained references (allocated by tar 1377)" in told.finding.message
    assert told.evidence is not None
    owners = told.evidence.frame.group_by("owner").agg(pl.col("folios").sum()).sort("owner")
    assert owners.rows() == [("postgres 1204", 12), ("tar 1377", 4)]
    # Both pinned and cma find it.
    assert sum(each.finding.key == "cma-blocked" for each in report_of(cma_dump).findings) == 1


def test_a_machine_that_does_nothing_has_no_problem(tmp_path: Path) -> None:
    report = report_of(dump_of("idle", tmp_path))
    assert not [each for each in report.findings if each.finding.severity is not Severity.NOTE]
    assert not report.incomplete


def test_provenance_says_where_all_of_it_comes_from(cma_dump: Path) -> None:
    import hashlib

    report = report_of(cma_dump, Choice(digest=True, seconds=300))
    source, sections, plugins = report.provenance
    facts = dict(source.frame.rows())
    assert facts["SHA-256"] == hashlib.sha256(cma_dump.read_bytes()).hexdigest()
    assert facts["size"] == f"{cma_dump.stat().st_size} bytes"
    assert facts["options"] == "--time-limit 300 --hash"
    assert facts["build ID"] == report.target["build_id"]
    assert "vmlinux" in facts["debug info"]
    assert sections.frame["section"].to_list() == [each.name for each in report.sections]
    assert {"cma", "page_owner", "pages"} <= set(plugins.frame["plugin"])


def test_what_ails_the_whole_dump_is_said_once(tmp_path: Path) -> None:
    vmcore = dump_of("cma-failure", tmp_path)
    os.truncate(vmcore, vmcore.stat().st_size * 7 // 10)
    report = report_of(vmcore)
    assert report.target["truncated"]
    told = [each.finding.message for each in report.findings if "truncated" in each.finding.message]
    assert told == [report.target["truncated"]]
    sections = [each for each in report.sections if each.result is not None]
    assert len(sections) > 5
    assert not any("truncated" in note for each in sections for note in each.result.notes)
    without = report_of(vmcore, Choice(only=("pinned", "buddy")))
    assert [value for _, value in without.facts if "truncated" in value] == told


def test_what_several_sections_lack_for_one_reason_is_said_once() -> None:
    sections = [
        Section("a", "", error="no page array"),
        Section("b", "", Result("b", incomplete=["no page array", "no log"])),
    ]
    assert Report("t", sections=sections).incomplete == ["a, b: no page array", "b: no log"]
