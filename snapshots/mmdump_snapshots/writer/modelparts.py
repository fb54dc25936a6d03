"""Parts of a modelled machine's state: slabs, depot, CMA areas, what tracer and page pinner recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mmdump_snapshots.model.android_pinner import AndroidPinner
from mmdump_snapshots.model.pages import PageFlag, PageType
from mmdump_snapshots.model.zone import Migratetype
from mmdump_snapshots.writer.blockstate import BioState, DirectIoState, DiskState
from mmdump_snapshots.writer.pinnerstate import CapturedState, PinnerState, RingState
from mmdump_snapshots.writer.state import CmaState, DepotState, PipeState, Record, ReportingState
from mmdump_snapshots.writer.tagstate import SlabState
from mmdump_snapshots.writer.tracestate import TraceEvent, TraceState

if TYPE_CHECKING:
    from mmdump_snapshots.model.android_pinner import Ring
    from mmdump_snapshots.model.direct_io import DirectIo
    from mmdump_snapshots.model.machine import Machine

__all__ = [
    "cma_states",
    "depot_state",
    "direct_io_states",
    "pinner_state",
    "pipe_states",
    "reporting_state",
    "slab_states",
    "trace_state",
]


def cma_states(machine: Machine) -> list[CmaState]:
    """Areas with their bitmaps."""
    return [
        CmaState(
            area.name,
            [(area.base_pfn, area.count)],
            area.order_per_bit,
            [np.asarray(area.bitmap, np.bool_)],
            area.succeeded,
            area.failed,
        )
        for area in machine.cma
    ]


def reporting_state(machine: Machine) -> ReportingState:
    """The device that is registered."""
    model = machine.page_reporting
    device = model.pr_dev_info
    if device is None:
        return ReportingState(None, model.enabled, model.order)
    return ReportingState(int(device.state), model.enabled, model.order, device.order or 0, device.capacity)


def pipe_states(machine: Machine) -> list[PipeState]:
    """The pipes that processes have open."""
    return [
        PipeState(pipe.task.tgid, pipe.address, tuple(pipe.slots), pipe.tail, len(pipe.buffers))
        for pipe in machine.pipes
        if pipe.task is not None
    ]


def direct_io_states(machine: Machine) -> list[DirectIoState]:
    """Direct I/O in flight; and what completed, while its memory was not taken for something else."""
    return [
        DirectIoState(
            each.task.tgid if each.kiocb else each.task.pid,
            DiskState(each.disk.name, each.disk.major, each.disk.minor),
            [
                BioState(bio.address, bio.front, bio.array, bio.room, bio.sector, tuple(bio.vectors))
                for bio in each.bios
            ],
            each.kiocb,
            each.single,
            machine.era.direct_io_pins,
            each.done,
        )
        for each in machine.direct_io
        if not each.done or _left(machine, each)
    ]


def _left(machine: Machine, write: DirectIo) -> bool:
    """Whether all that a write had is free in slabs still."""
    shift, pages = machine.era.page_shift, machine.pages
    places = [place for bio in write.bios for place in (bio.address, bio.array) if place]
    return all(
        place not in machine.objects.live and pages.type[pages.head(place >> shift)] == PageType.SLAB
        for place in [*places, *([write.kiocb] if write.kiocb else [])]
    )


def slab_states(machine: Machine) -> list[SlabState]:
    """The model's objects by slab."""
    objects, tags, shift = machine.objects, machine.alloc_tags, machine.era.page_shift
    slabs = objects.slabs()
    used: dict[int, list[int]] = {slab: [] for slab in slabs}
    for address in sorted(objects.live):
        used[machine.pages.head(address >> shift)].append(address)
    return [
        SlabState(
            slab,
            cache.name,
            cache.size,
            objects.capacity(cache),
            [(address - (slab << shift)) // cache.size for address in used[slab]],
            [tags.objects.get(address, -1) + 1 if tags is not None else 0 for address in used[slab]],
        )
        for slab, cache in sorted(slabs.items())
    ]


def trace_state(machine: Machine, base: int, resolve: Callable[[str], int]) -> TraceState | None:
    """The events of the page pinner; None where there is none that has events.

    :param base: Where the direct map has physical address 0.
    :param resolve: The run-time address of a frame.
    """
    pinner, boot = machine.page_pinner, machine.boot
    if pinner is None or isinstance(pinner, AndroidPinner) or not pinner.inited:
        return None
    frames: dict[str, int] = {}
    return TraceState(
        [
            TraceEvent(
                each.name,
                each.time,
                each.stack_time,
                each.cpu,
                each.pid,
                each.comm,
                each.pfn,
                [str(flag.name).lower() for flag in PageFlag if each.flags & flag],
                each.count,
                each.mapcount,
                each.mapping and base + each.mapping,
                Migratetype(each.mt).name,
                [frames.setdefault(frame, resolve(frame)) for frame in each.stack],
                each.reason,
                each.err,
            )
            for each in pinner.events
        ],
        boot.trace_buf_size,
        overwrite=boot.trace_overwrite,
    )


def depot_state(machine: Machine, direct: Callable[[int], int], resolve: Callable[[str], int]) -> DepotState:
    """Pools and records of the stack depot at their places.

    :param direct: The address of physical memory in the direct map.
    :param resolve: The run-time address of a frame.
    """
    depot = machine.stack_depot
    shift = machine.era.page_shift
    pools = [direct(pfn << shift) for pfn in depot.pools]
    addresses: dict[str, int] = {}
    records = []
    for record in depot.records:
        frames = []
        for frame in record.frames:
            at = addresses.get(frame)
            if at is None:
                at = addresses[frame] = resolve(frame)
            frames.append(at)
        records.append(
            Record(record.handle, record.hash, tuple(frames), record.pool, record.offset, record.count)
        )
    owner = machine.page_owner
    special: Mapping[str, int] = {}
    listed: list[tuple[int, int]] = []
    if owner is not None:
        special = {name: getattr(owner, name) for name in ("dummy_handle", "failure_handle", "early_handle")}
        listed = [(entry.handle, direct(entry.address) if entry.address else 0) for entry in owner.stack_list]
    return DepotState(
        pools, records, max(depot.pool_index, 0), depot.pool_offset, depot.hash_mask, special, listed
    )


def pinner_state(machine: Machine, direct: Callable[[int], int]) -> PinnerState | None:
    """Android's page pinner, if it is on.

    :param direct: The address of physical memory in the direct map.
    """
    pinner = machine.page_pinner
    if not isinstance(pinner, AndroidPinner):
        return None
    return PinnerState(
        [_ring(ring, direct) for ring in pinner.rings],
        pinner.failures.size if pinner.failures is not None else 0,
        pinner.threshold,
        pinner.failure_tracking,
        pinner.failure_handle,
    )


def _ring(ring: Ring, direct: Callable[[int], int]) -> RingState:
    slots = {
        place: CapturedState(
            record.handle,
            record.usec,
            record.pfn,
            record.count,
            record.mapcount,
            direct(record.mapping) if record.mapping else 0,
            int(record.flags),
            Migratetype(record.mt).name,
            int(record.state),
        )
        for place, record in ring.slots.items()
    }
    return RingState(ring.name, ring.size, ring.index, slots, direct(ring.buffer) if ring.buffer else 0)
