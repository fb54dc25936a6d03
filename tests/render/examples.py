"""Results made by hand, as an analysis would return them."""

from __future__ import annotations

import io
from collections.abc import Iterable

import polars as pl

from mmdump.render import Query, RenderOptions, open_renderer
from mmdump.result import Column, Coverage, Finding, Kind, Result, Schema, Severity, Table

HOLDERS = Schema(
    "holders",
    (
        Column("evidence", Kind.TEXT, "what shows that the folio is held"),
        Column("owner", Kind.TEXT, "who allocated it"),
        Column("folios", Kind.COUNT, "how many"),
        Column("cma", Kind.TEXT, "the CMA area it blocks"),
        Column("first_pfn", Kind.PFN, "the first of them", in_text=False),
        Column("first_page", Kind.ADDRESS, "its struct page", in_text=False),
    ),
)

HOLDER_ROWS = pl.DataFrame(
    {
        "evidence": [["foll_pin"], ["foll_pin"], ["page_pinner", "excess"], ["excess"]],
        "owner": ["work 63", "work 64", "work 70", "work 70"],
        "folios": [64, 1, 6, 2],
        "cma": [None, None, "reserved", "reserved"],
        "first_pfn": [0x1BE00, 0x1BE40, 0x1BE80, 0x1BE90],
        "first_page": pl.Series(
            [0xFFFFEA0006F80000, 0xFFFFEA0006F81000, None, 0xFFFFEA0006FA4000], dtype=pl.UInt64
        ),
    }
)

PAGES = Schema(
    "pages",
    (
        Column("pfn", Kind.PFN, "the page"),
        Column("order", Kind.ID, "the order of its folio"),
        Column("zone", Kind.TEXT, "where it is"),
        Column("evidence", Kind.TEXT, "why it is here"),
        Column("end", Kind.BOOL, "whether it ends a pageblock"),
    ),
    title="Pages",
)

PAGE_ROWS = pl.DataFrame(
    {
        "pfn": pl.Series([0x1BE00 + number for number in range(100)], dtype=pl.UInt64),
        "order": pl.Series([number % 11 for number in range(100)], dtype=pl.UInt8),
        "zone": [["DMA32", "Normal", None][number % 3] for number in range(100)],
        "evidence": [[["foll_pin"], ["foll_pin", "excess"], [], None][number % 4] for number in range(100)],
        "end": [[True, False, None][number % 3] for number in range(100)],
    }
)

SUMMARY = (
    "73 folios held: 64 by FOLL_PIN (work 63), 1 THP by FOLL_PIN (work 64), "
    "8 by unexplained references (work 70)"
)


def pinned() -> Result:
    """The answer to "CMA allocation failed, who holds the pages?"."""
    return Result(
        "pinned",
        summary=[SUMMARY],
        tables={"holders": Table(HOLDERS, HOLDER_ROWS), "pages": Table(PAGES, PAGE_ROWS)},
        primary="pages",
        text_tables=["holders"],
        findings=[
            Finding("released", Severity.NOTE, "8 more were marked by the page pinner and are released."),
            Finding(
                "cma-blocked",
                Severity.PROBLEM,
                "CMA reserved: 64 MiB; 8 pages block it; longest run now 30 MiB, without them 64 MiB.",
                "holders",
                "cma = 'reserved'",
            ),
        ],
        coverage=Coverage(131072, 131072),
        target={"path": "vmcore", "release": "6.12.9"},
    )


def rendered(
    result: Result,
    form: str = "text",
    *,
    query: Query | None = None,
    table: str | None = None,
    width: int | None = None,
    color: bool = False,
) -> str:
    """The result in that format."""
    out = io.BytesIO()
    options = RenderOptions(query or Query(), table, width, color, version="1.2.3")
    open_renderer(form, out, options).finish(result)
    return out.getvalue().decode()


def streamed(
    result: Result,
    form: str,
    schema: Schema,
    frames: Iterable[pl.DataFrame],
    *,
    query: Query | None = None,
    table: str | None = None,
) -> str:
    """The result in that format, with the rows of one of its tables coming in frames."""
    out = io.BytesIO()
    renderer = open_renderer(form, out, RenderOptions(query or Query(), table, version="1.2.3"))
    renderer.begin(schema)
    for frame in frames:
        renderer.rows(frame)
    rest = {name: each for name, each in result.tables.items() if name != schema.name}
    renderer.finish(Result(**{**vars(result), "tables": rest}))
    return out.getvalue().decode()
