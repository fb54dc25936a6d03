"""Secrets planted in a dump are in no format of a redacted report; nor is what would lead to them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmdump.analysis import Analysis, Parts
from mmdump.document import Report, Section
from mmdump.render.report import REPORT_FORMATS
from mmdump.report import Choice
from mmdump.report.redact import redacted
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from tests.report.dumps import planted_dump, plugins_with, report_of

COMM, HOST, CGROUP, MODULE = "acme-trader", "dbhost7.acme.example", "/acme.slice/payroll.service", "acme_nic"
ODD_COMM = "it's [odd] a/b"
ADDRESS, STACK_ADDRESS = 0xFFFF888123456780, "0xffffffffc0a81234"
#: What none of the formats may hold; the directory is the dump's.
SECRETS = (
    *(COMM, ODD_COMM, HOST, "dbhost7", CGROUP, "payroll", MODULE, "acme", "secret-customer"),
    *(f"{ADDRESS:x}", f"{ADDRESS:#x}", str(ADDRESS), STACK_ADDRESS, "ffffffffc0a81234"),
)

CHARGED = Schema(
    "charged",
    (
        Column("memcg", description="cgroup that is charged"),
        Column("by", description="who charged it", private="comm"),
        Column("loaded_modules", description="what is loaded"),
        Column("page", Kind.ADDRESS, "struct page"),
        Column("said", description="free text"),
        Column("pages", Kind.COUNT),
        Column("frames", Kind.STACK),
    ),
)


@dataclass(frozen=True)
class Charged(Analysis):
    """Says what a plugin may say of names: in columns, in lists, in sentences, in frames."""

    name = "charged"
    summary = "charged pages"
    scans = False

    def finish(self, kernel: Any, state: Any, parts: Parts) -> Result:
        frame = pl.DataFrame(
            {
                "memcg": [CGROUP, "/"],
                "by": [COMM, ODD_COMM],
                "loaded_modules": [[MODULE], []],
                "page": [ADDRESS, 0],
                "said": [
                    f"{COMM}[2000] wrote to {HOST} at {ADDRESS:#x}",
                    f"BUG: Bad page in process {ODD_COMM}",
                ],
                "pages": [3, 4],
                "frames": [[f"{MODULE}_poll+0x1/0x2 [{MODULE}]", STACK_ADDRESS], ["vfs_read+0x1/0x2"]],
            },
            schema_overrides={"page": pl.UInt64},
        )
        finding = Finding(
            "charged",
            Severity.WARNING,
            f"payroll.service has 3 pages, charged by {COMM} in {CGROUP}, page {ADDRESS:016x}.",
            "charged",
            f"\"by\" = '{ODD_COMM.replace(chr(39), chr(39) * 2)}'",
        )
        return Result(
            self.name,
            summary=[f"On {HOST} {COMM} charged 7 pages; {MODULE} is loaded."],
            tables={"charged": Table(CHARGED, frame)},
            primary="charged",
            text_tables=["charged"],
            findings=[finding],
            notes=[f"{COMM}, {COMM}-helper and x{COMM}"[: len(COMM)]],
            incomplete=[f"cgroup {CGROUP} could not be read at {ADDRESS:#x}"],
        )


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("redact") / "secret-customer"
    return planted_dump(directory, [COMM, ODD_COMM], ["vfs_read", "ksys_read"], HOST.encode())


@pytest.fixture(scope="module")
def plain(planted: Path) -> Report:
    return report_of(planted, Choice(), plugins_with(Charged))


@pytest.fixture(scope="module")
def masked(planted: Path) -> Report:
    return report_of(planted, Choice(redact=True), plugins_with(Charged))


def written(report: Report, format_: str) -> str:
    out = io.BytesIO()
    REPORT_FORMATS[format_].write(report, out)
    return out.getvalue().decode()


def plainly(text: str) -> str:
    """The text without what formats put between its words; lines may break behind a hyphen."""
    plain = text.replace("\\", "").replace("&#39;", "'").replace("&lt;", "<")
    return re.sub(r"\s+", " ", re.sub(r"-\n\s*", "-", plain))


@pytest.mark.parametrize("format_", list(REPORT_FORMATS))
def test_no_secret_is_in_a_redacted_report(plain: Report, masked: Report, format_: str) -> None:
    told, kept = plainly(written(plain, format_)), plainly(written(masked, format_))
    for secret in SECRETS:
        assert secret.lower() not in kept.lower(), secret
    # They are in the report that is not redacted: this test looks in the right places.
    for secret in (COMM, HOST, "payroll", MODULE, "secret-customer", ODD_COMM):
        assert secret in told, secret
    assert re.search(r"\bcomm-\d", kept)
    assert "Still told" in kept


def test_the_same_name_has_the_same_pseudonym_everywhere(masked: Report) -> None:
    document = json.loads(written(masked, "json"))
    sections = {each["section"]: each for each in document["sections"]}
    [first, second] = sections["charged"]["tables"]["charged"]["rows"]
    comm, other, host, cgroup = first["by"], second["by"], document["facts"]["host"], first["memcg"]
    assert len({comm, other}) == 2
    assert first["said"].startswith(f"{comm}[2000] wrote to {host} at {first['page']}")
    assert second["said"] == f"BUG: Bad page in process {other}"
    assert second["memcg"] == "/"
    assert second["page"] == "0x0"
    blocked = next(each for each in document["findings"] if each["key"] == "cma-blocked")
    assert f"(allocated by {comm} 2000)" in blocked["message"]
    charged = next(each for each in document["findings"] if each["key"] == "charged")
    assert f"charged by {comm} in {cgroup}, page {first['page']}." in charged["message"]
    assert charged["where"] == f"\"by\" = '{other}'"
    owners = {row["owner_comm"] for row in sections["pinned"]["tables"]["groups"]["rows"]}
    assert {comm, other} <= owners


def test_numbers_and_functions_stay(plain: Report, masked: Report) -> None:
    [charged] = [each for each in masked.sections if each.name == "charged"]
    assert charged.result is not None
    frame = charged.result.tables["charged"].frame
    assert frame["pages"].to_list() == [3, 4]
    module = frame["loaded_modules"][0][0]
    assert frame["frames"].to_list() == [
        [f"{module}_poll+0x1/0x2 [{module}]", frame["frames"][0][1]],
        ["vfs_read+0x1/0x2"],
    ]
    assert frame["frames"][0][1].startswith("addr-")
    for before, after in zip(plain.sections, masked.sections, strict=True):
        if before.result is None or after.result is None:
            continue
        for name, table in before.result.tables.items():
            other = after.result.tables[name]
            for column in table.schema.columns:
                if column.kind not in (Kind.TEXT, Kind.STACK, Kind.ADDRESS):
                    assert table.frame[column.name].equals(other.frame[column.name]), (name, column.name)


def test_nothing_is_masked_unless_asked_for(plain: Report) -> None:
    assert not plain.masked
    assert plain.facts[[what for what, _ in plain.facts].index("host")] == ("host", HOST)


def masked_text(text: str, secrets: dict[str, str]) -> str:
    report = redacted(Report("", sections=[Section("a", "", Result("a", summary=[text]))]), secrets)
    result = report.sections[0].result
    assert result is not None
    return result.summary[0]


@pytest.mark.parametrize(
    ("text", "secret", "expected"),
    [
        ("java 901 and java: 'java'", "java", "comm-1 901 and comm-1: 'comm-1'"),
        ("javac and xjava are others", "java", "javac and xjava are others"),
        ("java_thread-java", "java", "comm-1_thread-comm-1"),
        ("in (java)", "java", "in (comm-1)"),
        ("a.*b", ".*", "acomm-1b"),
        ("at 0xffff888000001000 and ffff888000001000", "x", "at addr-1 and addr-1"),
        ("pfn 0x12345 flags 0x17ffffc0000000", "x", "pfn 0x12345 flags 0x17ffffc0000000"),
        ("build a1b2c3d4e5f60718a1b2c3d4e5f60718", "x", "build a1b2c3d4e5f60718a1b2c3d4e5f60718"),
    ],
)
def test_a_name_is_masked_where_it_stands_for_itself(text: str, secret: str, expected: str) -> None:
    assert masked_text(text, {secret: "comm"}) == expected


def test_the_longest_name_is_masked_first() -> None:
    assert masked_text("a/b/c of a", {"a": "comm", "a/b/c": "path"}) == "path-1 of comm-1"
