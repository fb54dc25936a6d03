"""``mmdump holders``: where in memory the references to pages are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Columns, Parts, argument, option
from mmdump.errors import UsageError
from mmdump.pagenotes import AskedPages
from mmdump.pagewords import find_page
from mmdump.result import Result
from mmdump_holders.balance import BALANCE, SOUGHT, sought_columns
from mmdump_holders.casework import Answer, Forms, find_holders
from mmdump_holders.ranges import Own, joined_runs, left_out, read_own, runs_of
from mmdump_holders.tables import HELD_BY, HOLDERS, report
from mmdump_page_owner.stacks import STACKS

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.references import FolioBatches
    from mmdump_holders.tables import Report

__all__ = ["Holders", "Sought", "search_parts", "start_search", "tell"]

#: Folios that are sought at once.
_MAX_FOLIOS = 1 << 20


@dataclass(frozen=True)
class Sought:
    """What a scan needs to prepare a search. Plain data.

    :param heads: PFNs of the folios that are sought, ascending, int64; None where the scan itself finds them.
    """

    own: Own
    batches: FolioBatches
    heads: I64 | None = None
    users: bool = False
    free: bool = False


def start_search(
    kernel: Kernel, heads: I64 | None = None, *, users: bool = False, free: bool = False
) -> Sought:
    """What the scan of an analysis that will search for holders needs."""
    return Sought(read_own(kernel), kernel.folio_batches, heads, users, free)


def search_parts(pages: PageRange, sought: Sought, heads: I64 | None = None) -> Mapping[str, Columns]:
    """Of a range of pages, the memory to search (part ``memory``) and folios that are sought (``sought``).

    :param heads: Rows of the folios' heads; None for those of ``sought``.
    """
    parts: dict[str, Columns] = {
        "memory": runs_of(pages, left_out(pages, sought.own, users=sought.users, free=sought.free))
    }
    if heads is None and sought.heads is not None:
        low, high = np.searchsorted(sought.heads, [pages.start, pages.end]).tolist()
        heads = sought.heads[low:high] - pages.start
    if heads is not None and len(heads):
        parts["sought"] = sought_columns(pages, heads, sought.batches)
    return parts


def tell(kernel: Kernel, sought: Sought, parts: Parts, forms: Forms | None = None) -> Report:
    """Search for the folios that the scan found, and say what holds them."""
    folios = parts["sought"].sort("pfn") if "sought" in parts else _no_folios()
    runs = joined_runs(parts["memory"]) if "memory" in parts else pl.DataFrame({"start": [], "pages": []})
    cut = len(folios) - _MAX_FOLIOS
    folios = folios.head(_MAX_FOLIOS)
    pages = np.left_shift(1, folios["order"].to_numpy())
    if len(folios):
        answer = find_holders(kernel, folios["pfn"].to_numpy(), pages, runs, forms, kernel.progress)
    else:
        from mmdump_holders.search import Searched

        answer = Answer((), Searched(), 0)
    found = report(kernel, folios, answer, sought.own)
    if cut > 0:
        found.incomplete.append(f"{cut} folios beyond the first {_MAX_FOLIOS} were not searched for")
    return found


def _no_folios() -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(SOUGHT, pl.Int64()))


@dataclass(frozen=True)
class Holders(Analysis):
    """Who holds pages: where in memory their addresses stand, and what those places belong to.

    A page is named as for `mmdump page`: a bare number is a PFN; phys:0x... is a physical address; an address
    in the kernel's half is a struct page or what the kernel maps there.
    """

    name = "holders"
    tables = (HOLDERS, HELD_BY, BALANCE, STACKS)
    summary = "who holds pages: where in memory the references are"
    in_report = False

    pages: tuple[str, ...] = argument("PFN|ADDRESS...", "the pages")
    phys: bool = option("--phys", "search for addresses of the pages' memory too", default=False)
    pfn_values: bool = option("--pfn-values", "search for their PFNs as numbers too", default=False)
    everywhere: bool = option(
        "--everywhere", "search free memory and the data of processes and files too", default=False
    )

    def start(self, kernel: Kernel) -> Sought:
        """Find out which folios are meant, and where the page array lies."""
        if not self.pages:
            raise UsageError("no page was named", "Such as: mmdump holders VMCORE 0x1be00")
        asked = AskedPages(kernel, [find_page(kernel, word).pfn for word in self.pages])
        heads = np.concatenate([pages.head_pfn[rows] for pages, rows in asked.ranges()])
        return start_search(kernel, np.unique(heads), users=self.everywhere, free=self.everywhere)

    def scan(self, pages: PageRange, state: Sought) -> Mapping[str, Columns]:
        """The memory to search, and the folios that are meant."""
        return search_parts(pages, state)

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Join runs of memory."""
        return joined_runs(frame) if part == "memory" else frame

    def finish(self, kernel: Kernel, state: Sought, parts: Parts) -> Result:
        """Search."""
        found = tell(kernel, state, parts, Forms(self.phys, self.pfn_values))
        return Result(
            self.name,
            summary=[found.summary],
            tables=found.tables,
            primary="holders",
            text_tables=["holders", "balance"],
            findings=found.findings,
            notes=found.notes,
            incomplete=found.incomplete,
        )
