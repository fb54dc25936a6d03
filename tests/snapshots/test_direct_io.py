"""Direct I/O on every kernel: what ``mmdump holders`` says is what the machine knows."""

from __future__ import annotations

from collections import Counter
from functools import cache

import polars as pl
import pytest
from drgn import offsetof
from drgn.helpers.linux.mm import virt_to_phys
from drgn.helpers.linux.pid import for_each_task

from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.direct_io import BIO_MAX_VECS, DirectIo, Disk
from mmdump_snapshots.model.machine import Machine
from mmdump_snapshots.model.mm import Mm
from mmdump_snapshots.model.truth import Truth
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import Image, build
from tests.snapshots.machines import PROFILES


@cache
def plugins():
    return load_plugins(disabled=["*"])


class Written:
    """A process writes pages to a disk."""

    def __init__(self, name: str, pages: int) -> None:
        self.profile = profile(name)
        self.machine = Machine(self.profile.era, arch=self.profile.arch, memory=128 << 20)
        self.task = self.machine.task("writer", pid=300)
        vma = Mm(self.machine, self.task).mmap(pages)
        for slot in range(pages):
            vma.mm.fault(vma, slot)
        # Pages that were faulted in one by one may lie side by side; backwards none continues another.
        self.pages = [vma.mapped(slot) for slot in range(pages)][::-1]

    def write(self, pages: list[int], **options: object) -> DirectIo:
        return DirectIo(self.machine, self.task, Disk("vdb", minor=16), pages, **options)

    def image(self) -> Image:
        return build(self.machine, self.profile, kaslr=7)

    def holders(self, image: Image | None = None) -> Result:
        image = image or self.image()
        kernel = Kernel(image.target(), plugins().page_ext_clients(), plugins().recognisers)
        asked = tuple(f"{pfn:#x}" for pfn in self.pages)
        return run_one(kernel, plugins().analyses()["holders"](pages=asked))

    @property
    def counted(self) -> str:
        return "pin" if self.profile.version >= (6, 5) else "reference"


def _bios(result: Result) -> pl.DataFrame:
    return result.tables["holders"].frame.filter(pl.col("kind") == "bio")


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("pages", [3, 12])
def test_a_write_in_flight_is_named_by_its_disk_and_who_opened_it(name: str, pages: int) -> None:
    """Three vectors stand behind the bio, twelve in an array of their own."""
    machine = Written(name, pages)
    machine.write(machine.pages, sector=2048)
    result = machine.holders()
    frame = _bios(result).sort("what")
    assert sorted(frame["pfn"]) == sorted(machine.pages)
    size = machine.profile.page_size
    assert dict(zip(frame["pfn"], frame["what"], strict=True)) == {
        pfn: f"write of {size} bytes, vector {at} of {pages}, sector 2048"
        for at, pfn in enumerate(machine.pages)
    }
    assert set(frame["state"]) == {"live"}
    assert set(frame["name"]) == {"vdb"}
    assert set(frame["held_by"]) == {"pid 300 (writer), fd 3"}
    assert set(frame["counted"]) == {machine.counted}
    balance = result.tables["balance"].frame
    found = {"pin": "found_pins", "reference": "found"}[machine.counted]
    assert balance[found].to_list() == [1] * pages
    assert balance["missing"].sum() == balance["surplus"].sum() == 0
    assert not result.incomplete


@pytest.mark.parametrize("name", PROFILES)
def test_of_a_write_that_a_task_waits_for_every_bio_leads_to_the_task(name: str) -> None:
    machine = Written(name, BIO_MAX_VECS + 3)
    machine.write(machine.pages, sync=True)
    result = machine.holders()
    frame = _bios(result)
    assert sorted(frame["pfn"]) == sorted(machine.pages)
    assert set(frame["held_by"]) == {"pid 300 (writer)"}
    assert frame["object"].n_unique() == 2
    sectors = machine.profile.page_size // 512 * BIO_MAX_VECS
    assert frame.filter(pl.col("what").str.ends_with(f"of 3, sector {sectors}")).height == 3
    balance = result.tables["balance"].frame
    assert balance["missing"].sum() == balance["surplus"].sum() == 0


@pytest.mark.parametrize("name", ["4.19", "5.4", "5.15"])
def test_a_bio_may_lead_to_its_waiter_at_once(name: str) -> None:
    """``__blkdev_direct_IO_simple()`` up to 5.17: ``bi_private`` is the task itself."""
    machine = Written(name, 3)
    machine.write(machine.pages)
    image = machine.image()
    prog = image.program()
    [bio] = set(_bios(machine.holders(image))["object"])
    [task] = [task for task in for_each_task(prog) if task.pid.value_() == 300]
    member = virt_to_phys(prog, bio + offsetof(prog.type("struct bio"), "bi_private"))
    image.memory.write(member.value_(), task.value_().to_bytes(8, "little"))
    assert set(_bios(machine.holders(image))["held_by"]) == {"pid 300 (writer)"}


@pytest.mark.parametrize("name", PROFILES)
def test_pages_side_by_side_share_a_vector_and_each_is_found(name: str) -> None:
    machine = Written(name, 3)
    start = machine.machine.alloc_pages(2)
    assert start is not None
    machine.machine.split_page(start, 2)
    machine.pages = list(range(start, start + 3))
    machine.write(machine.pages)
    result = machine.holders()
    frame = _bios(result).sort("pfn")
    assert frame["pfn"].to_list() == machine.pages
    vectors = 3 if machine.profile.version < (5, 1) else 1
    assert all(f" of {vectors}, sector 0" in what for what in frame["what"])
    assert set(frame["state"]) == {"live"}


@pytest.mark.parametrize("name", PROFILES)
def test_a_bio_that_completed_holds_nothing(name: str) -> None:
    """Its bytes are where they were, in objects that are free."""
    machine = Written(name, 24)
    completed = machine.write(machine.pages[:12])
    # What else is in these slabs keeps them.
    machine.write(machine.pages[12:])
    completed.complete()
    result = machine.holders()
    frame = result.tables["holders"].frame.filter(
        pl.col("pfn").is_in(machine.pages[:12]) & (pl.col("place") == "slab")
    )
    # The list of free objects goes through the array, and has taken one vector's place.
    assert len(frame) == 11
    assert set(frame["state"]) == {"stale"}
    assert set(frame["what"]) == {"a freed object"}
    assert _bios(result).filter(pl.col("state") == "live").height == 12
    balance = result.tables["balance"].frame
    let_go = balance.filter(pl.col("pfn").is_in(machine.pages[:12]))
    assert let_go["found"].sum() == let_go["found_pins"].sum() == 0
    assert balance["missing"].sum() == balance["surplus"].sum() == 0


@pytest.mark.parametrize("name", PROFILES)
def test_of_a_failed_contiguous_allocation_every_reference_has_the_holder_that_it_has(name: str) -> None:
    [story] = [each for each in SCENARIOS if each.name == "cma-failure"]
    kernel = profile(name)
    machine = story.play(kernel)
    opened = Kernel(
        build(machine, kernel, kaslr=7).target(), plugins().page_ext_clients(), plugins().recognisers
    )
    result = run_one(opened, plugins().analyses()["pinned"](holders=True))
    frame = result.tables["holders"].frame.filter(
        (pl.col("state") == "live") & pl.col("counted").is_in(["reference", "pin"])
    )
    told = frame.select("pfn", "kind", "pid", "comm", "counted", "references").unique().sort("pfn").rows()
    truth = Truth.of(machine).holders
    assert told == [
        (each.pfn, each.kind, each.pid, each.comm[:15], each.counted, each.count) for each in truth
    ]
    assert Counter(each.kind for each in truth) == {"bio": 12, "pipe": 4}
    assert set(frame.filter(pl.col("kind") == "bio")["name"]) == {"vda"}
    balance = result.tables["balance"].frame
    assert len(balance) == 16
    assert balance["missing"].sum() == balance["surplus"].sum() == 0


def test_a_small_write_that_a_task_waits_for_is_not_made_up() -> None:
    machine = Written("6.12", 12)
    with pytest.raises(ValueError, match="12 pages that a task waits for"):
        machine.write(machine.pages, sync=True)
