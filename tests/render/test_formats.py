"""Formats are found by name, and plugins can add theirs."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from mmdump.errors import UsageError
from mmdump.render import FORMATS, FormatSpec, Renderer, format_of, open_renderer, register
from mmdump.render.jsonl import JsonlRenderer


def test_every_format_opens_and_takes_rows() -> None:
    for name, spec in FORMATS.items():
        assert spec.name == name
        assert isinstance(open_renderer(name, io.BytesIO()), Renderer)
    stacks = {"folded", "speedscope", "pprof"}
    assert {name for name, spec in FORMATS.items() if spec.one_table} == {"csv", "jsonl", "parquet"} | stacks
    assert {name for name, spec in FORMATS.items() if spec.stacks} == stacks


def test_an_unknown_format_is_a_usage_error_that_names_those_there_are() -> None:
    with pytest.raises(UsageError) as raised:
        open_renderer("yaml", io.BytesIO())
    assert raised.value.hint == "Formats: text, json, jsonl, csv, parquet, folded, speedscope, pprof."


def test_a_format_is_added_but_cannot_take_one_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FORMATS, "jsonl")
    register(FormatSpec("ndjson", JsonlRenderer, one_table=True, suffixes=(".ndjson",)))
    try:
        assert format_of("a/b.NDJSON") == "ndjson"
        with pytest.raises(ValueError, match="two formats named 'ndjson'"):
            register(FormatSpec("ndjson", JsonlRenderer, one_table=True))
    finally:
        del FORMATS["ndjson"]


def test_a_files_name_says_its_format() -> None:
    assert format_of("pages.csv") == "csv"
    assert format_of("pages.jsonl") == "jsonl"
    for name in ("pages.txt", "pages.log"):
        assert format_of(name) == "text"
    for name in ("pages", "a.d/pages", "vmcore-6.12", ".csv", "pages.2026-11-28", "/dev/null"):
        assert format_of(name) is None, name


@pytest.mark.parametrize("name", ["report.pdf", "x.XLS", "x.html", "pages.csv.gz", "a/b.jsn"])
def test_a_suffix_that_no_format_has_is_a_usage_error_that_names_those_there_are(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        format_of(name)
    assert name in caught.value.message
    assert caught.value.hint is not None
    for word in (".txt, .text, .log", ".csv", ".parquet", "-f", "mmdump report"):
        assert word in caught.value.hint


def test_rich_is_not_loaded_until_text_needs_it() -> None:
    code = "import sys, mmdump.render; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
