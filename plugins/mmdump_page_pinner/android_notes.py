"""What Android's page pinner recorded of single pages, for ``mmdump page``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.stackdepot import StackStatus
from mmdump.pagenotes import Fact
from mmdump.result import Kind
from mmdump_page_pinner.android import decode_records, record_columns
from mmdump_page_pinner.marks import GET

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange
    from mmdump_page_pinner.events import Recorded

__all__ = ["event_facts", "record_facts"]

#: Of what happened to a page, so much is told, the newest first.
_MAX_EVENTS = 8


def record_facts(kernel: Kernel, pages: PageRange, row: int) -> list[Fact]:
    """The page's own record; none where this kernel keeps none, or nothing was recorded."""
    depot = kernel.stack_depot
    mask = depot.layout.mask if depot is not None else 0xFFFFFFFF
    rows = np.array([row], np.int64)
    columns = record_columns(pages, rows, mask)
    if not columns:
        return []
    time, gets, handle = (each[0] for each in decode_records(pl.DataFrame(columns)))
    assert pages.ext is not None
    knows_gets = GET in pages.ext.layout.flags
    facts = []
    if knows_gets:
        words = "yes, and not given back by put_user_page()" if pages.ext.has_flag(GET, at=rows)[0] else "no"
        facts.append(Fact("got by get_user_pages()", words))
    if time is not None:
        facts.append(Fact("last got at" if knows_gets else "first failed to migrate at", time, Kind.NSEC))
    if gets is not None:
        facts.append(Fact("gets since it was free", gets, Kind.COUNT))
    if handle is not None:
        facts.append(Fact(f"last got by (stack {handle})", _frames(kernel, handle)))
    return facts


def _frames(kernel: Kernel, handle: int) -> list[str] | str:
    depot = kernel.stack_depot
    stack = depot.stack(handle) if depot is not None else None
    if stack is None or stack.status is not StackStatus.OK:
        return "no call chain"
    return [kernel.symbols.text(address) for address in stack.frames]


def event_facts(kernel: Kernel, recorded: Recorded | None, pfn: int) -> list[Fact]:
    """What the rings say of a page, the newest first."""
    if recorded is None:
        return []
    mine = recorded.events.filter(pl.col("pfn") == pfn)
    facts = []
    for event in mine.head(_MAX_EVENTS).iter_rows(named=True):
        what = event["state"] or "failure, put or free"
        if event["time_nsec"] is not None:
            what += f" at {event['time_nsec'] / 1e9:.6f} s"
        if event["elapsed_nsec"] is not None:
            what += f" after {event['elapsed_nsec'] / 1e9:.6f} s"
        if event["count"] is not None:
            what += f", count {event['count']}"
        handle = event["stack_id"]
        facts.append(Fact(what, _frames(kernel, handle) if handle is not None else "no call chain"))
    if len(mine) > _MAX_EVENTS:
        facts.append(Fact("earlier events", len(mine) - _MAX_EVENTS, Kind.COUNT))
    return facts
