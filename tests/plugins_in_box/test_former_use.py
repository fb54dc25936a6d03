"""What happened to a page before it was allocated says nothing of who holds it now."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.pagenotes import AskedPages
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_page_pinner import Pinned, analysis, notes
from mmdump_page_pinner.witnesses import Witnesses, read_witnesses

from .test_page_notes import machine


def back(witnesses: Witnesses, pfn: int) -> Witnesses:
    """The same, but what is told of a page happened at the start, when it was not allocated yet."""
    time = pl.when(pl.col("pfn") == pfn).then(pl.lit(1, pl.UInt64)).otherwise(pl.col("time")).alias("time")
    return replace(witnesses, frame=witnesses.frame.with_columns(time))


def seen(kernel: Kernel) -> int:
    """A page that is held, and has a history."""
    frame = run_one(kernel, Pinned()).tables["timelines"].frame
    return int(frame.filter((pl.col("state") == "held") & (pl.col("failures") > 0))["pfn"][0])


def told(result: Result, pfn: int) -> dict[str, object]:
    return result.tables["timelines"].frame.row(by_predicate=pl.col("pfn") == pfn, named=True)


def test_events_of_a_former_use_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = machine()
    pfn, before = seen(kernel), run_one(kernel, Pinned())
    events = back(read_witnesses(kernel), pfn)
    count = len(events.frame.filter(pl.col("pfn") == pfn))
    monkeypatch.setattr(analysis, "read_witnesses", lambda _: events)
    result = run_one(kernel, Pinned())
    row = told(result, pfn)
    assert (told(before, pfn)["former"], row["former"]) == (0, count)
    assert (row["failures"], row["migration_puts"], row["other_puts"], row["first_failure"]) == (
        0,
        0,
        0,
        None,
    )
    noun = "event" if count == 1 else "events"
    assert row["story"] == f"{count} {noun} from before it was allocated, of a former use"
    # They stay to be read, before the allocation.
    history = result.tables["history"].frame.filter(pl.col("pfn") == pfn)["event"].to_list()
    assert history.index("allocated") == count
    held = [sum(each.key == "history-held" for each in of.findings) for of in (before, result)]
    failed = [of.tables["timelines"].frame.filter(pl.col("failures") > 0)["pfn"] for of in (before, result)]
    assert set(failed[0]) - set(failed[1]) == {pfn}
    assert held[1] <= held[0]


def test_of_a_clock_that_cannot_be_related_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = machine()
    pfn = seen(kernel)
    events = replace(back(read_witnesses(kernel), pfn), related=False)
    monkeypatch.setattr(analysis, "read_witnesses", lambda _: events)
    row = told(run_one(kernel, Pinned()), pfn)
    assert (row["former"], row["failures"]) == (0, len(events.frame.filter(pl.col("pfn") == pfn)))


def test_a_page_that_is_asked_for_has_the_same_story(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = machine()
    pfn = seen(kernel)
    events = back(read_witnesses(kernel), pfn)
    monkeypatch.setattr(notes, "read_witnesses", lambda _: events)
    [section] = notes.pinner_notes(kernel, AskedPages(kernel, [pfn]))[pfn]
    [history] = [each.value for each in section.facts if each.label == "history"]
    assert isinstance(history, list)
    assert "of a former use" in history[-1]
