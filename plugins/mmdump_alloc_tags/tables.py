"""The tables of ``mmdump alloc-tags``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.arrays import printable
from mmdump.result import Column, Kind, Schema, Table
from mmdump_alloc_tags.tags import EMPTY, INACCURATE, UNKNOWN, AllocTags

if TYPE_CHECKING:
    from mmdump.kernel.arrays import I64
    from mmdump_alloc_tags.areas import Areas

__all__ = ["MODULES", "SITES", "SUMS", "Filter", "module_table", "site_table", "sum_table"]

SITES = Schema(
    "sites",
    (
        Column("bytes", Kind.BYTES, "allocated and not freed, as the kernel counts (/proc/allocinfo)"),
        Column("calls", Kind.COUNT, "allocations of that"),
        Column("pages", Kind.COUNT, "pages that refer to this line, with those of the same allocation"),
        Column("objects", Kind.COUNT, "slab objects that refer to it"),
        Column("object_bytes", Kind.BYTES, "their size", in_text=False),
        Column("percpu_bytes", Kind.BYTES, "what its per-CPU areas count as", in_text=False),
        Column("not_found", Kind.BYTES, "counted by the kernel, and found in none of these"),
        Column("accurate", Kind.BOOL, "whether the kernel takes its count for exact", in_text=False),
        Column("file", description="source file"),
        Column("line", Kind.ID, "line of it"),
        Column("function", description="function"),
        Column("module", description="module; absent for the kernel itself"),
        Column("tag", Kind.ADDRESS, "address of its struct alloc_tag", in_text=False),
    ),
    "Lines of code that allocate",
)

MODULES = Schema(
    "modules",
    (
        Column("module", description="module; absent for the kernel itself"),
        Column("sites", Kind.COUNT, "lines of it that have something allocated"),
        Column("bytes", Kind.BYTES, "allocated and not freed, as the kernel counts"),
        Column("calls", Kind.COUNT, "allocations of that"),
    ),
    "Modules",
)

SUMS = Schema(
    "sums",
    (
        Column("part", description="what"),
        Column("count", Kind.COUNT, "how many"),
        Column("size", Kind.BYTES, "their size"),
        Column("meaning", description="what that is"),
    ),
    "Sums",
)


def site_table(
    tags: AllocTags,
    pages: pl.DataFrame | None,
    objects: pl.DataFrame | None,
    area_tags: I64,
    areas: Areas,
    *,
    page_size: int,
) -> Table:
    """One row for each line of code, those with the most bytes first.

    :param pages: Sums by ``tag`` and ``stale``; None where pages refer to no tags.
    :param objects: Sums by ``tag``; None where they were not looked at.
    :param area_tags: The tag of each per-CPU area.
    """
    count = len(tags)
    found = np.zeros(count, np.int64)
    used = None if pages is None else pages.filter(~pl.col("stale"))
    page_count = _by_tag(used, "pages", count)
    object_count, object_bytes = (_by_tag(objects, name, count) for name in ("objects", "size"))
    known = area_tags >= 0
    for each in (page_count * page_size if page_count is not None else None, object_bytes):
        if each is not None:
            found += each
    percpu = _area_bytes(tags, found, area_tags[known], areas.size[known], areas.full[known])
    whole = tags.counted & (page_count is not None) & (object_count is not None)
    frame = pl.DataFrame(
        {
            "bytes": _where(tags.bytes, tags.counted),
            "calls": _where(tags.calls.astype(np.int64), tags.counted),
            "pages": pl.Series(page_count, dtype=pl.Int64) if page_count is not None else [None] * count,
            "objects": pl.Series(object_count, dtype=pl.Int64)
            if object_count is not None
            else [None] * count,
            "object_bytes": object_bytes if object_bytes is not None else [None] * count,
            "percpu_bytes": percpu,
            "not_found": _where(tags.bytes - found - percpu, whole),
            "accurate": (tags.flags & INACCURATE) == 0,
            "file": _texts(tags.filename),
            "line": tags.lineno.astype(np.int64),
            "function": _texts(tags.function),
            "module": _texts(tags.modname),
            "tag": tags.address,
        },
        schema_overrides={name: pl.Int64() for name in ("pages", "objects", "object_bytes")},
    )
    by = ["bytes", "calls", "file", "line"]
    return Table(
        SITES, frame.sort(by, descending=[True, True, False, False], nulls_last=True, maintain_order=True)
    )


def _where(values: np.ndarray, known: np.ndarray) -> pl.Series:
    return pl.Series(values).set(pl.Series(~known), None)


def _by_tag(sums: pl.DataFrame | None, name: str, count: int) -> I64 | None:
    """A column of sums as one value for each tag."""
    if sums is None:
        return None
    tag = sums["tag"].to_numpy()
    values = np.zeros(count, np.int64)
    np.add.at(values, tag[tag >= 0], sums[name].to_numpy()[tag >= 0])
    return values


def _area_bytes(tags: AllocTags, found: I64, tag: I64, size: I64, full: I64) -> I64:
    """What the per-CPU areas of each tag count as.

    Kernels differ in that and nothing tells: one CPU's copy, or all copies with what remembers their
    cgroups. What fits more of the lines that have such areas is taken.
    """
    one, all_copies = (np.zeros(len(tags), np.int64) for _ in range(2))
    np.add.at(one, tag, size)
    np.add.at(all_copies, tag, full)
    rows = np.unique(tag)
    rest = (tags.bytes - found)[rows]
    return all_copies if (rest == all_copies[rows]).sum() >= (rest == one[rows]).sum() else one


def _texts(texts: Iterable[bytes | None]) -> pl.Series:
    known: dict[bytes, str] = {}
    return pl.Series(
        [None if each is None else known.setdefault(each, printable(each)) for each in texts],
        dtype=pl.String,
    )


def module_table(sites: pl.DataFrame) -> Table:
    """Sums by module, of the lines that are shown."""
    used = sites.filter((pl.col("bytes") != 0) | (pl.col("calls") != 0))
    frame = used.group_by("module").agg(
        pl.len().cast(pl.Int64).alias("sites"), pl.col("bytes").sum(), pl.col("calls").sum()
    )
    return Table(MODULES, frame.sort("bytes", "module", descending=[True, False]).select(MODULES.names))


def sum_table(
    sites: pl.DataFrame,
    pages: pl.DataFrame | None,
    untagged: pl.DataFrame | None,
    objects: pl.DataFrame | None,
    page_size: int,
) -> Table:
    """What the kernel counts, and what was found of it."""
    rows: list[tuple[str, int, int, str]] = [
        ("counted", _sum(sites, "calls"), _sum(sites, "bytes"), "allocations as the kernel counts them")
    ]
    if pages is not None:
        used = pages.filter(~pl.col("stale") & (pl.col("tag") >= 0))
        rows.append(_pages_row("pages", used, page_size, "pages that refer to a line"))
    if objects is not None:
        known = objects.filter(pl.col("tag") >= 0)
        rows.append(("objects", _sum(known, "objects"), _sum(known, "size"), "slab objects that do"))
    percpu = sites.filter(pl.col("percpu_bytes") > 0)
    if len(percpu):
        rows.append(("percpu", len(percpu), _sum(percpu, "percpu_bytes"), "lines with per-CPU areas"))
    missing = sites.filter(pl.col("not_found") != 0)
    if len(missing):
        rows.append(
            ("not found", len(missing), _sum(missing, "not_found"), "lines that count what was not found")
        )
    if untagged is not None and int(untagged["pages"].sum()):
        count = int(untagged["pages"].sum())
        rows.append(("without a tag", count, count * page_size, "pages in use that refer to no line"))
    if pages is not None:
        for name, part, meaning in (
            ("unknown tag", pl.col("tag") == UNKNOWN, "pages whose reference is no tag of this kernel"),
            ("exempt", pl.col("tag") == EMPTY, "pages that are meant to have no tag (CODETAG_EMPTY)"),
            ("stale", pl.col("stale"), "free pages that still refer to a line"),
        ):
            some = pages.filter(part)
            if len(some):
                rows.append(_pages_row(name, some, page_size, meaning))
    if objects is not None:
        unknown = objects.filter(pl.col("tag") == UNKNOWN)
        if len(unknown):
            rows.append(
                (
                    "unknown object tag",
                    _sum(unknown, "objects"),
                    _sum(unknown, "size"),
                    "slab objects whose reference is no tag",
                )
            )
    return Table(SUMS, pl.DataFrame(rows, schema=list(SUMS.names), orient="row"))


def _pages_row(name: str, pages: pl.DataFrame, page_size: int, meaning: str) -> tuple[str, int, int, str]:
    count = _sum(pages, "pages")
    return name, count, count * page_size, meaning


def _sum(frame: pl.DataFrame, column: str) -> int:
    return int(frame[column].sum() or 0)


@dataclass(frozen=True)
class Filter:
    """Which lines are shown. Each of the first three is globs, any of which may match; none means all."""

    files: Sequence[str]
    functions: Sequence[str]
    modules: Sequence[str]
    everything: bool

    def of(self, sites: pl.DataFrame) -> pl.DataFrame:
        """The lines of these that are shown."""
        if not self.everything:
            idle = (pl.col("bytes") == 0) & (pl.col("calls") == 0)
            for name in ("pages", "objects"):
                idle = idle & (pl.col(name).fill_null(0) == 0)
            sites = sites.filter(~idle.fill_null(False))
        for name, globs in (("file", self.files), ("function", self.functions), ("module", self.modules)):
            if globs:
                sites = sites.filter(
                    _matches(sites[name].fill_null("vmlinux" if name == "module" else ""), globs)
                )
        return sites


def _matches(texts: pl.Series, globs: Sequence[str]) -> pl.Series:
    patterns = [glob.strip() for each in globs for glob in each.split(",")]
    return pl.Series(
        [any(fnmatchcase(text, glob) for glob in patterns) for text in texts.to_list()], dtype=pl.Boolean
    )
