"""Nothing that a dump holds is obeyed by a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.render import escape


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kworker/0:1", "kworker/0:1"),
        ("\x1b[2J\x1b[31mroot", r"\x1b[2J\x1b[31mroot"),
        ("a\nb\r\tc\0", r"a\nb\r\tc\x00"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\u2028line", r"\u2028line"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("naïve 日本 \\ [bold]x[/bold] :smile:", "naïve 日本 \\ [bold]x[/bold] :smile:"),
    ],
)
def test_what_is_not_plainly_visible_becomes_a_backslash_escape(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(st.text(st.characters()))
def test_no_control_format_or_unassigned_character_survives(text: str) -> None:
    shown = escape(text)
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert escape(shown) == shown
