"""``mmdump pages``: the page array as rows. What a column costs is paid only by those who ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.amounts import counted
from mmdump.analysis import Analysis, Columns, Parts
from mmdump.result import Result
from mmdump_page_owner.record import no_owners, read_owners, why_no_owner
from mmdump_page_pinner.marks import CLIENTS, why_no_marks
from mmdump_pages.columns import ALWAYS, CODED, DTYPES, EXT_COLUMNS, OWNER_NAMES, PAGES, READ, State

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["Pages"]


@dataclass(frozen=True)
class Pages(Analysis):
    """The page array as rows, one for each page, with the columns asked for.

    Choose with --columns and --where; only the columns that are shown or asked about are read.

    :param wanted: The columns that are wanted; others are null.
    """

    name = "pages"
    summary = "the page array as rows, with the columns asked for"
    page_ext = ("page_owner", *(client.name for client in CLIENTS))
    stream = PAGES
    in_report = False

    wanted: frozenset[str] = frozenset(PAGES.names)

    def only(self, columns: frozenset[str]) -> Analysis:
        """The same with fewer columns, and without page_ext where none needs it."""
        chosen = self.wanted & columns
        return replace(self, wanted=chosen) if chosen & EXT_COLUMNS else PagesWithoutExt(chosen)

    def start(self, kernel: Kernel) -> tuple[State, tuple[str, ...]]:
        """Read the names that the wanted columns need, and the names of page types."""
        wanted = self.wanted
        zones = {each.index: each.name for each in kernel.zones} if "zone" in wanted else {}
        state = State(
            vmemmap=kernel.memmap.vmemmap,
            page_shift=kernel.target.page_shift,
            zone_names=tuple(zones.get(index, f"zone{index}") for index in range(256)),
            migratetypes=kernel.pageblocks.names if "migratetype" in wanted else (),
            areas=tuple(kernel.cma_areas) if "cma_area" in wanted else (),
            flag_names=kernel.page_flag_names if "flags" in wanted else None,
            batches=kernel.folio_batches if wanted & {"pincount", "explained", "excess"} else None,
            owners=read_owners(kernel) if wanted & set(OWNER_NAMES) else None,
        )
        types = sorted({*kernel.page_layout.types, "slab", "hugetlb"} - {"mapcount_underflow"})
        return state, tuple(types)

    def scan(self, pages: PageRange, state: tuple[State, tuple[str, ...]]) -> Mapping[str, Columns]:
        """The wanted columns of all pages, as codes where they have names."""
        known = state[0]
        columns = {name: read(pages, known) for name, read in READ.items() if name in self.wanted}
        if self.wanted & set(OWNER_NAMES) and known.owners is not None:
            columns |= known.owners.columns(pages, np.arange(len(pages)))
        return {"pages": {**columns, "readable": pages.readable}}

    def batch(self, rows: Parts, state: tuple[State, tuple[str, ...]]) -> Parts:
        """Names for codes, and null where nothing is known."""
        known, types = state
        frame = rows["pages"]
        owners = None
        if self.wanted & set(OWNER_NAMES):
            owners = no_owners(len(frame)) if known.owners is None else known.owners.decode(frame)
        columns = [self._column(frame, name, known, types, owners) for name in PAGES.names]
        made = pl.DataFrame(columns)
        if not frame["readable"].all():
            others = [name for name in PAGES.names if name in self.wanted and name not in ALWAYS]
            made = made.with_columns(
                pl.when(frame["readable"]).then(pl.col(name)).otherwise(None).alias(name) for name in others
            )
        return {"pages": made}

    def _column(
        self,
        frame: pl.DataFrame,
        name: str,
        state: State,
        types: tuple[str, ...],
        owners: pl.DataFrame | None,
    ) -> pl.Series:
        dtype = DTYPES[name]
        if name not in self.wanted:
            return pl.Series(name, [None], dtype=dtype).new_from_index(0, len(frame))
        if name in OWNER_NAMES:
            assert owners is not None
            return owners[name].cast(dtype)
        values = frame[name]
        if name == "flags":
            assert state.flag_names is not None
            return state.flag_names.series(values).alias(name)
        if name == "page_type":
            return pl.Series([*types, None], dtype=pl.String).gather(values).alias(name)
        if name in CODED:
            return pl.Series(CODED[name](state), dtype=pl.String).gather(values).alias(name)
        if name in ("order", "buddy_order"):
            return frame.select(pl.when(pl.col(name) >= 0).then(pl.col(name)).alias(name))[name].cast(dtype)
        return values.cast(dtype)

    def finish(self, kernel: Kernel, state: object, parts: Parts) -> Result:  # noqa: ARG002
        """How many pages there are; the rows have gone already."""
        pages = kernel.memmap.pages
        notes = []
        for lacking, columns, why in (
            ("owners", set(OWNER_NAMES), why_no_owner),
            ("marks", {"page_pinner"}, why_no_marks),
        ):
            reason = why(kernel) if self.wanted & columns else None
            if reason is not None:
                notes.append(f"No {lacking}: {reason}.")
        return Result(
            self.name,
            summary=[counted(pages, "page")],
            primary=PAGES.name,
            text_tables=[PAGES.name],
            notes=notes,
        )


@dataclass(frozen=True)
class PagesWithoutExt(Pages):
    """The same where no wanted column needs page_ext: it is not even read."""

    page_ext = ()
