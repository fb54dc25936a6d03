"""Numbers, times and PFNs as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UsageError
from mmdump_page_owner.ranges import MOST, ages, moment, numbers, pfn_ranges

S = 10**9
NOW = 1000 * S


def test_nothing_is_older_than_the_machine_has_been_up() -> None:
    first, last = ages("--age", f"{NOW + 1}ns", NOW)
    assert first > last
    assert ages("--age", f"{NOW}ns", NOW) == (0, 0)


@pytest.mark.parametrize(
    ("words", "ranges"),
    [
        (("16",), ((16, 16),)),
        (("0x10-0x1f",), ((16, 31),)),
        (("16-0x1F,40",), ((16, 31), (40, 40))),
        (("1", "2-2"), ((1, 1), (2, 2))),
    ],
)
def test_pfns_are_numbers_and_ranges_with_both_ends(words, ranges) -> None:
    assert pfn_ranges("--pfn", words) == ranges


@pytest.mark.parametrize("word", ["", "x", "5-", "-5", "9-5", "1-2-3", "0x", "1_0", "٣", str(1 << 64)])
def test_what_is_no_pfn_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--pfn"):
        pfn_ranges("--pfn", (word,))


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("90", 0, NOW - 90 * S),
        ("1.5m", 0, NOW - 90 * S),
        ("10s-2m", NOW - 120 * S, NOW - 10 * S),
        ("0-250ms", NOW - S // 4, NOW),
        ("1s-", 0, NOW - S),
        ("-5s", NOW - 5 * S, MOST),
        ("1h-2d", 1, 0),
    ],
)
def test_an_age_is_at_least_so_much_or_between_two(text: str, first: int, last: int) -> None:
    assert ages("--age", text, NOW) == (first, last)


@pytest.mark.parametrize(
    ("text", "at"),
    [("0", NOW), ("1m", NOW - 60 * S), ("@12.5", 25 * S // 2), ("@2m", 120 * S), ("2h", NOW - 7200 * S)],
)
def test_a_moment_is_so_long_before_the_dump_or_counted_from_boot(text: str, at: int) -> None:
    assert moment("--since", text, NOW) == at


@pytest.mark.parametrize("text", ["", "@", "1y", "-1", "1m30s", "nan", "1e9", "²"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        moment("--since", text, NOW)


@given(st.text(max_size=20))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    for parse in (
        lambda: numbers("--pid", (text,)),
        lambda: pfn_ranges("--pfn", (text,)),
        lambda: (ages("--age", text, NOW),),
    ):
        try:
            found = parse()
        except UsageError:
            continue
        assert all(first <= last <= MOST for first, last in found)
