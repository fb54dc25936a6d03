"""``mmdump info``: what is in this dump, and which analyses can run on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import polars as pl

from mmdump.errors import MmdumpError
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from mmdump.target import PhysStatus
from mmdump.target.summary import summarise

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins

__all__ = ["info"]

FACTS = Schema(
    "facts", (Column("what", Kind.TEXT, "a fact's name"), Column("value", Kind.TEXT, "the fact")), "Dump"
)
COVERAGE = Schema(
    "memory_in_dump",
    (
        Column("pages", Kind.TEXT, "what became of the pages"),
        Column("count", Kind.COUNT, "how many pages"),
        Column("bytes", Kind.BYTES, "the same in bytes"),
    ),
    "Memory in the dump",
)
ZONES = Schema(
    "zones",
    (
        Column("node", Kind.ID, "NUMA node"),
        Column("zone", Kind.TEXT, "zone"),
        Column("start_pfn", Kind.PFN, "first page it spans"),
        Column("spanned", Kind.COUNT, "pages it spans, holes included"),
        Column("present", Kind.BYTES, "memory that exists"),
    ),
    "Zones",
)
CLIENTS = Schema(
    "page_ext",
    (
        Column("client", Kind.TEXT, "a user of page_ext"),
        Column("state", Kind.TEXT, "on, off, or not built in"),
        Column("per_page", Kind.BYTES, "its data for each page"),
        Column("cost", Kind.BYTES, "its data for all pages"),
    ),
    "page_ext",
)
ANALYSES = Schema(
    "analyses",
    (
        Column("analysis", Kind.TEXT, "command"),
        Column("runs", Kind.BOOL, "whether it can run on this dump"),
        Column("why_not", Kind.TEXT, "why it cannot"),
    ),
    "Analyses",
)

_IN_DUMP = {
    PhysStatus.PRESENT: "in the dump",
    PhysStatus.ZERO_FILLED: "left out, read as zeros",
    PhysStatus.EXCLUDED: "filtered out",
    PhysStatus.TRUNCATED: "cut off with the end of the file",
}


def info(kernel: Kernel, plugins: Plugins) -> Result:
    """Describe a target. What cannot be found out is said, and does not keep the rest from being shown."""
    incomplete: list[str] = []

    def known(what: str, find: Callable[[], Any], default: Any) -> Any:
        try:
            return find()
        except MmdumpError as error:
            incomplete.append(f"{what}: {error.message}")
            return default

    target = kernel.target
    memmap = known("page array", lambda: kernel.memmap, None)
    pages = memmap.pages if memmap is not None else 0
    tables = [
        _table(FACTS, _facts(kernel, pages)),
        _table(COVERAGE, _coverage(kernel)),
        _table(
            ZONES,
            [
                (zone.node, zone.name, zone.start_pfn, zone.spanned, zone.present * target.page_size)
                for zone in known("zones", lambda: kernel.zones, [])
            ],
        ),
        _table(CLIENTS, known("page_ext", lambda: _clients(kernel, pages), [])),
        _table(ANALYSES, _analyses(kernel, plugins)),
    ]
    findings = []
    if target.dump is not None and target.dump.truncated:
        findings.append(Finding("truncated", Severity.WARNING, target.dump.truncated))
    return Result(
        "info",
        summary=[target.describe()],
        tables={table.name: table for table in tables},
        primary=FACTS.name,
        text_tables=[table.name for table in tables if len(table.frame)],
        findings=findings,
        incomplete=incomplete,
        target=summarise(target),
    )


_TYPES = {
    Kind.COUNT: pl.Int64,
    Kind.BYTES: pl.Int64,
    Kind.ID: pl.Int64,
    Kind.PFN: pl.Int64,
    Kind.BOOL: pl.Boolean,
}


def _table(schema: Schema, rows: list[tuple[Any, ...]]) -> Table:
    types = {column.name: _TYPES.get(column.kind, pl.String) for column in schema.columns}
    return Table(schema, pl.DataFrame(rows, schema=types, orient="row"))


def _facts(kernel: Kernel, pages: int) -> list[tuple[str, str]]:
    from datetime import UTC, datetime

    target = kernel.target
    facts = [
        ("kernel", target.release),
        ("build ID", target.build_id),
        ("architecture", target.architecture),
        ("page size", f"{target.page_size} bytes"),
        ("pages", f"{pages}" if pages else None),
        ("file", None if target.path is None else str(target.path)),
        ("format", "the live kernel" if target.live else target.dump and target.dump.describe()),
        ("written by", target.dump and target.dump.writer),
        (
            "crash time",
            None
            if target.crash_time is None
            else datetime.fromtimestamp(target.crash_time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        ),
        ("debug info", target.debug_info and f"{target.debug_info.path} ({target.debug_info.source})"),
    ]
    return [(what, str(value)) for what, value in facts if value]


def _coverage(kernel: Kernel) -> list[tuple[str, int, int]]:
    dump = kernel.target.dump
    if dump is None:
        return []
    counts = dump.coverage.counts()
    return [
        (words, counts[status], counts[status] * dump.coverage.page_size)
        for status, words in _IN_DUMP.items()
        if counts.get(status) or status == PhysStatus.PRESENT
    ]


def _clients(kernel: Kernel, pages: int) -> list[tuple[str, str, int | None, int | None]]:
    layout = kernel.page_ext
    if not layout.built:
        return [("page_ext", "not built in", None, None)]
    rows: list[tuple[str, str, int | None, int | None]] = []
    for name, state in sorted(layout.clients.items()):
        if not state.built:
            continue
        words = "on" if state.enabled else "off"
        rows.append((name, words, state.size, state.size * pages if state.enabled else 0))
    rows.append(("all, with flags", "on" if layout.stride else "off", layout.stride, layout.stride * pages))
    return rows


def _analyses(kernel: Kernel, plugins: Plugins) -> list[tuple[str, bool, str | None]]:
    rows = []
    for name, analysis in plugins.analyses().items():
        try:
            reason = analysis().why_not(kernel)
        except MmdumpError as error:
            reason = error.message
        rows.append((name, reason is None, reason))
    return rows
