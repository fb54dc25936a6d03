"""Conditions select rows, and nothing but a condition on a row is let through."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UsageError
from mmdump.render import NoColumnError, Query
from mmdump.result import Column, Kind, Schema, Table

SCHEMA = Schema(
    "pages",
    (
        Column("pfn", Kind.PFN),
        Column("order", Kind.ID),
        Column("comm"),
        Column("evidence"),
        Column("handles", Kind.ID),
        Column("page", Kind.ADDRESS),
        Column("end", Kind.BOOL),
        Column("zone"),
    ),
)

FRAME = pl.DataFrame(
    {
        "pfn": pl.Series([0x1BDFF, 0x1BE00, 0x1BE01, 0x1BE02], dtype=pl.UInt64),
        "order": pl.Series([0, 9, 10, None], dtype=pl.Int8),
        "comm": ["bash", "order 0x10", "it's", None],
        "evidence": [["foll_pin"], ["page_pinner", "excess"], [], None],
        "handles": pl.Series([[1, 2], [2, None], [], None], dtype=pl.List(pl.UInt32)),
        "page": pl.Series([2**64 - 1, 0xFFFFEA0000000000, 1, None], dtype=pl.UInt64),
        "end": [True, False, None, True],
        "zone": pl.Series(["Normal", "DMA32", "Normal", None], dtype=pl.Enum(["DMA32", "Normal"])),
    }
)


def rows(where: str) -> list[int]:
    """The numbers of the rows that meet the condition."""
    shown = Query(where).table(Table(SCHEMA, FRAME)).frame
    return [pfn - 0x1BDFF for pfn in shown["pfn"].to_list()]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("order >= 9", [1, 2]),
        ("ORDER >= 9", [1, 2]),
        ('"order" == 9', [1]),
        ("pfn >= 0x1be00", [1, 2, 3]),
        ("pfn >= 0X1BE00 AND pfn < 0x1be02", [1, 2]),
        ("pfn BETWEEN 0x1be00 and 0x1be01", [1, 2]),
        ("pfn IN (0x1be00, 114178)", [1, 3]),
        ("page >= 0xffffea0000000000", [0, 1]),
        ("page = 0xffffffffffffffff", [0]),
        ("comm = 'it''s'", [2]),
        ("comm = 'order 0x10'", [1]),
        ("comm LIKE 'b%'", [0]),
        ("comm NOT LIKE 'b%'", [1, 2]),
        ("comm ILIKE 'B_SH'", [0]),
        ("comm ~ '^[bi]'", [0, 2]),
        ("comm IN ('bash', 'x')", [0]),
        ("comm IS NULL", [3]),
        ("comm IS NOT NULL AND NOT (order = 0 OR order = 9)", [2]),
        ("end", [0, 3]),
        ("end = TRUE", [0, 3]),
        ("NOT end", [1]),
        ("end IS TRUE", [0, 3]),
        ("end IS FALSE", [1]),
        ("end IS NOT FALSE", [0, 2, 3]),
        ("end IS NOT TRUE AND order = 10", [2]),
        ("NOT end IS TRUE OR order = 0", [0, 1, 2]),
        ("order > 5 IS NOT TRUE", [0, 3]),
        ("order <=> NULL", [3]),
        ("CASE WHEN order > 5 THEN end ELSE TRUE END", [0, 3]),
        ("pfn & 1 = 1", [0, 2]),
        ("length(comm) > 4", [1]),
        ("zone = 'Normal'", [0, 2]),
        ("zone LIKE 'DMA%'", [1]),
        ("1 = 1", [0, 1, 2, 3]),
        ("pfn --1 > 0x1be00", [1, 2, 3]),
    ],
)
def test_a_condition_selects_the_rows_for_which_it_is_true(where: str, expected: list[int]) -> None:
    assert rows(where) == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("evidence = 'foll_pin'", [0]),
        ("evidence == 'foll_pin'", [0]),
        ("'foll_pin' = evidence", [0]),
        ("evidence != 'foll_pin'", [1, 2]),
        ("evidence <> 'foll_pin'", [1, 2]),
        ("NOT evidence = 'foll_pin'", [1, 2]),
        ("'excess' IN evidence", [1]),
        ("'excess' IN (evidence)", [1]),
        ("'excess' NOT IN evidence", [0, 2]),
        ("EVIDENCE IN ('excess', 'foll_pin')", [0, 1]),
        ("evidence NOT IN ('excess', 'foll_pin')", [2]),
        ("evidence LIKE 'page%'", [1]),
        ("evidence NOT LIKE 'page%'", [0, 2]),
        ("evidence LIKE '%.%'", []),
        ("evidence ~ 'pin$'", [0]),
        ("evidence !~ 'pin'", [2]),
        ("array_contains(evidence, 'foll_pin')", [0]),
        ("array_length(evidence) = 0", [2]),
        ("evidence IS NULL", [3]),
        ("evidence = 'foll_pin' OR (order = 9 AND evidence = 'excess')", [0, 1]),
        ("handles = 2", [0, 1]),
        ("handles = 0x1", [0]),
        ("handles >= 2", [0, 1]),
        ("2 IN handles AND handles != 1", [1]),
    ],
)
def test_a_condition_on_a_list_asks_whether_any_element_meets_it(where: str, expected: list[int]) -> None:
    assert rows(where) == expected


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("", "empty"),
        ("nope = 1", "no column 'nope'"),
        ('comm = "bash"', "no column 'bash'"),
        ("pfn >=", "not a whole condition"),
        ("pfn", "neither true nor false"),
        ("NULL", "neither true nor false"),
        ("comm > 3", "comm is text, and 3 is a number"),
        ("order = '9'", "order is a number, and '9' is text"),
        ("handles IN (1, 'x')", "handles is a list of numbers, and 'x' is text"),
        ("pfn AND end", "an operator in it does not take values of these types"),
        ("comm = 'a", "not closed"),
        ("comm ~ '('", "regular expression"),
        ("evidence ~ '('", "regular expression"),
        ("evidence = comm", "evidence is a list, and this is no condition on one"),
        ("evidence BETWEEN 'a' AND 'b'", "evidence is a list"),
        ("upper(evidence) = 'EXCESS'", "evidence is a list"),
        ("NOT evidence", "evidence is a list"),
        ("handles + 1 > 2", "handles is a list"),
        ("evidence", "evidence is a list"),
        ("pfn + 1", "its value is a number, neither true nor false"),
        ("pfn = 0x1ffffffffffffffff", "64 bits"),
        ("pfn = " + "9" * 5000, "64 bits"),
        ("pfn = 12abc", "unexpected '12abc'"),
        ("abs() = 1", "abs of nothing"),
        # Not about one row.
        ("count(pfn) > 1", "no function 'count'"),
        ("pfn = max(pfn)", "no function 'max'"),
        ("row_number() OVER (ORDER BY pfn) = 1", "no function 'row_number'"),
        ("first(end)", "no function 'first'"),
        # Where sqlparser gets the precedence wrong.
        ("order IS DISTINCT FROM 5 AND end", "no column 'DISTINCT'"),
        # Not an expression.
        ("SELECT 1", "no column 'SELECT'"),
        ("pfn IN (SELECT pfn FROM pages)", "no column 'SELECT'"),
        ("EXISTS (SELECT 1)", "no function 'EXISTS'"),
        ("read_csv('/etc/passwd') IS NULL", "no function 'read_csv'"),
        ("pfn > 1; DROP TABLE pages", "unexpected ';"),
        ("pfn > 1 AS x", "no column 'AS'"),
        ("pfn > $1", "unexpected '$1'"),
        ("* = 1", ""),
        ("pfn /* > 1 */ > 2", ""),
        ("COLUMNS('.*') = 1", "no function 'COLUMNS'"),
        ("CAST(pfn AS BOOLEAN)", "no function 'CAST'"),
        # These would overflow the stack.
        ("(" * 5000 + "end" + ")" * 5000, "not a whole condition"),
        (" OR ".join(["pfn = 1"] * 20000), "operators"),
        ("NOT " * 5000 + "end", "operators"),
    ],
)
def test_anything_else_is_refused_in_one_sentence_with_a_hint(where: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        rows(where)
    assert says in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint


def _refused(where: str, schema: Schema = SCHEMA) -> UsageError:
    with pytest.raises(UsageError) as raised:
        Query(where).needs(schema)
    return raised.value


@pytest.mark.parametrize(
    ("where", "quoted"),
    [
        ("comm = bash", True),
        ("comm IN ('x', bash)", True),
        ("comm NOT LIKE bash", True),
        ('comm = "bash"', True),
        ("bash > 3", False),
        ("abs(bash) > 3", False),
    ],
)
def test_a_word_where_a_value_belongs_is_offered_quotes(where: str, quoted: bool) -> None:
    hint = _refused(where).hint or ""
    assert ("Text goes in single quotes: 'bash'." in hint) == quoted
    assert f"Columns of pages: {', '.join(SCHEMA.names)}." in hint


def test_a_column_that_was_meant_is_named() -> None:
    assert "Did you mean evidence?" in (_refused("evidnce = 'excess'").hint or "")


def test_a_table_that_has_the_column_is_named() -> None:
    groups = Schema("groups", (Column("owner"), Column("pfn", Kind.PFN)))
    error = _refused("owner = 'x'")
    assert isinstance(error, NoColumnError)
    assert "owner is a column of groups: --table groups." in (error.among([SCHEMA, groups]).hint or "")
    assert "--table" not in (error.among([SCHEMA]).hint or "")


CLOSED = Schema(
    "pages",
    (
        Column("state", values=("held", "released")),
        Column("evidence", values=("foll_pin", "excess")),
        Column("comm"),
    ),
)


@pytest.mark.parametrize(
    "where",
    [
        *("state = 'hold'", "state == 'HELD'", "'hold' = state", "state != 'hold'", "state <=> 'hold'"),
        *("state IN ('held', 'hold')", "state NOT IN ('hold')", "comm = 'x' AND (state = 'hold')"),
        *("'pin' IN evidence", "'pin' NOT IN evidence", "'pin' IN (evidence)", "evidence = 'pin'"),
    ],
)
def test_what_a_column_never_is_is_not_looked_for(where: str) -> None:
    error = _refused(where, CLOSED)
    assert "is never" in error.message
    assert error.hint in ("Values of state: held, released.", "Values of evidence: foll_pin, excess.")


@pytest.mark.parametrize(
    "where",
    [
        *("state = 'held'", "state LIKE 'h%'", "state IS NULL", "comm = 'hold'", "'held' = state"),
        *("state IN ('held', 'released') OR comm IN ('hold')", "'excess' IN evidence AND comm = 'x'"),
        *("state = comm", "(comm = 'hold') AND state = 'held'", "if(comm = 'x', state, 'none') = 'none'"),
    ],
)
def test_what_it_may_be_is(where: str) -> None:
    Query(where).needs(CLOSED)


def test_a_mistake_is_told_before_there_are_rows() -> None:
    with pytest.raises(UsageError, match="no column 'nope'"):
        Query("nope = 1").stream(SCHEMA)
    with pytest.raises(UsageError, match="whole condition"):
        Query("pfn =").stream(SCHEMA)
    assert Query("'foll_pin' IN evidence").stream(SCHEMA).finish() is None


def test_a_column_named_like_a_word_of_the_language_is_the_column() -> None:
    schema = Schema("t", (Column("end"), Column("left"), Column('in "quotes"')))
    frame = pl.DataFrame({"end": [1, 2], "left": ["ab", "cd"], 'in "quotes"': [True, False]})
    shown = Query("end = CASE WHEN left('ab', 1) = 'a' AND left = 'cd' THEN 2 END").table(
        Table(schema, frame)
    )
    assert shown.frame["end"].to_list() == [2]
    assert Query('"in ""quotes"""').table(Table(schema, frame)).frame["end"].to_list() == [1]


def test_a_panic_inside_polars_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        rows("DIV(-1, NULL) NOT IN (comm, comm)")


WORDS = [
    "pfn",
    "comm",
    "evidence",
    "end",
    "=",
    "!=",
    "<",
    "IN",
    "NOT",
    "AND",
    "LIKE",
    "(",
    ")",
    ",",
    "-",
    "*",
]
WORDS += ["'a'", "'%'", "''", "0x10", "1.5", "NULL", "IS", "CASE", "WHEN", "END", "BETWEEN", "lower(", "'"]


@given(st.lists(st.sampled_from(WORDS), max_size=10))
def test_any_words_in_any_order_select_rows_or_are_refused(words: list[str]) -> None:
    try:
        found = rows(" ".join(words))
    except UsageError:
        return
    assert set(found) <= {0, 1, 2, 3}


@given(st.text(max_size=20))
def test_any_text_in_quotes_is_that_text_and_nothing_else(text: str) -> None:
    quoted = text.replace("'", "''")
    frame = pl.DataFrame({"comm": [text, text + "x"], "tags": [[text], [text + "x"]]})
    table = Table(Schema("t", (Column("comm"), Column("tags"))), frame)
    assert Query(f"comm = '{quoted}'").table(table).frame.height == 1
    assert Query(f"tags = '{quoted}'").table(table).frame.height == 1


MEASURED = Schema(
    "groups", (Column("bytes", Kind.BYTES), Column("newest_ts_nsec", Kind.NSEC), Column("pages", Kind.COUNT))
)
MIB, SECOND = 1 << 20, 10**9
MEASURED_ROWS = pl.DataFrame(
    {
        "bytes": [MIB, MIB + 1, 3 << 30, None],
        "newest_ts_nsec": [10 * SECOND, 7_960_000_001, 90 * SECOND, None],
        "pages": [1, 2, 3, 4],
    }
)


@pytest.mark.parametrize(
    ("where", "pages"),
    [
        ("bytes > 1MiB", [2, 3]),
        ("bytes > 1 MiB AND pages < 3", [2]),
        ("bytes = 1024KiB", [1]),
        ("bytes IN (1048576B, 3 GiB)", [1, 3]),
        ("bytes BETWEEN 1 MiB AND 0.5GiB", [1, 2]),
        ("0.001 TiB < bytes", [3]),
        ("newest_ts_nsec > 10s", [3]),
        ("newest_ts_nsec >= 10000 ms", [1, 3]),
        ("newest_ts_nsec > 7.96s AND newest_ts_nsec < 1e1s", [2]),
        ("newest_ts_nsec = 1.5m", [3]),
        ("newest_ts_nsec < 1h AND newest_ts_nsec < 1d AND newest_ts_nsec > 7960000 us", [1, 2, 3]),
        ("newest_ts_nsec - 1ns = 7.96s", [2]),
    ],
)
def test_numbers_may_have_a_unit(where: str, pages: list[int]) -> None:
    assert Query(where).table(Table(MEASURED, MEASURED_ROWS)).frame["pages"].to_list() == pages


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("bytes > 1s", "bytes is no time"),
        ("1MiB < newest_ts_nsec", "newest_ts_nsec is no size"),
        ("pages >= 1 KiB", "pages is no size"),
        ("bytes NOT BETWEEN 1B AND 2s", "bytes is no time"),
        ("bytes > 1e30TiB", "1e30TiB does not fit in 64 bits"),
        (f"bytes > {'9' * 5000}B", "does not fit in 64 bits"),
    ],
)
def test_a_unit_that_makes_no_sense_is_refused(where: str, reason: str) -> None:
    assert reason in _refused(where, MEASURED).message


@pytest.mark.parametrize("where", ["bytes > 1MB", "bytes > 1 MB", "newest_ts_nsec > 1 sec"])
def test_the_units_there_are_are_named(where: str) -> None:
    assert "Units of numbers: B, KiB, MiB, GiB, TiB, ns, us, ms, s, m, h, d." in (
        _refused(where, MEASURED).hint or ""
    )
