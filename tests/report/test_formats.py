"""Reports as files: what fits where, what all formats tell, what the command line does with them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import polars as pl
import pytest
from rich.cells import cell_len

from mmdump.document import Report, Section, Told
from mmdump.errors import UsageError
from mmdump.render.report import REPORT_FORMATS, report_format
from mmdump.render.report.fit import fitted
from mmdump.result import Bars, Column, Finding, Kind, Map, Result, Schema, Severity, Table
from tests.conftest import Run
from tests.report.dumps import report_of

Mmdump = Callable[..., Run]
SCHEMA = json.loads((Path(__file__).parents[1] / "render" / "report.schema.json").read_text())
#: Of text and Markdown; of HTML.
MOST_TEXT, MOST_HTML = 100_000, 1_500_000


def written(report: Report, format_: str) -> str:
    out = io.BytesIO()
    REPORT_FORMATS[format_].write(report, out)
    return out.getvalue().decode()


def one_line(text: str) -> str:
    return " ".join(text.split())


class Words(HTMLParser):
    """The text of a document, what it asks for, and the elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.asks: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self._in = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in = tag
        for name, value in attrs:
            if name in ("src", "srcset", "action", "data", "poster") or (name == "href" and tag != "a"):
                self.asks.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "href" and tag == "a":
                self.targets.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._in not in ("script", "style"):
            self.text.append(data)


def words_of(html: str) -> Words:
    words = Words()
    words.feed(html)
    return words


def test_text_has_80_columns_and_at_most_100_kb(scenario: Path) -> None:
    report = report_of(scenario)
    for format_ in ("txt", "md"):
        text = written(report, format_)
        assert len(text.encode()) <= MOST_TEXT
        wide = [line for line in text.splitlines() if cell_len(line) > 80]
        # Nothing breaks a heading of Markdown, nor a word without blanks.
        assert not [line for line in wide if not line.startswith("#") and " " in line.strip()], wide
        if format_ == "txt":
            assert not wide


def test_all_formats_tell_the_same_findings_in_the_same_order(scenario: Path) -> None:
    report = report_of(scenario)
    assert report.findings
    told = [each.finding.message for each in report.findings]
    document = json.loads(written(report, "json"))
    jsonschema.validate(document, SCHEMA)
    assert [each["message"] for each in document["findings"]] == told
    text, markdown = one_line(written(report, "txt")), one_line(written(report, "md"))
    html = one_line(" ".join(words_of(written(report, "html")).text))
    for message in told:
        assert one_line(message) in text
        assert one_line(message) in markdown.replace("\\", "")
        assert one_line(message) in html
    assert sorted(told, key=text.index) == told


def test_html_is_one_file_that_asks_for_nothing(scenario: Path) -> None:
    html = written(report_of(scenario), "html")
    assert len(html.encode()) <= MOST_HTML
    words = words_of(html)
    assert [each[:22] for each in words.asks] == ["data:image/png;base64,"]
    assert "link" not in words.tags
    assert "@import" not in html
    assert not re.search(r"url\(", html)
    assert "default-src &#39;none&#39;" in html


def test_links_within_html_lead_somewhere(scenario: Path) -> None:
    words = words_of(written(report_of(scenario), "html"))
    assert len(set(words.ids)) == len(words.ids)
    assert {each.removeprefix("#") for each in words.targets} <= set(words.ids)


def test_a_section_that_is_missing_says_why_in_every_format(cma_dump: Path) -> None:
    report = replace(
        report_of(cma_dump),
        sections=[Section("pinned", "who holds pages", error="dropped: it took more than the 2 seconds")],
        absent=[("alloc-tags", "this kernel was built without CONFIG_MEM_ALLOC_PROFILING")],
    )
    for format_ in REPORT_FORMATS:
        text = one_line(written(report, format_).replace("\\", ""))
        assert "dropped: it took more than the 2 seconds" in text
        assert "this kernel was built without CONFIG_MEM_ALLOC_PROFILING" in text


MANY = Schema(
    "many",
    (
        Column("pfn", Kind.PFN),
        Column("what", Kind.TEXT),
        Column("bytes", Kind.BYTES, weight=True),
        Column("frames", Kind.STACK),
    ),
    "Many",
)


def huge() -> Report:
    """A report with more of everything than any file may hold."""
    rows = 5_000
    frame = pl.DataFrame(
        {
            "pfn": range(rows),
            "what": [f"{'long words ' * 12}{row}" for row in range(rows)],
            "bytes": [4096 * (row % 7 + 1) for row in range(rows)],
            "frames": [[f"function_{row}_{depth}+0x0/0x10" for depth in range(20)] for row in range(rows)],
        }
    )
    findings = [
        Finding(f"key-{n}", Severity.PROBLEM, f"finding {n} {'of many words ' * 20}", "many")
        for n in range(500)
    ]
    result = Result(
        "many",
        summary=["many " * 500],
        tables={f"many{n}": Table(replace(MANY, name=f"many{n}"), frame) for n in range(3)},
        primary="many0",
        text_tables=["many0", "many1", "many2"],
        findings=findings,
        notes=[f"note {n} {'and so on ' * 50}" for n in range(300)],
        incomplete=[f"lost {n} {'for ever ' * 50}" for n in range(300)],
    )
    sections = [Section(f"many-{n}", "much", result) for n in range(8)]
    told = [Told("many-0", each, Table(MANY, frame.head(10)), rows) for each in findings]
    return Report("a machine", findings=told, sections=sections, target={"page_size": 4096})


def test_a_report_of_too_much_still_fits_and_keeps_its_findings_first() -> None:
    report = huge()
    for format_, most in (("txt", MOST_TEXT), ("md", MOST_TEXT), ("html", MOST_HTML)):
        text = written(report, format_)
        assert len(text.encode()) <= most, format_
        assert "finding 0" in text
        assert "more findings" in text
        assert "left out" in text or "not in this report" in text


def test_a_map_of_a_large_machine_is_reduced_until_it_fits() -> None:
    import numpy as np

    from mmdump.render.report.physmap import map_of

    chart = Map("start_pfn", "pages", ("pinned", "free"), ("zone",))
    columns = (
        Column("start_pfn", Kind.PFN),
        Column("pages"),
        Column("pinned"),
        Column("free"),
        Column("zone"),
    )
    rows = 300_000
    noise = np.random.default_rng(7)
    frame = pl.DataFrame(
        {
            "start_pfn": np.arange(rows) * 512,
            "pages": np.full(rows, 512),
            "pinned": noise.integers(0, 200, rows),
            "free": noise.integers(0, 300, rows),
            "zone": ["Normal"] * rows,
        }
    )
    result = Result("map", tables={"cells": Table(Schema("cells", columns, "", chart), frame)})
    drawing = map_of(Report("", sections=[Section("map", "", result)]))
    assert drawing is not None
    assert len(drawing.numbers) <= 400_000
    assert len(drawing.image) <= 400_000
    assert drawing.cells < rows
    # Nothing is lost of the sums.
    assert dict(drawing.sums)["pinned"] == f"{frame['pinned'].sum() * 4096 / (1 << 30):.1f} GiB"


def test_a_map_holds_what_its_table_holds() -> None:
    import base64
    import zlib

    import numpy as np

    from mmdump.render.report.physmap import map_of

    chart = Map("start_pfn", "pages", ("pinned", "free"), ("zone",))
    columns = (
        Column("start_pfn", Kind.PFN),
        Column("pages"),
        Column("pinned"),
        Column("free"),
        Column("zone"),
    )
    frame = pl.DataFrame(
        {
            "start_pfn": [0, 512, 4096],
            "pages": [512, 512, 100],
            "pinned": [0, 1, 0],
            "free": [512, 400, 0],
            "zone": ["DMA", None, "DMA"],
        }
    )
    result = Result("map", tables={"cells": Table(Schema("cells", columns, "", chart), frame)})
    drawing = map_of(Report("", sections=[Section("map", "", result)]))
    assert drawing is not None
    words = np.frombuffer(zlib.decompress(base64.b64decode(drawing.numbers)), "<u4").reshape(5, 3)
    assert words[0].cumsum().tolist() == [0, 512, 4096]
    assert words[1:4].tolist() == [[512, 512, 100], [0, 1, 0], [512, 400, 0]]
    names = json.loads(drawing.shape)["labels"]["zone"]
    assert [names[code] for code in words[4]] == ["DMA", "-", "DMA"]
    # One pixel for each, and a block with one pinned page has the colour of pinned pages.
    png = base64.b64decode(drawing.image.split(",")[1])
    at = png.index(b"IDAT")
    size = int.from_bytes(png[at - 4 : at], "big")
    pixels = zlib.decompress(png[at + 4 : at + 4 + size])[1:]
    colors = [part.color for part in drawing.parts]
    assert [f"#{pixels[n * 4 : n * 4 + 3].hex()}" for n in (1, 0)] == [colors[0], colors[1]]


def test_a_flame_graph_is_as_wide_as_what_was_allocated() -> None:
    from mmdump.render.report.flame import flame_of

    frame = pl.DataFrame(
        {
            "pfn": [1, 2, 3],
            "what": ["a", "b", "c"],
            "bytes": [4096, 8192, 4096],
            "frames": [
                ["alloc+0x1/0x2", "read+0x1/0x2"],
                ["alloc+0x4/0x9", "write+0x1/0x2 [ext9]"],
                ["alloc+0x1/0x2"],
            ],
        }
    )
    report = Report("", sections=[Section("a", "", Result("a", tables={"many": Table(MANY, frame)}))])
    flame = flame_of(report)
    assert flame is not None
    bars = {(bar.name, bar.level): (bar.left, bar.width) for bar in flame.bars}
    assert bars[("all", 0)] == (0, 100)
    assert bars[("write", 1)] == (0, 50)
    assert bars[("alloc", 2)] in {(0, 50), (75, 25), (50, 25)}
    assert sum(width for (_, level), (_, width) in bars.items() if level == 1) == 100
    assert next(bar.module for bar in flame.bars if bar.name == "write") == "ext9"


def test_bars_are_as_long_as_their_values() -> None:
    from mmdump.render.report.views import bars_of

    schema = Schema(
        "o",
        (Column("node", Kind.ID), Column("order", Kind.ID), Column("free", Kind.BYTES)),
        "",
        Bars("order", "free", ("node",)),
    )
    rows = [{"node": node, "order": order, "free": 4096 << order} for node in (0, 1) for order in range(3)]
    views = bars_of(Table.of_rows(schema, rows))
    assert [view.title for view in views] == ["node 0", "node 1"]
    assert list(views[0].bars) == [("0", "4 KiB", 25), ("1", "8 KiB", 50), ("2", "16 KiB", 100)]


def test_what_is_too_long_for_its_column_goes_on_below() -> None:
    schema = Schema("t", (Column("n", Kind.COUNT), Column("what"), Column("frames", Kind.STACK)))
    frame = pl.DataFrame({"n": [1234], "what": ["a few words " * 5], "frames": [["f+0x1/0x2"]]})
    lines, left_out = fitted(Table(schema, frame), 20, 32)
    assert not left_out
    assert lines == [
        "      N  WHAT",
        "  1,234  a few words a few words",
        "         a few words a few words",
        "         a few words",
        "      f+0x1/0x2",
    ]


def test_the_suffix_chooses_the_format_unless_one_is_named() -> None:
    names = {"a.html": "html", "a.HTM": "html", "a.md": "md", "a.txt": "txt", "a.json": "json"}
    for output, format_ in names.items():
        assert report_format(None, output).name == format_
    assert report_format("markdown", "a.html").name == "md"
    assert report_format(None, None).name == "txt"
    for name, output in ((None, "a.pdf"), ("pdf", "a.md")):
        with pytest.raises(UsageError):
            report_format(name, output)


@pytest.fixture
def command(mmdump: Mmdump, cma_dump: Path) -> Callable[..., Run]:
    return lambda *words: mmdump("report", cma_dump, *words)


def test_the_command_writes_a_file_that_is_not_there_yet(command: Callable[..., Run], tmp_path: Path) -> None:
    out = tmp_path / "bug.md"
    assert command("-o", out).status == 0
    assert out.read_text().startswith("# mmdump report: Linux 6.12")
    refused = command("-o", out)
    assert refused.status == 2
    assert "exists" in refused.err
    assert command("-o", out, "-f", "json", "--force").status == 0
    assert json.loads(out.read_text())["schema"] == 1


def test_the_command_refuses_what_it_does_not_know(command: Callable[..., Run], tmp_path: Path) -> None:
    for words in (("-o", tmp_path / "bug.pdf"), ("-f", "pdf"), ("--only", "pined"), ("--skip", "pined")):
        run = command(*words)
        assert run.status == 2, words
        assert run.err.startswith("mmdump: ")
    assert not (tmp_path / "bug.pdf").exists()


def test_the_command_writes_text_to_standard_output(command: Callable[..., Run]) -> None:
    run = command("--only", "pinned,cma", "--time-limit", "100")
    assert run.status == 0
    assert run.out.startswith("mmdump report: Linux 6.12")
    assert "buddy: free memory" not in run.out


def test_an_incomplete_report_is_written_and_has_its_status(
    mmdump: Mmdump, cma_dump: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from mmdump import hookimpl\n"
        "from mmdump.analysis import Analysis\n"
        "class Broken(Analysis):\n"
        "    name, summary = 'broken', 'broken'\n"
        "    def scan(self, pages, state):\n"
        "        raise ValueError('of no use')\n"
        "@hookimpl\n"
        "def mmdump_analyses():\n"
        "    return [Broken]\n"
    )
    run = mmdump("--plugin", plugin, "report", cma_dump, "--only", "broken,pinned")
    assert run.status == 5
    assert "broken: failed: ValueError: of no use" in run.err
    assert "Traceback" not in run.err
    assert "postgres 1204" in run.out
