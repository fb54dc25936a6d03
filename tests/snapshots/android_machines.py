"""Machines of every generation of Android's page pinner, and what is always true of its events."""

from __future__ import annotations

from functools import cache

from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Boot, Gfp, Machine
from mmdump_snapshots.model.android_pinner import AndroidPinner, Captured, PpState
from mmdump_snapshots.model.era import Pinner
from mmdump_snapshots.scenarios import SCENARIOS
from tests.snapshots.decoded import MIGRATETYPE_NAMES, Decoded, same_frames

SCENARIO = {each.name: each for each in SCENARIOS}
#: Kernel and generation: those that are offered, and on their releases those that came between.
KERNELS = {
    "A0": ("5.10", Pinner.A0),
    "A1": ("5.10", Pinner.A1),
    "A2": ("android12-5.10", Pinner.A2),
    "B0": ("5.10", Pinner.B0),
    "B1": ("android13-5.10", Pinner.B1),
    "B2": ("android14-6.1", Pinner.B2),
}
WORDS = {PpState.PUT: "put", PpState.FREE: "freed", PpState.FAIL_DETECTED: "failure detected"}
DIRECTORY = "/sys/kernel/debug/page_pinner/"


def kernel_of(name: str):
    base, generation = KERNELS[name]
    kernel = profile(base)
    return kernel if kernel.pinner is generation else kernel.with_pinner(generation)


@cache
def after(name: str, scenario: str) -> Decoded:
    kernel = kernel_of(name)
    return Decoded(SCENARIO[scenario].play(kernel, seed=3), kernel, seed=3)


def pinner_of(decoded: Decoded) -> AndroidPinner:
    pinner = decoded.machine.page_pinner
    assert isinstance(pinner, AndroidPinner)
    return pinner


def boot(kernel, **options: object) -> tuple[Machine, AndroidPinner]:
    machine = Machine(kernel.era, memory=128 << 20, boot=Boot(**options))
    assert isinstance(machine.page_pinner, AndroidPinner)
    return machine, machine.page_pinner


def in_the_way(machine: Machine, pinner: AndroidPinner, count: int) -> list[int]:
    """Pages that fail to migrate, one after the other, and are put once."""
    found = []
    for _ in range(count):
        pfn = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
        machine.get_page(pfn)
        machine.clock.advance(0.5)
        with machine.running(machine.current, "alloc_contig_range", "cma_alloc"):
            pinner.not_migrated([pfn])
        with machine.running(machine.current, "pipe_read", "vfs_read"):
            machine.put_page(pfn)
        found.append(pfn)
    return found


def check_events(decoded: Decoded) -> int:
    """``mmdump pinner-events``: all records of both rings, the newest first. Returns how many."""
    result = decoded.analysis("pinner-events")
    assert not result.incomplete
    events = result.tables["events"].frame
    stacks = dict(result.tables["stacks"].frame.select("stack_id", "frames").iter_rows())
    pinner = pinner_of(decoded)
    total = 0
    for ring, called in ((pinner.failures, "failures"), (pinner.longterm, "longterm")):
        rows = [row for row in events.iter_rows(named=True) if row["ring"] == called]
        expected = [] if ring is None else ring.newest_first
        assert len(rows) == len(expected), called
        total += len(rows)
        for row, record in zip(rows, expected, strict=True):
            check_event(decoded, row, record, called)
            if record.handle:
                frames = decoded.machine.stack_depot.fetch(record.handle)
                assert same_frames(stacks[row["stack_id"]], frames)
    assert len(events) == total
    return total


def check_event(decoded: Decoded, row: dict, record: Captured, ring: str) -> None:
    generation = decoded.era.pinner
    nsec = record.usec * 1000
    assert row["pfn"] == record.pfn
    assert row["stack_id"] == ((record.handle & decoded.handle_mask) or None)
    assert row["elapsed_nsec"] == (nsec if record.elapsed else None)
    if not record.elapsed:
        assert row["time_nsec"] == nsec
    if generation >= Pinner.B0:
        assert row["state"] == WORDS[record.state]
    else:
        assert row["state"] == ("put" if ring == "longterm" else None)
    direct = decoded.image.addresses.direct
    if generation >= Pinner.A2:
        assert (row["count"], row["mapcount"]) == (record.count, record.mapcount)
        assert row["mapping"] == (direct(record.mapping) if record.mapping else None)
        assert row["migratetype"] is None
    else:
        assert (row["count"], row["mapcount"], row["mapping"]) == (None, None, None)
        assert row["migratetype"] == MIGRATETYPE_NAMES[record.mt]
    names = {flag.name.lower() for flag in type(record.flags) if flag & record.flags}
    # What has a name of its own in every kernel.
    known = {"locked", "referenced", "uptodate", "dirty", "lru", "active", "swapbacked", "head"}
    assert set(row["flags"]) & known == names & known
