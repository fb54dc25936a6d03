"""Formats of call chains: which table they take, and that their totals are the table's."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UsageError
from mmdump.render import Query, RenderOptions, format_of, open_renderer
from mmdump.result import Column, Kind, Result, Schema, Table
from tests.render import examples

GROUPS = Schema(
    "groups",
    (
        Column("pages", Kind.COUNT, weight=True),
        Column("bytes", Kind.BYTES, weight=True),
        Column("comm"),
        Column("order", Kind.ID),
        Column("oldest_ts_nsec", Kind.NSEC),
        Column("stack_id", Kind.ID),
    ),
)
STACKS = Schema(
    "stacks",
    (
        Column("stack_id", Kind.ID),
        Column("status"),
        Column("frames", Kind.STACK),
        Column("addresses", Kind.ADDRESS),
    ),
)
ALLOC, XFS, READ = "alloc_pages+0x10/0x20", "xfs_buf_alloc+0x1/0x99 [xfs]", "vfs_read+0x5/0x6"
AT = {ALLOC: 0xFFFFFFFF81000010, XFS: 0xFFFFFFFFC0000001, READ: 0xFFFFFFFF81000105}


def result(
    rows: list[tuple[int, int, str | None, int, int, int | None]], chains: dict[int, list[str]]
) -> Result:
    groups = pl.DataFrame(rows, schema=dict.fromkeys(GROUPS.names), orient="row")
    stacks = pl.DataFrame(
        {
            "stack_id": list(chains),
            "status": ["ok" if frames else "bad handle" for frames in chains.values()],
            "frames": list(chains.values()),
            "addresses": [
                [AT[each] for each in frames if each in AT] if set(frames) <= set(AT) else []
                for frames in chains.values()
            ],
        },
        schema={
            "stack_id": pl.Int64,
            "status": pl.String,
            "frames": pl.List(pl.String),
            "addresses": pl.List(pl.UInt64),
        },
    )
    return Result(
        "page-owner",
        summary=["3 chains"],
        tables={"groups": Table(GROUPS, groups), "stacks": Table(STACKS, stacks)},
        primary="groups",
        target={"path": "vmcore\udcff", "release": "6.12.9"},
    )


SOME = result(
    [
        (4, 16384, "dd", 2, 5, 1),
        (1, 4096, "fio", 0, 6, 2),
        (2, 8192, None, 1, 7, 1),
        (8, 32768, "x", 3, 8, 3),
    ],
    {1: [ALLOC, XFS, READ], 2: [ALLOC, READ], 3: []},
)


def written(
    of: Result,
    form: str,
    *,
    weight: str | None = None,
    table: str | None = None,
    query: Query | None = None,
) -> bytes:
    out = io.BytesIO()
    options = RenderOptions(query or Query(), table, version="1.2.3", weight=weight)
    open_renderer(form, out, options).finish(of)
    return out.getvalue()


# Folded


def test_folded_stacks_begin_with_the_outermost_function_and_are_counted_in_bytes() -> None:
    assert written(SOME, "folded").decode().splitlines() == [
        "[bad_handle] 32768",
        "vfs_read;xfs_buf_alloc_[xfs];alloc_pages 24576",
        "vfs_read;alloc_pages 4096",
    ]


def test_folded_stacks_are_counted_in_pages_when_asked() -> None:
    lines = written(SOME, "folded", weight="Pages").decode().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["8", "6", "1"]


def test_a_query_chooses_the_rows_that_are_counted() -> None:
    query = Query(where='"order" = 2', columns=("comm",))
    assert written(SOME, "folded", query=query) == b"vfs_read;xfs_buf_alloc_[xfs];alloc_pages 16384\n"


def test_chains_of_the_same_functions_at_other_places_are_one() -> None:
    of = result([(1, 1, "a", 0, 0, 1), (2, 2, "a", 0, 0, 2)], {1: ["f+0x1/0x9"], 2: ["f+0x2/0x9"]})
    assert written(of, "folded") == b"f 3\n"


@given(st.lists(st.text(min_size=0, max_size=12), min_size=1, max_size=4))
def test_whatever_a_frame_is_called_it_is_one_frame_of_one_line(frames: list[str]) -> None:
    of = result([(1, 7, "a", 0, 0, 1)], {1: frames})
    text = written(of, "folded").decode()
    assert text.endswith(" 7\n")
    chain = text.removesuffix(" 7\n")
    assert chain.count(";") == len(frames) - 1
    assert not re.search(r"\s", chain)
    assert chain.isprintable()
    assert all(chain.split(";"))


def test_source_lines_and_inlined_functions_do_not_hide_a_functions_name() -> None:
    frames = ["get (mm/a.c:7)", "f+0x1/0x9 [xfs] (fs/xfs/b.c:12)"]
    of = result([(1, 7, "a", 0, 0, 1)], {1: frames})
    assert written(of, "folded") == b"f_[xfs];get 7\n"
    assert json.loads(written(of, "speedscope"))["shared"]["frames"] == [
        {"name": "f", "file": "fs/xfs/b.c"},
        {"name": "get", "file": "mm/a.c"},
    ]


# Which table


def test_the_chains_may_be_in_the_table_itself() -> None:
    schema = Schema("own", (Column("pages", Kind.COUNT, weight=True), Column("frames", Kind.STACK)))
    frame = pl.DataFrame({"pages": [3, 4], "frames": [["a", "b"], None]})
    of = Result("x", tables={"own": Table(schema, frame)}, primary="own")
    assert written(of, "folded") == b"[no_call_chain] 4\nb;a 3\n"


def test_a_result_without_call_chains_says_so() -> None:
    with pytest.raises(UsageError, match="pinned has no call chains to write"):
        written(examples.pinned(), "folded")


def test_a_table_without_call_chains_is_refused_with_those_that_have_them() -> None:
    with pytest.raises(UsageError, match="no table 'stacks' with call chains") as raised:
        written(SOME, "pprof", table="stacks")
    assert raised.value.hint == "Tables: groups."


def test_a_weight_that_the_table_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(UsageError, match="--weight stack_id") as raised:
        written(SOME, "folded", weight="stack_id")
    assert raised.value.hint == "Weights: pages, bytes."


def test_a_weight_is_refused_where_nothing_is_counted() -> None:
    with pytest.raises(UsageError, match="--weight says nothing to format csv"):
        written(SOME, "csv", weight="pages")


def test_streamed_rows_of_another_table_do_not_disturb() -> None:
    out = io.BytesIO()
    renderer = open_renderer("folded", out, RenderOptions())
    renderer.begin(examples.PAGES)
    renderer.rows(examples.PAGE_ROWS)
    assert not renderer.satisfied
    renderer.finish(SOME)
    assert out.getvalue() == written(SOME, "folded")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.folded", "folded"),
        ("a.speedscope.json", "speedscope"),
        ("a.json", "json"),
        ("a.pb.gz", "pprof"),
        (".speedscope.json", "json"),
    ],
)
def test_a_files_name_says_its_format(name: str, form: str) -> None:
    assert format_of(name) == form


# speedscope

#: What speedscope's file-format-schema.json (npm package speedscope 1.25.0) says of sampled profiles.
SPEEDSCOPE = {
    "type": "object",
    "required": ["$schema", "profiles", "shared"],
    "properties": {
        "$schema": {"const": "https://www.speedscope.app/file-format-schema.json"},
        "activeProfileIndex": {"type": "number"},
        "exporter": {"type": "string"},
        "name": {"type": "string"},
        "profiles": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["endValue", "name", "samples", "startValue", "type", "unit", "weights"],
                "properties": {
                    "type": {"const": "sampled"},
                    "unit": {
                        "enum": ["bytes", "microseconds", "milliseconds", "nanoseconds", "none", "seconds"]
                    },
                    "samples": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                    "weights": {"type": "array", "items": {"type": "number"}},
                },
            },
        },
        "shared": {
            "type": "object",
            "required": ["frames"],
            "properties": {
                "frames": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "file": {"type": "string"}},
                    },
                }
            },
        },
    },
}


def test_speedscope_has_a_profile_for_each_weight_and_shows_that_asked_for_first() -> None:
    document = json.loads(written(SOME, "speedscope"))
    jsonschema.validate(document, SPEEDSCOPE)
    assert [(each["name"], each["unit"], each["endValue"]) for each in document["profiles"]] == [
        ("page-owner by pages", "none", 15),
        ("page-owner by bytes", "bytes", 61440),
    ]
    assert document["activeProfileIndex"] == 1
    assert json.loads(written(SOME, "speedscope", weight="pages"))["activeProfileIndex"] == 0
    frames = document["shared"]["frames"]
    chains = [[frames[index]["name"] for index in chain] for chain in document["profiles"][1]["samples"]]
    assert chains == [
        ["vfs_read", "xfs_buf_alloc", "alloc_pages"],
        ["vfs_read", "alloc_pages"],
        ["[bad handle]"],
    ]
    assert document["profiles"][1]["weights"] == [24576, 4096, 32768]
    assert {"name": "xfs_buf_alloc", "file": "xfs"} in frames


# pprof


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: its wire format, by the specification."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        assert key & 7 in (0, 2)
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            size = varint()
            yield key >> 3, data[at : at + size]
            at += size
    assert at == len(data)


def numbers(data: bytes) -> list[int]:
    """Packed numbers: each as the field that it would be if it were not packed."""
    packed = re.findall(rb"[\x80-\xff]*[\x00-\x7f]", data)
    return [value for each in packed for _, value in fields(b"\x08" + each)]


def message(data: bytes) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for tag, value in fields(data):
        found.setdefault(tag, []).append(value)
    return found


class Profile:
    """What a pprof file says, with names in place of numbers."""

    def __init__(self, data: bytes) -> None:
        parts = message(gzip.decompress(data))
        self.strings = [each.decode() for each in parts[6]]
        text = self.strings.__getitem__
        assert text(0) == ""
        self.types = [(text(each[1][0]), text(each[2][0])) for each in (message(one) for one in parts[1])]
        mappings = {one[1][0]: text(one[5][0]) for one in map(message, parts[3])}
        functions = {one[1][0]: text(one[2][0]) for one in map(message, parts.get(5, []))}
        self.locations = {}
        for one in map(message, parts.get(4, [])):
            line = message(one[4][0])
            self.locations[one[1][0]] = (
                functions[line[1][0]],
                one.get(3, [0])[0],
                mappings[one[2][0]],
                line.get(2, [0])[0],
            )
        self.samples = []
        for one in map(message, parts.get(2, [])):
            labels = {}
            for label in map(message, one.get(3, [])):
                labels[text(label[1][0])] = text(label[2][0]) if 2 in label else label.get(3, [0])[0]
            self.samples.append(
                ([self.locations[each] for each in numbers(one[1][0])], numbers(one[2][0]), labels)
            )
        self.comments = [text(each) for each in numbers(parts[13][0])]
        self.default = text(parts[14][0])


def test_a_pprof_profile_has_every_row_with_its_weights_and_labels() -> None:
    profile = Profile(written(SOME, "pprof"))
    assert profile.types == [("pages", "count"), ("space", "bytes")]
    assert profile.default == "space"
    assert Profile(written(SOME, "pprof", weight="pages")).default == "pages"
    chain, values, labels = profile.samples[0]
    assert chain == [
        ("alloc_pages", AT[ALLOC], "[kernel.kallsyms]", 0),
        ("xfs_buf_alloc", AT[XFS], "[xfs]", 0),
        ("vfs_read", AT[READ], "[kernel.kallsyms]", 0),
    ]
    assert (values, labels) == (
        [4, 16384],
        {"comm": "dd", "order": "2", "oldest_ts_nsec": 5, "stack_id": "1"},
    )
    assert "comm" not in profile.samples[2][2]
    assert [sum(values) for values in zip(*(each for _, each, _ in profile.samples), strict=True)] == [
        15,
        61440,
    ]
    assert profile.comments[0] == "mmdump 1.2.3 page-owner"
    assert "release: 6.12.9" in profile.comments


def test_an_inlined_function_has_the_address_of_that_it_is_in() -> None:
    frames = ["get (mm/a.c:7)", ALLOC + " (mm/b.c:12)"]
    of = result([(1, 7, "a", 0, 0, 1)], {1: frames})
    addresses = pl.Series("addresses", [[AT[ALLOC], AT[ALLOC]]], dtype=pl.List(pl.UInt64))
    stacks = Table(STACKS, of.tables["stacks"].frame.with_columns(addresses))
    [(chain, _, _)] = Profile(written(of.with_table(stacks), "pprof")).samples
    assert chain == [
        ("get", AT[ALLOC], "[kernel.kallsyms]", 7),
        ("alloc_pages", AT[ALLOC], "[kernel.kallsyms]", 12),
    ]


def test_the_same_dump_makes_the_same_profile() -> None:
    assert written(SOME, "pprof") == written(SOME, "pprof")


def test_an_empty_table_is_an_empty_profile() -> None:
    of = result([], {})
    assert written(of, "folded") == b""
    assert Profile(written(of, "pprof")).samples == []
    assert json.loads(written(of, "speedscope"))["profiles"][0]["samples"] == []


@given(st.integers(0, (1 << 64) - 1), st.text(max_size=20))
def test_any_number_and_any_text_survives(count: int, comm: str) -> None:
    of = result([], {1: [ALLOC]})
    frame = pl.DataFrame(
        {
            "pages": [count],
            "bytes": [0],
            "comm": [comm],
            "order": [0],
            "oldest_ts_nsec": [0],
            "stack_id": [1],
        },
        schema_overrides={"pages": pl.UInt64},
    )
    profile = Profile(written(of.with_table(Table(GROUPS, frame)), "pprof"))
    assert profile.samples[0][1] == [min(count, (1 << 63) - 1), 0]
    assert profile.samples[0][2]["order"] == "0"
    assert profile.samples[0][2].get("comm", "").isprintable()
    assert ("comm" in profile.samples[0][2]) == bool(comm)
