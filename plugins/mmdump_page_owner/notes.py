"""Who allocated and freed single pages, for ``mmdump page``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from drgn import FaultError

from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import c_string, find_object
from mmdump.kernel.stackdepot import StackStatus
from mmdump.pagenotes import AskedPages, Fact, Section
from mmdump.result import Kind
from mmdump.target.reader import ReadStatus
from mmdump_page_owner.record import on_every_page, read_owners, why_no_owner

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange
    from mmdump_page_owner.record import Owners

__all__ = ["owner_notes"]

_RANK = 30


def owner_notes(kernel: Kernel, asked: AskedPages) -> dict[int, Sequence[Section]]:
    """The allocation that each page belongs to, or the last one, and who freed that."""
    owners = read_owners(kernel)
    if owners is None:
        reason = [Section("owner", [Fact("no record", why_no_owner(kernel))], _RANK)]
        return dict.fromkeys(asked.pfns, reason)
    found: dict[int, Sequence[Section]] = {}
    for pages, rows in asked.ranges():
        for row in rows.tolist():
            found[pages.start + row] = [Section("owner", _facts(kernel, owners, pages, row), _RANK)]
    return found


def _facts(kernel: Kernel, owners: Owners, pages: PageRange, row: int) -> list[Fact]:
    assert pages.ext is not None
    every = on_every_page(pages.ext["page_owner"].names)
    if not every:
        # Up to 5.3 only the first page of an allocation has a record.
        row = int(pages.head_rows(at=np.array([row]))[0])
    if pages.ext.status[row] != ReadStatus.READ:
        return [Fact("no record", "its page_ext entry is not in the dump")]
    record = pages.ext["page_owner"].rows(np.array([row], np.int64))[0]
    if not record["handle"] or not pages.ext.has_flag("PAGE_EXT_OWNER")[row]:
        return [Fact("no record", "the page was never allocated since page_owner was ready")]
    names = record.dtype.names or ()
    allocated = bool(owners.allocated(pages)[row])
    order = int(record["order"])
    facts = [Fact("state", "allocated" if allocated else "freed; this was its last allocation")]
    if order > owners.max_order:
        facts.append(Fact("garbage", f"the record has order {order}, which no allocation has"))
    facts += [
        Fact("order", order, Kind.ID),
        Fact("gfp_mask", int(record["gfp_mask"]), Kind.BITS),
        Fact("gfp flags", "|".join(owners.gfp_names.split(int(record["gfp_mask"]))) or "none"),
    ]
    facts += [Fact(name, int(record[name]), Kind.ID) for name in ("pid", "tgid") if name in names]
    if "comm" in names:
        facts.append(Fact("comm", printable(bytes(record["comm"]).split(b"\0", 1)[0])))
    if "ts_nsec" in names:
        facts.append(Fact("allocated at", int(record["ts_nsec"]), Kind.NSEC))
    facts += _stack(kernel, owners, "allocated by", int(record["handle"]))
    reason = int(record["last_migrate_reason"])
    if reason != -1:
        facts += _migrated(kernel, reason)
    if "free_handle" in names and record["free_handle"]:
        facts += _freed(kernel, owners, record, "freed" if not allocated else "last freed")
    return facts


def _freed(kernel: Kernel, owners: Owners, record: Any, words: str) -> list[Fact]:
    names = record.dtype.names or ()
    facts = []
    if record["free_ts_nsec"] if "free_ts_nsec" in names else False:
        facts.append(Fact(f"{words} at", int(record["free_ts_nsec"]), Kind.NSEC))
    # 6.8.
    facts += [
        Fact(f"{words}: {name.removeprefix('free_')}", int(record[name]), Kind.ID)
        for name in ("free_pid", "free_tgid")
        if name in names
    ]
    return [*facts, *_stack(kernel, owners, f"{words} by", int(record["free_handle"]))]


def _stack(kernel: Kernel, owners: Owners, label: str, handle: int) -> list[Fact]:
    depot = kernel.stack_depot
    if depot is None:
        return []
    # As the tables have it, so that one is found by the other.
    number = handle & owners.handle_mask
    stack = depot.stack(number)
    if stack.status is not StackStatus.OK:
        return [Fact(label, f"stack {number}: {stack.status.value}")]
    frames = [kernel.symbols.text(address) for address in stack.frames]
    return [Fact(f"{label} (stack {number})", frames)]


def _migrated(kernel: Kernel, reason: int) -> list[Fact]:
    """The reason by ``migrate_reason_names``; 7.3 has MR_NEVER in place of -1."""
    prog = kernel.target.prog
    never = find_object(prog, "MR_NEVER")
    if never is not None and reason == never.value_():
        return []
    names = find_object(prog, "migrate_reason_names")
    try:
        if names is not None and 0 <= reason < (names.type_.length or 0):
            return [Fact("migrated for", c_string(names[reason]))]
    except FaultError:
        pass
    return [Fact("migrated for", f"reason {reason}")]
