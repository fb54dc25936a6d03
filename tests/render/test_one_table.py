"""CSV and JSON Lines hold one table, exactly."""

from __future__ import annotations

import csv
import io
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UsageError
from mmdump.render import Query, RenderOptions, open_renderer
from mmdump.result import Column, Kind, Result, Schema, Table

from .examples import HOLDER_ROWS, HOLDERS, PAGE_ROWS, PAGES, pinned, rendered, streamed

SCHEMA = Schema(
    "t",
    (
        Column("pfn", Kind.PFN),
        Column("comm"),
        Column("page", Kind.ADDRESS),
        Column("end", Kind.BOOL),
        Column("tags"),
        Column("handles", Kind.ID),
    ),
)
TYPES = pl.Schema(
    [
        ("pfn", pl.UInt64()),
        ("comm", pl.String()),
        ("page", pl.UInt64()),
        ("end", pl.Boolean()),
        ("tags", pl.List(pl.String())),
        ("handles", pl.List(pl.UInt32())),
    ]
)
WORDS = st.text(max_size=6) | st.sampled_from(
    ["|", "\\", "\\|", '"', ",", "\r", "\n", "\r\n", " ", "null", "0x1"]
)
U64 = st.integers(0, 2**64 - 1)
ROWS = st.fixed_dictionaries(
    {
        "pfn": st.none() | U64,
        "comm": st.none() | WORDS,
        "page": st.none() | U64,
        "end": st.none() | st.booleans(),
        "tags": st.none() | st.lists(WORDS.filter(bool), max_size=3),
        "handles": st.none() | st.lists(st.integers(0, 2**32 - 1), max_size=3),
    }
)


def result_of(rows: list[dict[str, object]]) -> Result:
    table = Table(SCHEMA, pl.DataFrame(rows, schema=TYPES))
    return Result("x", tables={"t": table}, primary="t")


def split(field: str) -> list[str]:
    """The elements of a list in CSV."""
    elements = [""]
    chars = iter(field)
    for char in chars:
        if char == "|":
            elements.append("")
        else:
            elements[-1] += next(chars) if char == "\\" else char
    return elements if field else []


@given(st.lists(ROWS, max_size=4))
def test_json_lines_read_back_equal(rows: list[dict[str, object]]) -> None:
    read = [json.loads(line) for line in rendered(result_of(rows), "jsonl").split("\n")[:-1]]
    for row in read:
        row["page"] = None if row["page"] is None else int(row["page"], 16)
    assert read == rows


@given(st.lists(ROWS, max_size=4))
def test_csv_reads_back_equal(rows: list[dict[str, object]]) -> None:
    text = rendered(result_of(rows), "csv")
    read = pl.read_csv(text.encode(), schema=dict.fromkeys(SCHEMA.names, pl.String))
    again: list[dict[str, object]] = []
    for row in read.rows(named=True):
        page, tags, handles = row["page"], row["tags"], row["handles"]
        again.append(
            {
                "pfn": None if row["pfn"] is None else int(row["pfn"]),
                "comm": row["comm"],
                "page": None if page is None else int(page, 16),
                "end": None if row["end"] is None else {"true": True, "false": False}[row["end"]],
                "tags": None if tags is None else split(tags),
                "handles": None if handles is None else [int(each) for each in split(handles)],
            }
        )
    assert again == rows


@given(st.lists(ROWS, max_size=4))
def test_every_csv_reader_finds_as_many_records_and_fields(rows: list[dict[str, object]]) -> None:
    records = list(csv.reader(io.StringIO(rendered(result_of(rows), "csv"), newline="")))
    assert records[0] == list(SCHEMA.names)
    assert [len(record) for record in records] == [6] * (1 + len(rows))


def test_csv_is_plain() -> None:
    assert rendered(pinned(), "csv", table="holders") == (
        "evidence,owner,folios,cma,first_pfn,first_page\n"
        "foll_pin,work 63,64,,114176,0xffffea0006f80000\n"
        "foll_pin,work 64,1,,114240,0xffffea0006f81000\n"
        "page_pinner|excess,work 70,6,reserved,114304,\n"
        "excess,work 70,2,reserved,114320,0xffffea0006fa4000\n"
    )


def test_csv_has_a_header_even_without_rows() -> None:
    assert rendered(pinned(), "csv", query=Query("pfn < 0")) == "pfn,order,zone,evidence,end\n"
    assert streamed(pinned(), "csv", PAGES, []) == "pfn,order,zone,evidence,end\n"
    assert rendered(pinned(), "jsonl", query=Query("pfn < 0")) == ""


def test_one_column_without_a_value_is_still_a_record() -> None:
    table = Table(Schema("t", (Column("comm"),)), pl.DataFrame({"comm": ["a", None, ""]}))
    text = rendered(Result("x", tables={"t": table}, primary="t"), "csv")
    assert text == 'comm\na\n\n""\n'


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("step", [1, 7, 100])
@pytest.mark.parametrize(
    "query",
    [Query(), Query("order >= 9", ("-order",)), Query(limit=10), Query("'excess' IN evidence", limit=0)],
)
def test_streamed_and_whole_are_the_same_bytes(form: str, step: int, query: Query) -> None:
    frames = [PAGE_ROWS[start : start + step] for start in range(0, 100, step)]
    assert streamed(pinned(), form, PAGES, frames, query=query) == rendered(pinned(), form, query=query)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_of_another_table_than_asked_for_are_dropped(form: str) -> None:
    text = streamed(pinned(), form, PAGES, [PAGE_ROWS], table="holders")
    assert text == rendered(pinned(), form, table="holders")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_renderer_is_satisfied_once_its_limit_is_reached(form: str) -> None:
    renderer = open_renderer(form, io.BytesIO(), RenderOptions(Query(limit=3)))
    renderer.begin(HOLDERS)
    renderer.rows(HOLDER_ROWS[:2])
    assert not renderer.satisfied
    renderer.rows(HOLDER_ROWS[2:])
    assert renderer.satisfied


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_without_a_table_to_show_the_tables_are_named(form: str) -> None:
    with pytest.raises(UsageError) as raised:
        rendered(pinned(), form, table="nope")
    assert raised.value.hint == "Tables: holders, pages."
    with pytest.raises(UsageError, match="no main table"):
        rendered(Result("info"), form)
