"""Text is made to be read, and stays the same when piped."""

from __future__ import annotations

import dataclasses
import io
import re

import polars as pl
import pytest
from rich.cells import cell_len

from mmdump.errors import UsageError
from mmdump.render import Query, RenderOptions
from mmdump.render.text import DEFAULT_LIMIT, TextRenderer, coverage_text
from mmdump.result import Column, Coverage, Finding, Kind, Result, Schema, Severity, Table

from .examples import HOLDERS, PAGE_ROWS, PAGES, SUMMARY, pinned, rendered, streamed

GOLDEN = (
    SUMMARY
    + """
  EVIDENCE             OWNER    FOLIOS  CMA
  foll_pin             work 63      64  -
  foll_pin             work 64       1  -
  page_pinner, excess  work 70       6  reserved
  excess               work 70       2  reserved
8 more were marked by the page pinner and are released.
PROBLEM: CMA reserved: 64 MiB; 8 pages block it; longest run now 30 MiB, without them 64 MiB.
"""
)


def one(schema: Schema, frame: pl.DataFrame) -> Result:
    """A result of nothing but that table."""
    return Result(
        "x", tables={schema.name: Table(schema, frame)}, primary=schema.name, text_tables=[schema.name]
    )


def test_the_answer_reads_as_the_issue_asked() -> None:
    assert rendered(pinned()) == GOLDEN


def test_a_stream_does_not_change_the_default_view() -> None:
    assert streamed(pinned(), "text", PAGES, [PAGE_ROWS[:9], PAGE_ROWS[9:]]) == GOLDEN


def test_asked_about_one_table_all_its_columns_are_shown() -> None:
    text = rendered(pinned(), query=Query("'excess' IN evidence"), table="holders")
    assert text.splitlines()[1:4] == [
        "  EVIDENCE             OWNER    FOLIOS  CMA       FIRST_PFN          FIRST_PAGE",
        "  page_pinner, excess  work 70       6  reserved    0x1be80                   -",
        "  excess               work 70       2  reserved    0x1be90  0xffffea0006fa4000",
    ]


@pytest.mark.parametrize("step", [1, 7, 100])
@pytest.mark.parametrize(
    "query",
    [Query("order >= 9"), Query(sort=("-pfn",), limit=3), Query("pfn < 0"), Query(limit=0, columns=("pfn",))],
)
def test_streamed_and_whole_are_the_same_bytes(step: int, query: Query) -> None:
    frames = [PAGE_ROWS[start : start + step] for start in range(0, 100, step)]
    assert streamed(pinned(), "text", PAGES, frames, query=query) == rendered(pinned(), query=query)


def test_a_long_table_ends_by_saying_how_many_rows_are_not_shown() -> None:
    lines = rendered(pinned(), table="pages").splitlines()
    assert lines[1 + 1 + DEFAULT_LIMIT] == "  ... 80 more rows (--limit 0 for all)"
    assert "more rows" not in rendered(pinned(), table="pages", query=Query(limit=0))
    # A few more are shown: the line that says so would cost as much.
    few = one(PAGES, PAGE_ROWS[: DEFAULT_LIMIT + 10])
    assert len(rendered(few, table="pages").splitlines()) == 1 + DEFAULT_LIMIT + 10
    many = one(PAGES, PAGE_ROWS[: DEFAULT_LIMIT + 11])
    assert rendered(many, table="pages").splitlines()[1 + DEFAULT_LIMIT :] == [
        "  ... 11 more rows (--limit 0 for all)"
    ]
    assert "  ... 3 more rows" in rendered(pinned(), query=Query(limit=1))


def test_of_a_stream_only_the_rows_to_show_are_held() -> None:
    renderer = TextRenderer(io.BytesIO(), RenderOptions())
    renderer.begin(PAGES)
    for _ in range(50):
        renderer.rows(PAGE_ROWS)
    assert sum(frame.height for frame in renderer._frames) == DEFAULT_LIMIT + 10
    assert not renderer.satisfied


def test_how_many_rows_meet_a_condition_is_said() -> None:
    def lines(where: str) -> list[str]:
        return rendered(pinned(), query=Query(where)).splitlines()

    assert "  (50 rows meet the condition; all else here is about all rows)" in lines("pfn >= 0x1be32")
    assert not [line for line in lines("pfn < 0") if "meet" in line]


def test_a_terminal_breaks_sentences_between_words_and_a_pipe_has_them_whole() -> None:
    said = "this sentence is longer than the terminal on which it is read is wide"
    result = dataclasses.replace(
        one(PAGES, PAGE_ROWS.clear()),
        summary=[said],
        findings=[Finding("k", Severity.WARNING, said)],
        notes=[said],
    )
    assert rendered(result).splitlines() == [said, f"WARNING: {said}", said]
    assert rendered(result, width=40).splitlines() == [
        "this sentence is longer than the",
        "  terminal on which it is read is wide",
        "WARNING: this sentence is longer than",
        "  the terminal on which it is read is",
        "  wide",
        "this sentence is longer than the",
        "  terminal on which it is read is wide",
    ]


def test_a_table_has_its_title_and_an_empty_one_is_not_shown_unless_asked_for() -> None:
    assert rendered(one(PAGES, PAGE_ROWS)).startswith("Pages\n      PFN  ORDER")
    assert rendered(one(PAGES, PAGE_ROWS.clear())) == ""
    assert (
        rendered(one(PAGES, PAGE_ROWS.clear()), table="pages")
        == "  PFN  ORDER  ZONE  EVIDENCE  END\n  (no rows)\n"
    )


def test_a_comm_that_holds_an_escape_sequence_reaches_the_terminal_escaped() -> None:
    schema = Schema("t\x1b", (Column("comm"), Column("frames", Kind.STACK)), title="title\x1b[31m")
    frame = pl.DataFrame({"comm": ["\x1b]0;owned\x07\u202e[red]x[/red]"], "frames": [["a\nb\x9b"]]})
    evil = "\x1b[2J\n"
    result = dataclasses.replace(
        one(schema, frame),
        summary=[evil],
        notes=[evil],
        incomplete=[evil],
        findings=[Finding("k", Severity.WARNING, evil)],
    )
    text = rendered(result)
    assert all(char == "\n" or char.isprintable() for char in text)
    assert r"\x1b]0;owned\x07\u202e[red]x[/red]" in text
    assert r"      a\nb\x9b" in text.splitlines()
    coloured = rendered(result, color=True)
    assert "\x1b[2J" not in coloured
    assert "\x1b]0;" not in coloured


def test_colour_is_for_what_matters_and_changes_no_text() -> None:
    coloured = rendered(pinned(), color=True)
    assert "\x1b[1;31mPROBLEM: \x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == GOLDEN


def test_frames_stand_one_per_line_below_their_row() -> None:
    schema = Schema(
        "stacks", (Column("handle", Kind.ID), Column("pages", Kind.COUNT), Column("frames", Kind.STACK))
    )
    frame = pl.DataFrame(
        {"handle": [7, 8], "pages": [1024, 1], "frames": [["alloc_pages+0x10", "do_fault+0x20"], None]}
    )
    assert rendered(one(schema, frame)) == (
        "  HANDLE  PAGES\n       7  1,024\n      alloc_pages+0x10\n      do_fault+0x20\n       8      1\n"
    )


@pytest.mark.parametrize("width", [20, 30, 40, 50, 80])
def test_on_a_terminal_no_row_is_wider_than_it(width: int) -> None:
    lines = rendered(pinned(), width=width, table="holders").splitlines()[1:6]
    assert all(cell_len(line) <= width for line in lines)


def test_on_a_terminal_what_is_too_long_for_its_column_goes_on_below() -> None:
    schema = Schema("t", (Column("comm"), Column("size", Kind.BYTES), Column("zone")))
    frame = pl.DataFrame(
        {"comm": ["a" * 50, "日本" * 15], "size": [1536, 1 << 30], "zone": ["Normal", "DMA32"]}
    )
    assert rendered(one(schema, frame), width=40).splitlines() == [
        "  COMM                      SIZE  ZONE",
        "  aaaaaaaaaaaaaaaaaaaaa  1.5 KiB  Normal",
        "  aaaaaaaaaaaaaaaaaaaaa",
        "  aaaaaaaa",
        "  日本日本日本日本日本     1 GiB  DMA32",
        "  日本日本日本日本日本",
        "  日本日本日本日本日本",
    ]


def test_on_a_terminal_long_headers_of_numbers_have_two_lines() -> None:
    schema = Schema("t", (Column("longest_now", Kind.COUNT), Column("longest_without", Kind.COUNT)))
    frame = pl.DataFrame({"longest_now": [7], "longest_without": [123456789]})
    assert rendered(one(schema, frame), width=26).splitlines() == [
        "  LONGEST_NOW     LONGEST_",
        "                   WITHOUT",
        "            7  123,456,789",
    ]


def test_columns_for_which_a_terminal_has_no_room_are_named_with_the_way_to_see_them() -> None:
    names = ("node", "empty", "free", "used", "zone")
    schema = Schema("t", tuple(Column(name, Kind.COUNT if name != "zone" else Kind.TEXT) for name in names))
    frame = pl.DataFrame({"node": [1], "empty": [0], "free": [10**12], "used": [10**12], "zone": ["DMA"]})
    lines = rendered(one(schema, frame), width=34).splitlines()
    # Not the one that says nothing, and the narrow one although it stands right of what is left out.
    assert lines[:2] == ["  NODE               FREE  ZONE", "     1  1,000,000,000,000  DMA"]
    said = " ".join(line.strip() for line in lines[2:])
    assert said == (
        "(no room for empty, used: a wider terminal, a pipe as in | less -S, or -o FILE has them; "
        "--table t --columns NAMES chooses)"
    )
    assert all(cell_len(line) <= 34 for line in lines)
    whole = rendered(one(schema, frame))
    assert "USED" in whole
    assert "no room" not in whole
    alone = rendered(one(schema, frame), width=34, query=Query(columns=("free", "used")))
    assert "no room for used" in alone
    assert "--table" not in alone


def test_a_list_of_one_element_per_line_stands_below_its_row_where_there_is_no_room_beside_it() -> None:
    schema = Schema("t", (Column("fact"), Column("frames", per_line=True)))
    frames = ["alloc_pages+0x10/0x20", "f" * 40, "words " * 6]
    frame = pl.DataFrame({"fact": ["by", "pid"], "frames": [frames, None]})
    assert rendered(one(schema, frame), width=40).splitlines() == [
        "  FACT",
        "  by",
        "      alloc_pages+0x10/0x20",
        "      " + "f" * 32,
        "        " + "f" * 8,
        "      words words words words words",
        "        words",
        "  pid",
    ]
    assert rendered(one(schema, frame)).splitlines()[1] == f"  by    {', '.join(frames)}".rstrip()


def test_nothing_is_cut_when_there_is_no_terminal() -> None:
    schema = Schema("t", (Column("comm"),))
    assert "a" * 500 in rendered(one(schema, pl.DataFrame({"comm": ["a" * 500]})))


def test_what_was_not_read_is_one_clear_line() -> None:
    result = Result("x", coverage=Coverage(131072, 129826, 1234, 12), incomplete=["No page_ext."])
    assert rendered(result).splitlines() == [
        "Not everything could be read: 1,234 of 131,072 pages unreadable (0.9 %), 12 zero-filled.",
        "No page_ext.",
    ]


@pytest.mark.parametrize(
    ("coverage", "says"),
    [
        (Coverage(5, 5), "Everything could be read."),
        (Coverage(10, 0, 10), "Not everything could be read: 10 of 10 pages unreadable (all)."),
        (Coverage(10**6, 10**6 - 1, 0, 0, 1), "1 of 1,000,000 pages erased (under 0.1 %)."),
        (Coverage(10**6, 1, 10**6 - 1), "999,999 of 1,000,000 pages unreadable (99.9 %)."),
        (Coverage(4, 4, page_ext=Coverage(4, 3, 1)), "1 of 4 page_ext entries unreadable (25.0 %)."),
        (Coverage(4, 3, 0, 1, page_ext=Coverage(4, 3, 1)), "(25.0 %), 1 of 4 page_ext entries unreadable"),
    ],
)
def test_coverage_says_neither_none_nor_all_unless_it_is_so(coverage: Coverage, says: str) -> None:
    assert says in coverage_text(coverage)


def test_complete_coverage_is_not_mentioned() -> None:
    assert rendered(Result("x", coverage=Coverage(5, 5))) == ""


def test_a_table_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no table 'nope'"):
        rendered(pinned(), table="nope")
    with pytest.raises(UsageError, match="--where"):
        TextRenderer(io.BytesIO(), RenderOptions(Query("nope = 1"))).begin(HOLDERS)


@pytest.mark.parametrize("width", [4, 10, 33])
def test_no_line_of_a_sentence_is_longer_than_the_terminal_and_nothing_of_it_is_lost(width: int) -> None:
    said = "/a/path/without/a/blank/that/is/longer/than/any/of/these/terminals and words, and 12,345 numbers"
    result = dataclasses.replace(one(PAGES, PAGE_ROWS.clear()), summary=[said])
    lines = rendered(result, width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(said.split())
