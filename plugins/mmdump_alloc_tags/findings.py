"""What is worth saying of allocations by line: counts without memory to show, and tags that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from mmdump.amounts import agreeing, bytes_text, counted
from mmdump.result import Finding, Severity

if TYPE_CHECKING:
    from mmdump.result import Table

__all__ = ["findings_of", "headline"]


def _lines(count: int) -> str:
    return f"{counted(count, 'line')} of code"


def headline(sites: pl.DataFrame) -> str:
    """How much is allocated, and by how many lines: one sentence."""
    used = sites.filter((pl.col("bytes") != 0) | (pl.col("calls") != 0))
    total, calls = int(used["bytes"].sum() or 0), int(used["calls"].sum() or 0)
    have = agreeing(len(used), "has", "have")
    return (
        f"{_lines(len(used))} of {len(sites)} {have} {bytes_text(total)} allocated, "
        f"in {counted(calls, 'allocation')}"
    )


def findings_of(sites: Table, sums: Table, *, complete: bool, page_size: int) -> list[Finding]:
    """All that is worth saying.

    :param complete: Whether all could be read: otherwise nothing is said of what was not found.
    """
    findings = list(_tags(sums))
    if complete:
        findings += _not_found(sites.frame, page_size)
    return findings


def _tags(sums: Table) -> Iterator[Finding]:
    """References that lead nowhere, or should be gone."""
    for part, key, words in (
        (
            "unknown tag",
            "alloc-tags-unknown",
            "refer to no tag of this kernel: of an unloaded module, or garbage",
        ),
        ("unknown object tag", "alloc-tags-unknown", "(slab objects) refer to no tag of this kernel"),
        ("stale", "alloc-tags-stale", "are free and still refer to the line that allocated them"),
    ):
        rows = sums.frame.filter(pl.col("part") == part)
        if len(rows):
            number = int(rows["count"][0])
            amount = counted(number, "object" if "object" in part else "page")
            if number == 1:
                words = words.replace("refer ", "refers ").replace("objects", "object")  # noqa: PLW2901
                words = words.replace("are free", "is free").replace("allocated them", "allocated it")  # noqa: PLW2901
            yield Finding(key, Severity.WARNING, f"{amount} {words}.", sums.name, f"part = '{part}'")


def _not_found(sites: pl.DataFrame, page_size: int) -> Iterator[Finding]:
    """Lines that count what is nowhere, or less than there is."""
    # Up to 6.12 the migration of a folio takes from the line that allocated its target the number of its
    # pages, where it should take their bytes (pgalloc_tag_copy()).
    migrated = (pl.col("not_found") > 0) & (pl.col("not_found") % (page_size - 1) == 0)
    migrated = migrated & (pl.col("not_found") == pl.col("bytes")) & (pl.col("calls") == 0)
    for key, severity, condition, where, words in (
        (
            "alloc-tags-migrated",
            Severity.NOTE,
            migrated,
            "calls = 0 AND bytes > 0",
            "{count} {size} that {they} not have: this kernel miscounts pages that are migrated",
        ),
        (
            "alloc-tags-not-found",
            Severity.NOTE,
            (pl.col("not_found") > 0) & ~migrated,
            "not_found > 0",
            "{count} {size} that was not found in pages, slab objects or per-CPU areas",
        ),
        (
            "alloc-tags-uncounted",
            Severity.WARNING,
            pl.col("not_found") < 0,
            "not_found < 0",
            "{count} {size} less than memory that refers to {them}",
        ),
    ):
        rows = sites.filter(condition).sort(pl.col("not_found").abs(), descending=True)
        if len(rows):
            total = abs(int(rows["not_found"].sum()))
            first = rows.row(0, named=True)
            one = len(rows) == 1
            words = words.format(  # noqa: PLW2901
                size=bytes_text(total),
                count="counts" if one else "count",
                they="it does" if one else "they do",
                them="it" if one else "them",
            )
            yield Finding(
                key,
                severity,
                f"{_lines(len(rows))} {words}; first "
                f"{first['file']}:{first['line']} {first['function']} "
                f"({bytes_text(abs(first['not_found']))}).",
                "sites",
                where,
            )
