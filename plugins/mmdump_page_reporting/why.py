"""Why a free block was not reported: what mm/page_reporting.c looks at, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import U8
from mmdump_page_reporting.device import Reporting, low_on_memory

if TYPE_CHECKING:
    from mmdump.kernel.freelists import FreeLists
    from mmdump.kernel.zonestate import ZoneState

__all__ = ["BELOW_ORDER", "CODES", "REASONS", "REPORTED", "Reason", "reasons"]


@dataclass(frozen=True)
class Reason:
    """Why a block is as it is.

    :param name: In tables.
    :param short: In a sentence, after a size.
    :param text: What it means.
    """

    name: str
    short: str
    text: str


#: By code. The first is none.
REASONS = (
    Reason("reported", "reported", "the hypervisor has it back"),
    Reason("no_device", "as no device is registered", "no device is registered"),
    Reason("unknown_order", "as no order is known", "which orders are reported could not be read"),
    Reason("below_order", "below the reporting order", "smaller than what is reported"),
    Reason("isolated", "isolated", "on a list of Isolate, which the worker leaves out"),
    Reason(
        "watermark", "in zones near their low watermark", "the zone has too little free memory for a report"
    ),
    Reason(
        "requested", "waiting for the worker", "the worker has been asked for, and runs within two seconds"
    ),
    Reason("active", "before the worker at its work", "the worker was at its work, and had not come to it"),
    Reason(
        "idle",
        "left by an idle worker",
        "the worker is idle: a report failed, or the block changed meanwhile",
    ),
    Reason("unknown_state", "for an unknown reason", "the state of the worker could not be read"),
)
#: Codes by name.
CODES = {reason.name: code for code, reason in enumerate(REASONS)}
REPORTED = CODES["reported"]
BELOW_ORDER = CODES["below_order"]


def reasons(lists: FreeLists, zones: Sequence[ZoneState | None], reporting: Reporting, isolate: int) -> U8:
    """A code, the index into :data:`REASONS`, for every free block, uint8.

    :param zones: The state of each zone of the lists.
    :param isolate: The number of MIGRATE_ISOLATE; -1 where there is none.
    """
    state = reporting.state or "unknown_state"
    if reporting.registered is None:
        state = "unknown_state"
    why = np.full(len(lists.pfn), CODES[state], np.uint8)
    low = np.array([zone is not None and low_on_memory(zone, reporting) for zone in zones] + [False], bool)
    why[low[lists.zone]] = CODES["watermark"]
    kind = lists.list % max(lists.heads.migratetypes, 1)
    # What is on no list that can be found is judged by its pageblock.
    why[np.where(lists.list >= 0, kind, lists.migratetype) == isolate] = CODES["isolated"]
    if reporting.order is None:
        why[:] = CODES["unknown_order"]
    else:
        why[lists.order < reporting.order] = BELOW_ORDER
    if reporting.registered is False:
        why[:] = CODES["no_device"]
    why[lists.reported] = REPORTED
    return why
