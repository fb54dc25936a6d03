"""``mmdump reported``: free memory that the hypervisor has back, and free memory that it has not, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.amounts import agreeing, bytes_text
from mmdump.analysis import Analysis, Columns, Need, Parts
from mmdump.kernel.arrays import Struct
from mmdump.kernel.freelists import ListHeads, find_lists, free_blocks
from mmdump.result import Finding, Result, Severity
from mmdump_page_reporting.device import Reporting, has_page_reporting, read_reporting
from mmdump_page_reporting.tables import BLOCKS, DEVICE, ZONES, block_table, device_table, zone_table
from mmdump_page_reporting.why import CODES, REASONS, REPORTED, reasons

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.zonestate import ZoneState

__all__ = ["Reported"]

#: Less than this, or than this share of what is free, left by an idle worker is no finding.
_LEAST_UNREPORTED, _UNREPORTED_SHARE = 64 << 20, 0.1
#: PFNs that a sentence names.
_NAMED = 4
#: PFNs of misplaced bits that are kept of one range.
_KEPT = 16


@dataclass(frozen=True)
class Reported(Analysis):
    """Free memory that was reported to the hypervisor, and what is free but was not, with the reason.

    PG_reported is an alias of PG_uptodate, so that it means "reported" only on the first page of a free block
    (include/linux/page-flags.h); on a page in use it says nothing here.
    """

    name = "reported"
    summary = "free memory reported to the hypervisor, and why other is not"
    report_rank = 70
    tables = (BLOCKS, ZONES, DEVICE)
    needs = (Need(has_page_reporting),)

    def start(self, kernel: Kernel) -> ListHeads:
        """Read the heads of the free lists."""
        return kernel.list_heads

    def scan(self, pages: PageRange, state: ListHeads) -> Mapping[str, Columns]:
        """Free blocks, and pages inside of them that bear the bit."""
        return {"blocks": free_blocks(pages, state), "inside": _inside(pages)}

    def batch(self, rows: Parts, state: ListHeads) -> Parts:  # noqa: ARG002
        """Sum what is wrong. Blocks are kept: which list one is on only all of them together tell."""
        return {"blocks": rows["blocks"], "inside": self.fold("inside", rows["inside"])}

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum the pages with misplaced bits; the first are named."""
        if part != "inside":
            return frame
        return frame.select(pl.col("pages").sum(), pl.col("pfn").min())

    def finish(self, kernel: Kernel, state: ListHeads, parts: Parts) -> Result:
        """Tell for every block whether it was reported, and if not why not."""
        reporting = read_reporting(kernel)
        lists = find_lists(state, parts["blocks"])
        states = {(each.zone.node, each.zone.index): each for each in kernel.zone_states}
        zones = [states.get((zone.node, zone.index)) for zone in state.zones]
        why = reasons(lists, zones, reporting, kernel.pageblocks.isolate)
        page_size = kernel.target.page_size
        blocks = block_table(lists, why, kernel.pageblocks.names, page_size)
        [(misplaced, first)] = parts["inside"].rows()
        findings = _bits_without_device(lists.pfn[lists.reported], reporting)
        findings += _small(lists.pfn, lists.reported & (lists.order < (reporting.order or 0)), reporting)
        findings += _unreported(lists.order, why, page_size)
        if misplaced:
            findings.append(
                Finding(
                    "reported-inside",
                    Severity.PROBLEM,
                    f"{misplaced:,} {agreeing(misplaced, 'page has', 'pages have')} PG_reported "
                    "inside of free blocks or as guards, where it "
                    f"is never set; the first is PFN {first:#x}.",
                )
            )
        return Result(
            self.name,
            summary=[_headline(lists.order, why, page_size), _device(reporting)],
            tables={
                "zones": zone_table(lists, why, zones, reporting, page_size),
                "blocks": blocks,
                "device": device_table(reporting),
            },
            primary=BLOCKS.name,
            text_tables=["zones", "blocks"],
            findings=findings,
            notes=_notes(reporting),
            incomplete=[*reporting.lost, *_unreadable(state, zones)],
        )


def _inside(pages: PageRange) -> dict[str, Struct]:
    """Pages that have PG_reported where nothing sets it: behind the first page of a free block, and guards.

    All flags of a page are cleared when it is freed, and PG_reported when its block leaves its list.

    :return: One row: ``pages``, how many there are, and ``pfn``, the first (int64; the largest number for
        none).
    """
    rows = np.flatnonzero(pages.has_flag("PG_reported"))
    inside = (pages.in_free_block[rows] & ~pages.is_buddy[rows]) | pages.is_type("guard", at=rows)
    rows = rows[inside]
    first = rows[0] + pages.start if len(rows) else np.iinfo(np.int64).max
    return {"pages": np.array([len(rows)], np.int64), "pfn": np.array([first], np.int64)}


def _headline(order: Struct, why: Struct, page_size: int) -> str:
    sizes = np.where(order < 64, np.left_shift(np.int64(1), np.minimum(order, 40).astype(np.int64)), 0)
    total = int(sizes.sum()) * page_size
    done = int(sizes[why == REPORTED].sum()) * page_size
    rest = ", ".join(
        f"{bytes_text(int(sizes[why == code].sum()) * page_size)} {reason.short}"
        for code, reason in enumerate(REASONS)
        if code != REPORTED and (why == code).any()
    )
    missing = f"; not reported: {rest}" if rest else ""
    return f"{bytes_text(done)} of {bytes_text(total)} free are reported{missing}."


def _device(reporting: Reporting) -> str:
    """The device in a sentence."""
    if reporting.registered is None:
        return "Whether a device is registered could not be read."
    if not reporting.registered:
        if reporting.enabled:
            return "No device is registered; one was before."
        return "No device is registered, and none ever was."
    order = "no order" if reporting.order is None else f"order {reporting.order} and larger"
    return (
        f"A device takes {order}, {reporting.capacity} blocks at a time ({reporting.report or 'unknown'}); "
        f"its worker is {reporting.state or 'in an unknown state'}."
    )


def _bits_without_device(pfn: Struct, reporting: Reporting) -> list[Finding]:
    """Reported blocks of a kernel that never had anyone to report to."""
    if not len(pfn) or reporting.registered or reporting.enabled is not False:
        return []
    return [
        Finding(
            "reported-without-device",
            Severity.PROBLEM,
            f"{len(pfn):,} free blocks have PG_reported, but no device ever was registered: {_some(pfn)}.",
            BLOCKS.name,
            "why == 'reported'",
        )
    ]


def _small(pfn: Struct, rows: Struct, reporting: Reporting) -> list[Finding]:
    """Reported blocks that are smaller than what is reported."""
    if not rows.any():
        return []
    return [
        Finding(
            "reported-below-order",
            Severity.WARNING,
            f"{int(rows.sum()):,} free blocks below order {reporting.order} have PG_reported "
            f"({_some(pfn[rows])}): the bit is garbage, or page_reporting_order was raised since.",
            BLOCKS.name,
            f"why == 'reported' and order < {reporting.order}",
        )
    ]


def _unreported(order: Struct, why: Struct, page_size: int) -> list[Finding]:
    """Free memory that the hypervisor could have, but for a worker that does not come back to it."""
    sizes = np.left_shift(np.int64(1), np.minimum(order, 40).astype(np.int64)) * page_size
    left = int(sizes[why == CODES["idle"]].sum())
    # What is reported again and again leaves some blocks behind: much is something else.
    if left < _LEAST_UNREPORTED or left < _UNREPORTED_SHARE * int(sizes.sum()):
        return []
    return [
        Finding(
            "unreported",
            Severity.WARNING,
            f"{bytes_text(left)} of {bytes_text(int(sizes.sum()))} free could be reported to the hypervisor, "
            "but its worker is idle and will not come back to them before something is freed: a report "
            "failed. "
            f"(Told from {bytes_text(_LEAST_UNREPORTED)} and {_UNREPORTED_SHARE:.0%} of what is free.)",
            BLOCKS.name,
            "why == 'idle'",
        )
    ]


def _some(pfn: Struct) -> str:
    named = ", ".join(f"{each:#x}" for each in pfn[:_NAMED].tolist())
    return f"PFN {named}" + (" ..." if len(pfn) > _NAMED else "")


def _notes(reporting: Reporting) -> list[str]:
    if reporting.state != "active":
        return []
    return [
        f"The worker was at work: up to {reporting.capacity} blocks being reported are off the free lists."
    ]


def _unreadable(heads: ListHeads, zones: list[ZoneState | None]) -> list[str]:
    found = []
    for zone, readable, state in zip(heads.zones, heads.readable.tolist(), zones, strict=True):
        name = f"zone {zone.name} of node {zone.node}"
        if not readable:
            found.append(f"the free lists of {name} could not be read")
        if state is None:
            found.append(f"the counters of {name} could not be read")
    return found
