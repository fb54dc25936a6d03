"""The device that free pages are reported to: ``pr_dev_info``, and what decides which blocks it hears of.

Mirrors mm/page_reporting.c and include/linux/page_reporting.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.kernel.layout import find_object, has_member

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.zonestate import ZoneState

__all__ = ["STATES", "Reporting", "has_page_reporting", "low_on_memory", "read_reporting"]

#: PAGE_REPORTING_*: macros, the same in every kernel that has them (5.7).
STATES = ("idle", "requested", "active")
#: PAGE_REPORTING_CAPACITY: blocks in one report; a device may want fewer since 7.2.
PAGE_REPORTING_CAPACITY = 32
_FILE = "mm/page_reporting.c"


@dataclass(frozen=True)
class Reporting:
    """Free page reporting of a kernel. Plain data.

    :param enabled: Whether ``page_reporting_enabled`` is on: a device is registered, or once was, for nothing
        ever turns it off. None where it could not be read.
    :param registered: Whether ``pr_dev_info`` points to a device. None where it could not be read.
    :param state: Of the device, one of :data:`STATES`; None where there is none, or garbage.
    :param order: The least order that is reported; None where no device has said so yet.
    :param device_order: What the device asked for (5.14); None where devices cannot ask.
    :param capacity: Blocks in one report.
    :param report: The device's function that takes them, as text.
    :param lost: What could not be read: one sentence for each thing.
    """

    enabled: bool | None
    registered: bool | None
    state: str | None = None
    order: int | None = None
    device_order: int | None = None
    capacity: int = PAGE_REPORTING_CAPACITY
    report: str | None = None
    lost: tuple[str, ...] = ()


def has_page_reporting(kernel: Kernel) -> str | None:
    """Why a kernel has no free page reporting, in one sentence; None when it has.

    PG_reported is in every kernel since 5.7, whether anything sets it or not.
    """
    if find_object(kernel.target.prog, "pr_dev_info", _FILE) is not None:
        return None
    if "PG_reported" in kernel.page_layout.flags:
        return "this kernel was built without CONFIG_PAGE_REPORTING"
    return "this kernel has no free page reporting: it came with Linux 5.7"


def read_reporting(kernel: Kernel) -> Reporting:
    """Read the device and its state. What is not in the dump is None, and named."""
    prog = kernel.target.prog
    lost: list[str] = []
    enabled: bool | None = None
    key = find_object(prog, "page_reporting_enabled")
    try:
        enabled = None if key is None else key.key.enabled.counter.value_() > 0
    except FaultError:
        lost.append("whether free page reporting was ever on could not be read")
    try:
        device = prog.object("pr_dev_info", filename=_FILE).read_()
    except FaultError:
        return Reporting(enabled, None, lost=(*lost, "pr_dev_info could not be read"))
    order = _order(kernel, lost)
    if not device:
        return Reporting(enabled, False, order=order, lost=tuple(lost))
    kind = device.type_.type
    try:
        info = device[0].read_()
    except FaultError:
        return Reporting(enabled, True, order=order, lost=(*lost, "the registered device could not be read"))
    number = info.state.counter.value_()
    if not 0 <= number < len(STATES):
        lost.append(f"the state of the device is garbage: {number}")
    # 7.2: a device may take fewer blocks at a time.
    capacity = info.capacity.value_() if has_member(kind, "capacity") else PAGE_REPORTING_CAPACITY
    return Reporting(
        enabled,
        True,
        STATES[number] if 0 <= number < len(STATES) else None,
        order,
        # 5.14: a device may ask for an order.
        info.order.value_() if has_member(kind, "order") else None,
        min(capacity, PAGE_REPORTING_CAPACITY),
        kernel.symbols.text(info.report.value_()) if info.report else None,
        tuple(lost),
    )


def _order(kernel: Kernel, lost: list[str]) -> int | None:
    """The least order that is reported.

    ``page_reporting_order`` since 5.14: until a device is registered it is beyond any order, MAX_ORDER up to
    6.1 and -1 since. Before, PAGE_REPORTING_MIN_ORDER was pageblock_order.
    """
    variable = find_object(kernel.target.prog, "page_reporting_order")
    if variable is None:
        return kernel.pageblocks.order
    try:
        order = variable.value_() & 0xFFFFFFFF
    except FaultError:
        lost.append("page_reporting_order could not be read")
        return None
    return order if order <= kernel.page_layout.max_buddy_order else None


def low_on_memory(state: ZoneState, reporting: Reporting) -> bool:
    """Whether a zone has too little free memory to be reported: ``page_reporting_process_zone()``.

    While a report runs its blocks are missing, so that beside the low watermark a report's worth must be
    free.
    """
    if reporting.order is None:
        return False
    mark = state.watermark[1] + (reporting.capacity << reporting.order)
    # zone_watermark_ok(zone, 0, watermark, 0, ALLOC_CMA)
    return state.usable(0, cma=True, reserves=False) <= mark + state.reserve(0)
