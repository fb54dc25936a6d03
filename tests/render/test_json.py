"""JSON has the shape that was promised, whatever the dump holds and however rows come."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UsageError
from mmdump.render import Query, open_renderer
from mmdump.result import Column, Coverage, Kind, Result, Schema, Table

from .examples import HOLDER_ROWS, HOLDERS, PAGE_ROWS, PAGES, pinned, rendered, streamed

SHAPE = json.loads(Path(__file__).with_name("result.schema.json").read_text())


def loaded(text: str) -> dict[str, Any]:
    """The output, once it is known to be strict JSON of the promised shape."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    value: dict[str, Any] = json.loads(text, parse_constant=refuse)
    jsonschema.validate(value, SHAPE)
    return value


def test_a_result_has_the_promised_shape() -> None:
    value = loaded(rendered(pinned(), "json"))
    assert value["mmdump"] == "1.2.3"
    assert value["analysis"] == "pinned"
    assert value["target"] == {"path": "vmcore", "release": "6.12.9"}
    assert value["coverage"]["pages"] == 131072
    assert value["findings"][1] == {
        "key": "cma-blocked",
        "severity": "problem",
        "message": "CMA reserved: 64 MiB; 8 pages block it; longest run now 30 MiB, without them 64 MiB.",
        "table": "holders",
        "where": "cma = 'reserved'",
    }
    assert list(value["tables"]) == ["holders", "pages"]
    assert value["tables"]["holders"]["columns"][4] == {
        "name": "first_pfn",
        "kind": "pfn",
        "description": "the first of them",
    }


def test_values_stay_plain_and_addresses_are_exact_text() -> None:
    rows = loaded(rendered(pinned(), "json"))["tables"]["holders"]["rows"]
    assert rows[2] == {
        "evidence": ["page_pinner", "excess"],
        "owner": "work 70",
        "folios": 6,
        "cma": "reserved",
        "first_pfn": 0x1BE80,
        "first_page": None,
    }
    assert rows[0]["first_page"] == "0xffffea0006f80000"


def test_an_empty_result_has_the_promised_shape() -> None:
    value = loaded(rendered(Result("info"), "json"))
    assert value["tables"] == {}
    assert value["coverage"] is None
    partial = Result("x", coverage=Coverage(3, 2, 1, page_ext=Coverage(2, 1, 1)))
    assert loaded(rendered(partial, "json"))["coverage"]["page_ext"]["unreadable"] == 1


@pytest.mark.parametrize("step", [1, 7, 100])
@pytest.mark.parametrize("query", [Query(), Query("order >= 9", ("-pfn",), limit=5), Query("pfn < 0")])
def test_streamed_json_holds_the_same_and_its_bytes_do_not_depend_on_frames(step: int, query: Query) -> None:
    frames = [PAGE_ROWS[start : start + step] for start in range(0, 100, step)]
    text = streamed(pinned(), "json", PAGES, frames, query=query)
    assert text == streamed(pinned(), "json", PAGES, [PAGE_ROWS], query=query)
    assert loaded(text) == loaded(rendered(pinned(), "json", query=query))


def test_a_streamed_table_without_rows_is_there() -> None:
    value = loaded(streamed(pinned(), "json", PAGES, []))
    assert value["tables"]["pages"]["rows"] == []
    assert len(value["tables"]["holders"]["rows"]) == 4


def test_with_a_table_asked_for_only_that_one_is_written() -> None:
    assert list(loaded(rendered(pinned(), "json", table="holders"))["tables"]) == ["holders"]
    whole = streamed(pinned(), "json", PAGES, [PAGE_ROWS], table="holders", query=Query("folios > 6"))
    assert [row["folios"] for row in loaded(whole)["tables"]["holders"]["rows"]] == [64]
    assert list(loaded(streamed(pinned(), "json", PAGES, [PAGE_ROWS], table="pages"))["tables"]) == ["pages"]


def test_a_query_is_for_the_primary_table_alone() -> None:
    value = loaded(rendered(pinned(), "json", query=Query("order = 10", columns=("pfn",), limit=2)))
    assert value["tables"]["pages"]["rows"] == [{"pfn": 0x1BE0A}, {"pfn": 0x1BE15}]
    assert [column["name"] for column in value["tables"]["pages"]["columns"]] == ["pfn"]
    assert len(value["tables"]["holders"]["rows"]) == 4


def test_a_table_that_is_not_there_is_a_usage_error_that_names_those_that_are() -> None:
    with pytest.raises(UsageError) as raised:
        streamed(pinned(), "json", PAGES, [PAGE_ROWS], table="nope")
    assert raised.value.hint == "Tables: pages, holders."
    with pytest.raises(UsageError, match="no main table"):
        rendered(Result("info"), "json", query=Query("a = 1"))


@given(st.lists(st.none() | st.text(max_size=8), max_size=5), st.lists(st.text(max_size=4), max_size=3))
def test_any_string_is_valid_json_and_reads_back(names: list[str | None], tags: list[str]) -> None:
    frame = pl.DataFrame(
        {
            "name": pl.Series(names, dtype=pl.String),
            "tags": pl.Series([tags] * len(names), dtype=pl.List(pl.String)),
        }
    )
    table = Table(Schema("t", (Column("name"), Column("tags"))), frame)
    result = Result("x", summary=tags, notes=tags, tables={"t": table}, target={"tags": tags})
    value = loaded(rendered(result, "json"))
    assert value["tables"]["t"]["rows"] == [{"name": name, "tags": tags} for name in names]
    assert value["summary"] == value["notes"] == value["target"]["tags"] == tags


def test_a_path_that_is_not_utf8_is_valid_json() -> None:
    assert (
        loaded(rendered(Result("x", target={"path": "vm\udcffcore"}), "json"))["target"]["path"]
        == "vm\udcffcore"
    )


@given(st.lists(st.none() | st.integers(0, 2**64 - 1), max_size=5))
def test_addresses_are_hexadecimal_and_exact(addresses: list[int | None]) -> None:
    frame = pl.DataFrame(
        {
            "page": pl.Series(addresses, dtype=pl.UInt64),
            "all": pl.Series([addresses] * len(addresses), dtype=pl.List(pl.UInt64)),
        }
    )
    table = Table(Schema("t", (Column("page", Kind.ADDRESS), Column("all", Kind.ADDRESS))), frame)
    shown = [None if address is None else hex(address) for address in addresses]
    rows = loaded(rendered(Result("x", tables={"t": table}), "json"))["tables"]["t"]["rows"]
    assert rows == [{"page": each, "all": shown} for each in shown]


def test_a_number_that_is_none_is_null() -> None:
    table = Table(Schema("t", (Column("share", Kind.COUNT),)), pl.DataFrame({"share": [float("nan"), 0.5]}))
    rows = loaded(rendered(Result("x", tables={"t": table}), "json"))["tables"]["t"]["rows"]
    assert rows == [{"share": None}, {"share": 0.5}]


def test_the_streamed_rows_are_written_as_they_come() -> None:
    out = io.BytesIO()
    renderer = open_renderer("json", out)
    renderer.begin(HOLDERS)
    renderer.rows(HOLDER_ROWS[:2])
    assert out.getvalue().count(b"foll_pin") == 2
    assert not renderer.satisfied


def test_a_large_table_is_turned_into_bytes_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rendered(pinned(), "json")
    monkeypatch.setattr("mmdump.render.json.AT_ONCE", 7)
    assert rendered(pinned(), "json") == whole
