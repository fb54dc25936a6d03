"""What happened to a page before it was allocated says nothing of who holds it now."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.kernel.clock import LATEST_NSEC
from mmdump.pagenotes import AskedPages
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_page_pinner import Pinned, analysis, notes
from mmdump_page_pinner.history import ROW_TYPES, history_of, timelines_of
from mmdump_page_pinner.witnesses import WITNESS_TYPES, Witnesses, read_witnesses

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
    assert not [each for each in before.findings if each.key == "history-former"]
    [finding] = [each for each in result.findings if each.key == "history-former"]
    assert finding.message.startswith(f"{count} {noun} of 1 page in the trace ")
    failed = [of.tables["timelines"].frame.filter(pl.col("failures") > 0)["pfn"] for of in (before, result)]
    assert set(failed[0]) - set(failed[1]) == {pfn}


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


def events(*rows: tuple[int, int, str, str], **more: object) -> Witnesses:
    """PFN, time, what, and the name of the event; puts are of a user."""
    frame = pl.DataFrame(
        [(pfn, time, event, name, 7, "work", 1, None, 0) for pfn, time, event, name in rows],
        schema=WITNESS_TYPES,
        orient="row",
    )
    return Witnesses(frame, [("pipe_read",)], [("pipe_read",)], **more)  # type: ignore[arg-type]


def held(*allocated: int | None) -> pl.DataFrame:
    """Pages 1, 2 and so on, which are held, and when they were allocated."""
    rows = [
        {"pfn": pfn, "head_pfn": pfn, "state": "held", "owner_ts_nsec": ts}
        for pfn, ts in enumerate(allocated, 1)
    ]
    return pl.DataFrame(rows, schema=ROW_TYPES)


FAILURE, PUT, GET = (
    ("failure", "page_pinner_failure"),
    ("put", "page_pinner_put"),
    ("get", "page_ref_mod"),
)


def sums(witnesses: Witnesses, pages: pl.DataFrame, until: int = LATEST_NSEC) -> list[tuple[object, ...]]:
    timelines = timelines_of(history_of(witnesses, pages, None, until), pages)
    return timelines.select("pfn", "failures", "other_puts", "last_put", "last_get", "former").rows()


def test_each_event_is_of_one_use_or_of_the_other() -> None:
    seen = events(
        (1, 10, *FAILURE), (1, 11, *PUT), (1, 12, *GET), (1, 20, *GET), (1, 21, *FAILURE), (1, 22, *PUT),
        (2, 19, *PUT), (2, 20, *FAILURE), (3, 5, *PUT), (3, 6, *FAILURE),
    )  # fmt: skip
    # Of page 3 it is not known when it was allocated; what happened just then is of the present.
    pages = pl.concat([held(20, 20, None), held(1)])
    assert sums(seen, pages) == [(1, 1, 1, 22, 20, 3), (2, 1, 0, None, None, 1), (3, 1, 1, 5, None, 0)]


def test_the_first_reference_is_set_before_the_allocation_is_dated() -> None:
    made = ("get", "page_ref_set")
    seen = events((1, 5, *made), (1, 8, *PUT), (1, 18, *made), (1, 30, *FAILURE))
    assert sums(seen, held(20)) == [(1, 1, 0, None, 18, 2)]


def test_a_saved_text_has_no_nanoseconds() -> None:
    seen = events((1, 2_000_006_000, *GET), (1, 2_000_005_000, *GET), resolution=1000)
    assert sums(seen, held(2_000_006_200))[0][-1] == 1


@pytest.mark.parametrize(("until", "former"), [(LATEST_NSEC, 0), (100, 0), ((1 << 63) + 5, 2)])
def test_an_allocation_after_the_dump_is_garbage(until: int, former: int) -> None:
    seen = events((1, 10, *FAILURE), (1, 11, *PUT))
    assert sums(seen, held((1 << 63) + 5), until)[0][-1] == former
