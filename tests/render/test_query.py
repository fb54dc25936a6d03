"""Sorting, choosing columns and limiting, on whole tables and on rows that come in pieces."""

from __future__ import annotations

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UsageError
from mmdump.render import Query, query
from mmdump.result import Column, Kind, Schema, Table

from .examples import HOLDER_ROWS, HOLDERS, PAGE_ROWS, PAGES

HOLDERS_TABLE = Table(HOLDERS, HOLDER_ROWS)


def test_names_come_separated_by_commas_or_one_by_one() -> None:
    assert Query.parse(sort="-folios, owner") == Query(sort=("-folios", "owner"))
    assert Query.parse(columns=["a,b", "c"]) == Query(columns=("a", "b", "c"))
    assert not Query.parse(limit=3).shapes


def test_columns_are_shown_in_the_order_asked_for_and_each_once() -> None:
    shown = Query(columns=("folios", "OWNER", "folios")).table(HOLDERS_TABLE)
    assert shown.schema.names == ("folios", "owner")
    assert shown.schema.column("folios") is HOLDERS.column("folios")


def test_a_minus_sorts_descending_and_absent_values_come_last_either_way() -> None:
    up = Query(sort=("cma", "-folios"), columns=("cma", "folios")).table(HOLDERS_TABLE).frame
    assert up.rows() == [("reserved", 6), ("reserved", 2), (None, 64), (None, 1)]
    down = Query(sort=("-cma", "folios"), columns=("folios",)).table(HOLDERS_TABLE).frame
    assert down["folios"].to_list() == [2, 6, 1, 64]


def test_rows_can_be_chosen_and_sorted_by_columns_that_are_not_shown() -> None:
    shown = Query("folios > 1", ("-first_pfn",), ("owner",)).table(HOLDERS_TABLE).frame
    assert shown["owner"].to_list() == ["work 70", "work 70", "work 63"]


@pytest.mark.parametrize(
    "wrong",
    [Query(sort=("nope",)), Query(sort=("-nope",)), Query(columns=("nope",)), Query(sort=("evidence",))],
)
def test_a_column_that_cannot_be_is_a_usage_error(wrong: Query) -> None:
    with pytest.raises(UsageError, match=r"--(sort|columns)"):
        wrong.table(HOLDERS_TABLE)


def test_a_negative_limit_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--limit"):
        Query(limit=-1)


def test_a_stream_without_a_sort_passes_rows_at_once_and_says_when_it_has_enough() -> None:
    stream = Query("folios < 64", limit=2).stream(HOLDERS)
    assert stream.push(HOLDER_ROWS[:1]) is None
    first = stream.push(HOLDER_ROWS[1:2])
    assert first is not None
    assert first.height == 1
    before = stream.satisfied
    assert stream.push(HOLDER_ROWS[2:]) is not None
    assert (before, stream.satisfied) == (False, True)
    assert stream.push(HOLDER_ROWS) is None
    assert stream.finish() is None
    assert stream.matched == 6


def test_a_bounded_sort_keeps_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "_BATCH", 10)
    stream = Query(sort=("-pfn",), limit=3).stream(PAGES)
    for start in range(0, 100, 5):
        assert stream.push(PAGE_ROWS[start : start + 5]) is None
        assert sum(frame.height for frame in stream._kept) <= 3 + 10
    last = stream.finish()
    assert last is not None
    assert last["pfn"].to_list() == [0x1BE00 + 99, 0x1BE00 + 98, 0x1BE00 + 97]


@given(
    cuts=st.lists(st.integers(0, 100), max_size=6),
    where=st.sampled_from([None, "order >= 9", "evidence = 'excess'", "zone IS NULL", "pfn < 0"]),
    sort=st.sampled_from([(), ("order",), ("-zone", "order"), ("-end",)]),
    columns=st.sampled_from([(), ("zone", "pfn")]),
    limit=st.sampled_from([None, 0, 1, 7, 1000]),
)
def test_how_rows_are_cut_into_frames_changes_nothing(
    cuts: list[int], where: str | None, sort: tuple[str, ...], columns: tuple[str, ...], limit: int | None
) -> None:
    asked = Query(where, sort, columns, limit)
    whole = asked.table(Table(PAGES, PAGE_ROWS)).frame
    edges = [0, *sorted(cuts), 100]
    stream = asked.stream(PAGES)
    frames = [stream.push(PAGE_ROWS[start:end]) for start, end in pairwise(edges)]
    shown = [frame for frame in [*frames, stream.finish()] if frame is not None]
    assert (pl.concat(shown) if shown else whole.clear()).equals(whole)


def test_a_column_can_be_sorted_by_an_alias() -> None:
    schema = Schema("t", (Column("allocations", Kind.COUNT, aliases=("times", "t")), Column("ts", Kind.NSEC)))
    table = Table(schema, pl.DataFrame({"allocations": [1, 3, 2], "ts": [1, 2, 3]}))
    for name in ("times", "Times", "t", "allocations"):
        found = Query.parse(sort=f"-{name}").table(table).frame
        assert found["allocations"].to_list() == [3, 2, 1]
    assert Query.parse(sort="ts").table(table).frame["ts"].to_list() == [1, 2, 3]
    assert Query.parse(where="times > 1", columns="times").table(table).frame.columns == ["allocations"]
