"""``mmdump alloc-tags``: what each line of code has allocated, and where that is found in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Columns, Parts, option
from mmdump.errors import MmdumpError
from mmdump.result import Result
from mmdump_alloc_tags.areas import read_areas
from mmdump_alloc_tags.findings import findings_of, headline
from mmdump_alloc_tags.slabs import SlabReader, read_slab_reader
from mmdump_alloc_tags.state import ALLOC_TAGGING, OFF, TagRefs, is_profiling, read_tag_refs, why_no_profiling
from mmdump_alloc_tags.tables import MODULES, SITES, SUMS, Filter, module_table, site_table, sum_table
from mmdump_alloc_tags.tags import INACCURATE, NONE, AllocTags, read_tags
from mmdump_page_owner.record import PAGE_OWNER, Owners, read_owners

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64
    from mmdump.kernel.page import PageRange

__all__ = ["AllocTagsAnalysis"]


@dataclass(frozen=True)
class State:
    """What the scan needs: plain data, but for ``slabs``, which only a batch asks.

    :param owners: Where page_owner is on: it knows the order of allocations that are no compound pages.
    """

    tags: AllocTags
    refs: TagRefs
    owners: Owners | None
    slabs: SlabReader | None

    def __getstate__(self) -> dict[str, Any]:
        """Without what leads to the dump."""
        return self.__dict__ | {"slabs": None}


@dataclass(frozen=True)
class AllocTagsAnalysis(Analysis):
    """Allocations by the line of code that made them, counted by the kernel and found in memory."""

    name = "alloc-tags"
    tables = (SITES, MODULES, SUMS)
    summary = "memory by the line of code that allocated it (memory allocation profiling)"
    page_ext = (ALLOC_TAGGING.name, PAGE_OWNER.name)

    file: tuple[str, ...] = option(
        "--file", "only lines in files of such a name", default=(), metavar="GLOBS"
    )
    function: tuple[str, ...] = option(
        "--function", "only lines in functions of such a name", default=(), metavar="GLOBS"
    )
    module: tuple[str, ...] = option(
        "--module", "only lines of these modules (vmlinux: of the kernel itself)", default=(),
        metavar="GLOBS",
    )  # fmt: skip
    all: bool = option("--all", "also lines that have nothing allocated", default=False)
    no_slab: bool = option(
        "--no-slab", "do not look at slab objects: where the kernel counts them is not checked", default=False
    )

    def why_not(self, kernel: Kernel) -> str | None:
        """Not built in, or off and nothing was ever counted."""
        reason = why_no_profiling(kernel)
        if reason != OFF:
            return reason
        try:
            # It may have been switched off since.
            tags = read_tags(kernel)
        except MmdumpError:
            return reason
        return None if tags.calls.any() or tags.bytes.any() else reason

    def start(self, kernel: Kernel) -> State:
        """Read the tags and their counters."""
        tags = read_tags(kernel)
        return State(
            tags,
            read_tag_refs(kernel, tags),
            read_owners(kernel),
            None if self.no_slab else read_slab_reader(kernel),
        )

    def scan(self, pages: PageRange, state: State) -> Mapping[str, Columns]:
        """Pages by tag, pages that have none, and slabs."""
        found = state.refs.of_pages(pages)
        heads = np.flatnonzero(pages.is_type("slab") & ~pages.is_tail)
        slabs = {"pfn": heads + pages.start, "order": pages.folio_order[heads].astype(np.int64)}
        if found is None:
            return {"slabs": slabs}
        tagged = np.flatnonzero(found != NONE)
        stale = pages.in_free_block[tagged]
        count = np.left_shift(1, _orders(pages, tagged, state.owners))
        rows = {
            "tag": found[tagged],
            "stale": stale,
            "allocations": np.ones(len(tagged), np.int64),
            "pages": count,
        }
        # What is in use, and refers to no line: allocated before profiling was ready, or out of its sight.
        used = (pages.refcount > 0) & ~pages.is_tail & ~pages.has_flag("PG_reserved") & (found == NONE)
        untagged = np.flatnonzero(used & pages.initialised & ~pages.in_free_block)
        size = np.left_shift(1, pages.folio_order[untagged].astype(np.int64))
        return {
            "slabs": slabs,
            "pages": _summed(rows),
            "untagged": {"pages": np.array([size.sum()], np.int64)},
        }

    def batch(self, rows: Parts, state: State) -> Parts:
        """Look at the objects of slabs."""
        kept = {name: frame for name, frame in rows.items() if name != "slabs"}
        slabs = rows.get("slabs")
        if slabs is None or state.slabs is None or not len(slabs):
            return kept
        objects = state.slabs.read(slabs["pfn"].to_numpy(), slabs["order"].to_numpy())
        tag = state.refs.numbers(objects.reference)
        frame = pl.DataFrame({"tag": tag, "objects": np.ones(len(tag), np.int64), "size": objects.size})
        lost = pl.DataFrame({"slabs": [len(slabs)], "lost": [objects.lost]})
        return kept | {"objects": self.fold("objects", frame), "lost": lost}

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum by tag."""
        by = {"pages": ("tag", "stale"), "objects": ("tag",)}.get(part, ())
        return frame.group_by(*by).agg(pl.all().sum()) if by else frame.sum()

    def finish(self, kernel: Kernel, state: State, parts: Parts) -> Result:
        """The lines by what they have allocated."""
        tags, size = state.tags, kernel.target.page_size
        areas = read_areas(kernel)
        pages = parts.get("pages")
        objects = parts.get("objects") if state.slabs is not None else None
        sites = site_table(
            tags,
            pages,
            _NO_OBJECTS if objects is None and state.slabs is not None else objects,
            state.refs.numbers(areas.reference),
            areas,
            page_size=size,
        )
        sums = sum_table(sites.frame, pages, parts.get("untagged"), objects, size)
        wanted = Filter(self.file, self.function, self.module, everything=self.all)
        shown = replace(sites, frame=wanted.of(sites.frame))
        modules = module_table(shown.frame)
        incomplete = list(tags.incomplete)
        lost = int(parts["lost"]["lost"].sum()) if "lost" in parts else 0
        if lost:
            incomplete.append(f"the objects of {lost} slabs could not be looked at")
        if areas.lost:
            incomplete.append(f"{areas.lost} chunks of per-CPU areas could not be looked at")
        live = kernel.target.live
        return Result(
            self.name,
            summary=[headline(sites.frame)],
            tables={table.name: table for table in (shown, modules, sums)},
            primary=shown.name,
            text_tables=[sums.name, shown.name],
            findings=[] if live else findings_of(sites, sums, complete=not incomplete, page_size=size),
            notes=list(_notes(kernel, state)),
            incomplete=incomplete,
        )


def _notes(kernel: Kernel, state: State) -> Iterator[str]:
    """What the reader must know to read the answer right."""
    if not is_profiling(kernel):
        yield "Profiling was switched off since: counters stand still, and nothing is looked for in memory."
    elif state.refs.shift < 0 and not kernel.page_ext.enabled(ALLOC_TAGGING.name):
        yield "Pages refer to no lines: page_ext of this kernel has no room for it, or is garbage."
    elif state.owners is None:
        yield (
            "Without page_owner, an allocation of several pages that is no compound page counts as one page; "
            "the others are among what was not found."
        )
    inaccurate = int(((state.tags.flags & INACCURATE) != 0).sum())
    if inaccurate:
        yield f"The kernel says of {inaccurate} lines that their counts are not exact (column accurate)."


_NO_OBJECTS = pl.DataFrame(schema={"tag": pl.Int64, "objects": pl.Int64, "size": pl.Int64})


def _orders(pages: PageRange, rows: I64, owners: Owners | None) -> I64:
    """The orders of allocations, by their first pages.

    That of a compound page is its own. Others are known to page_owner alone; without it they count as one
    page each, as nothing in memory says how many there are.
    """
    order = pages.folio_order[rows].astype(np.int64)
    if owners is None or pages.ext is None:
        return order
    plain = np.flatnonzero(~pages.is_head[rows] & owners.allocated(pages)[rows])
    known = pages.ext[PAGE_OWNER.name].rows(rows[plain])["order"].astype(np.int64)
    order[plain] = np.where(known <= owners.max_order, known, 0)
    return order


def _summed(rows: dict[str, np.ndarray]) -> Columns:
    """Sums of the rows by tag, so that a range has no more of them than there are tags."""
    key = rows["tag"] * 2 + rows["stale"]
    distinct, place = np.unique(key, return_inverse=True)
    place = place.reshape(-1)
    sums = {
        name: np.bincount(place, rows[name], len(distinct)).astype(np.int64)
        for name in ("allocations", "pages")
    }
    return {"tag": distinct >> 1, "stale": (distinct & 1).astype(bool), **sums}
