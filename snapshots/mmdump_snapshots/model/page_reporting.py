"""Free page reporting: the hypervisor is told which memory the guest does not use (mm/page_reporting.c, 5.7).

Two seconds after a large block was freed a worker goes through the free lists. It takes blocks off them, up
to 32 at a time, hands them to the device's report function, and puts them back. A block that is still by
itself then is marked PG_reported, until it leaves its free list. It can have been changed by then: what was
merged has to be reported as the larger block that it is now.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from .pages import PageFlag, PageType
from .zone import ALLOC_CMA, Migratetype

if TYPE_CHECKING:
    from .clock import Work
    from .machine import Machine
    from .zone import Zone

__all__ = ["DELAY", "PAGE_REPORTING_CAPACITY", "PageReporting", "PageReportingDevice", "ReportingState"]

#: Blocks in one report.
PAGE_REPORTING_CAPACITY = 32
#: PAGE_REPORTING_DELAY, seconds.
DELAY = 2.0

#: Gets what is reported: first PFN and order of each block, in scatterlist order. Returns 0 or an error.
Report = Callable[[list[tuple[int, int]]], int]


class ReportingState(IntEnum):
    """``PAGE_REPORTING_*``: the state of a device."""

    IDLE = 0
    REQUESTED = 1
    ACTIVE = 2


@dataclass(eq=False)
class PageReportingDevice:
    """``struct page_reporting_dev_info``.

    :ivar order: The smallest blocks it wants to hear of (5.14); None for whatever is usual.
    :ivar capacity: Blocks in a report; less than 32 only since 7.2.
    """

    report: Report
    order: int | None = None
    capacity: int = PAGE_REPORTING_CAPACITY
    state: ReportingState = ReportingState.IDLE
    work: Work | None = None


class PageReporting:
    """Free page reporting of a machine.

    :ivar pr_dev_info: The device that is registered.
    :ivar enabled: The static key ``page_reporting_enabled``, which nothing ever turns off again.
    :ivar order: ``page_reporting_order``, a variable since 5.14: set by the first device; None before that.
    :ivar reports: Every report of a device that came without a function of its own.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.pr_dev_info: PageReportingDevice | None = None
        self.enabled = False
        self.order: int | None = None
        self.reports: list[list[tuple[int, int]]] = []

    @property
    def min_order(self) -> int:
        """``PAGE_REPORTING_MIN_ORDER``, ``page_reporting_order``: of smaller blocks nobody hears."""
        return self._machine.era.pageblock_order if self.order is None else self.order

    def register(
        self,
        report: Report | None = None,
        *,
        order: int | None = None,
        capacity: int = PAGE_REPORTING_CAPACITY,
    ) -> int:
        """``page_reporting_register()``: there is one device at a time.

        :param report: Gets the blocks. Without, they are kept in :attr:`reports`, and all is well.
        :param order: See :class:`PageReportingDevice`.
        :return: 0 or -EBUSY.
        :raises ValueError: This release has no free page reporting.
        """
        era = self._machine.era
        if not era.page_reporting:
            raise ValueError("free page reporting exists since 5.7")
        if self.pr_dev_info is not None:
            return -errno.EBUSY
        if era.version >= (5, 14) and (self.order is None or era.version < (6, 2)):
            # Since 6.2 what was set before stays: it may be the user's choice.
            wanted = order if order or (order is not None and era.version >= (7, 1)) else None
            self.order = wanted if wanted is not None and wanted <= era.max_order else era.pageblock_order
        device = PageReportingDevice(report or self._keep, order, min(capacity, PAGE_REPORTING_CAPACITY))
        if era.version < (7, 2):
            device.capacity = PAGE_REPORTING_CAPACITY
        self._request(device)
        self.pr_dev_info = device
        self.enabled = True
        return 0

    def unregister(self, device: PageReportingDevice) -> None:
        """``page_reporting_unregister()``: no notification, and no work. What is reported stays marked."""
        if self.pr_dev_info is device:
            self.pr_dev_info = None
            if device.work is not None:
                self._machine.clock.cancel(device.work)

    def _keep(self, blocks: list[tuple[int, int]]) -> int:
        self.reports.append(list(blocks))
        return 0

    # Somebody frees.

    def notify_free(self, order: int) -> None:
        """``page_reporting_notify_free()``: called for every block that comes to the free lists."""
        if self.enabled and order >= self.min_order and self.pr_dev_info is not None:
            self._request(self.pr_dev_info)

    def _request(self, device: PageReportingDevice) -> None:
        """``__page_reporting_request()``: from IDLE to REQUESTED, with the work queued.

        A worker that is ACTIVE finds REQUESTED at its end, and queues itself again.
        """
        if device.state == ReportingState.REQUESTED:
            return
        before, device.state = device.state, ReportingState.REQUESTED
        if before == ReportingState.IDLE:
            self._schedule(device)

    def _schedule(self, device: PageReportingDevice) -> None:
        """``schedule_delayed_work()``: let some pages come together first."""
        device.work = self._machine.clock.schedule(DELAY, lambda: self._run(device))

    # The worker.

    def _run(self, device: PageReportingDevice) -> None:
        machine = self._machine
        with machine.running(
            machine.kworker, "page_reporting_process", "process_one_work", "worker_thread", "kthread"
        ):
            self.process(device)

    def process(self, device: PageReportingDevice) -> None:
        """``page_reporting_process()``: all zones once."""
        device.state = ReportingState.ACTIVE
        for zone in self._machine.zones:
            if self._process_zone(device, zone):
                break
        # atomic_cmpxchg()
        if device.state == ReportingState.ACTIVE:
            device.state = ReportingState.IDLE
        elif device.state == ReportingState.REQUESTED and self.pr_dev_info is device:
            self._schedule(device)

    def _process_zone(self, device: PageReportingDevice, zone: Zone) -> int:
        """``page_reporting_process_zone()``: every list of the orders reported, but what is isolated.

        :return: 0, or the error of the report.
        """
        sgl: list[tuple[int, int]] = []
        mark = zone.watermark[1] + (PAGE_REPORTING_CAPACITY << self.min_order)
        if not zone.watermark_ok(0, mark, 0, ALLOC_CMA):
            # While a report runs, its blocks are missing: there must be enough without them.
            return 0
        for order in range(self.min_order, self._machine.era.max_order + 1):
            for migratetype in Migratetype:
                if migratetype is Migratetype.ISOLATE:
                    continue
                error = self._cycle(device, zone, order, migratetype, sgl)
                if error:
                    return error
        if sgl:
            error = self._report(device, sgl)
            self._drain(zone, sgl, reported=not error)
            return error
        return 0

    def _cycle(
        self,
        device: PageReportingDevice,
        zone: Zone,
        order: int,
        migratetype: int,
        sgl: list[tuple[int, int]],
    ) -> int:
        """``page_reporting_cycle()``: one free list, until its blocks are collected or the budget is used up.

        The budget is a sixteenth of the blocks of the order, counted in reports. When it is used up, the
        list is rotated to begin with the first block that was not looked at, and another pass is requested.

        :param sgl: Blocks collected and not reported yet, from other lists too.
        """
        area = zone.free_area[order]
        free_list = area.free_list[migratetype]
        if not free_list:
            return 0
        budget = -(-area.nr_free // (PAGE_REPORTING_CAPACITY * 16))
        flags, reported = self._machine.pages.flags, int(PageFlag.REPORTED)
        todo = iter(list(free_list))
        while (pfn := next(todo, None)) is not None:
            if flags.item(pfn) & reported or pfn not in free_list:
                continue
            if budget < 0:
                device.state = ReportingState.REQUESTED
                free_list.rotate(pfn)
                break
            if len(sgl) < device.capacity:
                if not self._machine.buddy.isolate_free_page(zone, pfn, order):
                    free_list.rotate(pfn)
                    break
                sgl.append((pfn, order))
                continue
            # The scatterlist was full already: this block is the first of the next one.
            free_list.rotate(pfn)
            error = self._report(device, sgl)
            budget -= 1
            self._drain(zone, sgl, reported=not error)
            if error:
                return error
            # While the lock was not held the list may have changed: begin again.
            todo = iter(list(free_list))
        return 0

    def _report(self, device: PageReportingDevice, sgl: list[tuple[int, int]]) -> int:
        """``prdev->report()``. The scatterlist is filled from its end."""
        with self._machine.calls("virtballoon_free_page_report"):
            return device.report(sgl[::-1])

    def _drain(self, zone: Zone, sgl: list[tuple[int, int]], *, reported: bool) -> None:
        """``page_reporting_drain()``: put the blocks back, and mark those that are what was reported."""
        buddy, pages = self._machine.buddy, self._machine.pages
        for pfn, order in reversed(sgl):
            buddy.putback_isolated_page(zone, pfn, order, buddy.migratetype(pfn))
            if reported and pages.type.item(pfn) == PageType.BUDDY and pages.order.item(pfn) == order:
                pages.flags[pfn] |= np.uint32(PageFlag.REPORTED)
        sgl.clear()
