"""Parts of a modelled machine's state: what its tracer recorded, and its slabs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmdump_snapshots.model.android_pinner import AndroidPinner
from mmdump_snapshots.model.pages import PageFlag
from mmdump_snapshots.model.zone import Migratetype
from mmdump_snapshots.writer.tagstate import SlabState
from mmdump_snapshots.writer.tracestate import TraceEvent, TraceState

if TYPE_CHECKING:
    from mmdump_snapshots.model.machine import Machine

__all__ = ["slab_states", "trace_state"]


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
