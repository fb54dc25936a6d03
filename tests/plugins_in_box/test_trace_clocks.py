"""Events and page_owner's records on one clock: the kernel's log's."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.pagenotes import AskedPages
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_page_pinner import Pinned
from mmdump_page_pinner.notes import pinner_notes
from mmdump_page_pinner.witnesses import WITNESS_TYPES, Witnesses, on_log_clock
from mmdump_trace import TraceAnalysis, clocks, trace_clock
from mmdump_trace.clocks import TraceClock

from .test_page_notes import machine

NAMES = ["local", "global", "counter", "uptime", "perf", "mono", "mono_raw", "boot"]


def _shifted(monkeypatch: pytest.MonkeyPatch, offset: int | None) -> None:
    """As on a kernel whose log's clock is so far from ``sched_clock()``."""
    monkeypatch.setattr(clocks, "sched_clock_offset", lambda _: offset)


def _chosen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if that trace clock had been chosen."""
    from mmdump_trace import instances

    number, read = NAMES.index(name), clocks.read_clock
    monkeypatch.setattr(instances, "read_clock", lambda target, _: read(target, number))


@pytest.fixture(scope="module")
def plain() -> Result:
    return run_one(machine(), Pinned())


def _times(result: Result, event: str) -> list[int | None]:
    frame = result.tables["history"].frame
    return frame.filter(pl.col("event") == event)["time"].to_list()


@pytest.mark.parametrize("name", NAMES)
def test_each_clock_is_as_the_kernel_makes_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _shifted(monkeypatch, -1000)
    _chosen(monkeypatch, name)
    found = trace_clock(machine())
    known = {"local": -1000, "global": 0, "perf": 0}
    assert found == TraceClock(name, name not in ("counter", "uptime"), known.get(name))


@pytest.mark.parametrize("number", [-1, 1 << 20])
def test_a_clock_that_there_is_not_is_unknown(number: int) -> None:
    assert clocks.read_clock(machine().target, number) == TraceClock(None, True, None)


def test_a_synthetic_machine_has_one_clock(plain: Result) -> None:
    assert trace_clock(machine()).to_log == 0
    assert not [note for note in plain.notes if "clock" in note]


@pytest.mark.parametrize("offset", [-100_000, 2_500_000_000])
def test_the_history_is_on_the_clock_of_the_log(
    monkeypatch: pytest.MonkeyPatch, plain: Result, offset: int
) -> None:
    _shifted(monkeypatch, offset)
    moved = run_one(machine(), Pinned())
    for event in ("failure", "put"):
        assert _times(moved, event) == [(time or 0) + offset for time in _times(plain, event)]
    assert _times(moved, "allocated") == _times(plain, "allocated")
    one, other = plain.tables["timelines"].frame, moved.tables["timelines"].frame
    assert other["first_failure"].to_list() == [each + offset for each in one["first_failure"]]
    assert other["allocated"].equals(one["allocated"])
    [note] = [note for note in moved.notes if "clock" in note]
    amount, word = ("0.000100", "less") if offset < 0 else ("2.500000", "more")
    assert note == (
        "Times of the trace are shown on the clock of the kernel's log and of page_owner: "
        f"{amount} s {word} than by trace clock local."
    )


@pytest.mark.parametrize(("name", "offset"), [("mono", 0), ("counter", 0), ("local", None)])
def test_what_cannot_be_related_is_not_compared(
    monkeypatch: pytest.MonkeyPatch, plain: Result, name: str, offset: int | None
) -> None:
    _shifted(monkeypatch, offset)
    _chosen(monkeypatch, name)
    found = run_one(machine(), Pinned())
    assert _times(found, "failure") == _times(plain, "failure")
    # The allocation stands first, and its time is not among the others.
    assert set(_times(found, "allocated")) == {None}
    for _, rows in found.tables["history"].frame.group_by("pfn"):
        assert "allocated" not in rows["event"].to_list()[1:]
    assert any(
        note.startswith(f"Times of events are of trace clock {name}: they cannot be") for note in found.notes
    )
    kernel = machine()
    [pfn, *_] = found.tables["timelines"].frame["pfn"]
    facts = pinner_notes(kernel, AskedPages(kernel, [pfn]))[pfn][0].facts
    [history] = [fact.value for fact in facts if fact.label == "history"]
    assert isinstance(history, list)
    assert history[-1] == "these times cannot be compared with those of page_owner"


def test_a_saved_text_is_taken_to_be_of_the_dumps_clock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "saved.txt"
    path.write_text(
        "  work-7  [000] ..... 5.5: page_pinner_failure: pfn=0x10 flags= count=1 mapcount=0 mt=1\n"
    )
    _shifted(monkeypatch, -500_000_000)
    found = run_one(machine(), Pinned(trace=str(path)))
    assert _times(found, "failure") == [5_000_000_000]
    [taken] = [note for note in found.notes if note.startswith("saved.txt does not say which clock")]
    assert taken.endswith("its times are of: it is taken for trace clock local, as in the dump.")
    assert any("0.500000 s less than by trace clock local" in note for note in found.notes)
    _chosen(monkeypatch, "boot")
    found = run_one(machine(), Pinned(trace=str(path)))
    assert _times(found, "failure") == [5_500_000_000]


def test_the_trace_itself_keeps_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run_one(machine(), TraceAnalysis())
    _shifted(monkeypatch, -1_000_000_000)
    found = run_one(machine(), TraceAnalysis())
    assert found.tables["events"].frame.equals(plain.tables["events"].frame)
    [note] = set(found.notes) - set(plain.notes)
    assert note == (
        "Times are of trace clock local: the same moment in the kernel's log and in page_owner is "
        "1.000000 s less."
    )


U64 = st.integers(0, (1 << 64) - 1)


@given(st.lists(U64, min_size=1), st.integers(-(1 << 62) + 1, (1 << 62) - 1))
def test_no_time_goes_round(times: list[int], offset: int) -> None:
    rows = {name: [None] * len(times) for name in WITNESS_TYPES} | {"time": times}
    frame = pl.DataFrame(rows, schema=WITNESS_TYPES)
    moved = on_log_clock(Witnesses(frame, (), ()), TraceClock("local", True, offset)).frame["time"]
    assert moved.to_list() == [min(max(each + offset, 0), (1 << 64) - 1) for each in times]
