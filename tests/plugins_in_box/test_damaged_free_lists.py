"""Damage of free memory is found and named; whatever is in the dump, there is an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random

import pytest

from mmdump.errors import MmdumpError
from mmdump.kernel import Kernel
from mmdump.kernel.zones import each_zone
from mmdump.result import Result
from mmdump.scan import Ranges, run_one
from mmdump_buddy import DEBUG_GUARDPAGE, Buddy
from mmdump_buddy.files import FILES
from mmdump_buddy.pagetypeinfo import PAGETYPEINFO
from mmdump_page_reporting import Reported
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Boot, Machine
from mmdump_snapshots.model.gfp import GFP_KERNEL
from mmdump_snapshots.model.truth import Truth
from mmdump_snapshots.writer.damage import Damage
from mmdump_snapshots.writer.image import Image, build
from mmdump_snapshots.writer.targets import targets


def machine_and_image() -> tuple[Machine, Image]:
    machine = Machine(profile("6.12").era, memory=64 << 20, boot=Boot(page_reporting=True))
    task = machine.task("dd", 7)
    with machine.running(task, "vfs_write"):
        held = [machine.alloc_pages(0, GFP_KERNEL) for _ in range(400)]
        for pfn in held[::2]:
            machine.free_pages(pfn, 0)
    machine.drain_all_pages()
    return machine, build(machine, profile("6.12"), kaslr=2)


@contextmanager
def opened(image: Image) -> Iterator[Kernel]:
    with image.target() as target:
        yield Kernel(target, [DEBUG_GUARDPAGE])


class Spoiler:
    """Writes into an image's struct pages and zones."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self._types = image.profile.types

    def page(self, pfn: int, path: str, value: int) -> None:
        """Set a member of a struct page."""
        size = self._types.sizeof("struct page")
        [phys] = [
            phys + (pfn - start) * size for start, end, phys in self.image.page_array if start <= pfn < end
        ]
        member = self._types.member("struct page", path)
        width = member.type.size
        self.image.memory.write(phys + member.offset, (value % (1 << 8 * width)).to_bytes(width, "little"))

    def zone(self, path: str, value: int) -> None:
        """Set a member of the second zone (DMA32) of node 0, 8 bytes wide."""
        with opened(self.image) as kernel:
            [zone] = [where for each, where in each_zone(kernel.target.prog) if each.name == "DMA32"]
        phys = self.image.addresses.phys(zone.address_ + self._types.member("struct zone", path).offset)
        self.image.memory.write(phys, (value % (1 << 64)).to_bytes(8, "little"))


def free_single(machine: Machine) -> list[int]:
    """Blocks of order 0 on the list of unmovable ones of DMA32, in list order."""
    return next(
        pfns.tolist()
        for (_, zone, order, kind), pfns in Truth.of(machine).free.free.items()
        if (zone, order, kind) == ("DMA32", 0, "UNMOVABLE")
    )


def keys(result: Result) -> set[str]:
    return {each.key for each in result.findings}


def after(damage: Callable[[Machine, Spoiler], None]) -> Result:
    machine, image = machine_and_image()
    damage(machine, Spoiler(image))
    with opened(image) as kernel:
        return run_one(kernel, Buddy())


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    result = after(lambda _machine, _spoil: None)
    assert result.findings == []
    assert not result.incomplete


def test_a_link_that_was_overwritten_is_found_and_no_block_lost_by_it() -> None:
    def damage(machine: Machine, spoil: Spoiler) -> None:
        spoil.page(free_single(machine)[3], "lru.next", 0x4141414141414141)

    result = after(damage)
    assert keys(result) == {"free-list-broken"}
    orders = result.tables["orders"].frame
    assert (orders["listed"] == orders["nr_free"]).all()


def test_a_page_that_is_used_while_it_is_on_a_free_list_is_found() -> None:
    def damage(machine: Machine, spoil: Spoiler) -> None:
        spoil.page(free_single(machine)[3], "_mapcount.counter", -1)

    result = after(damage)
    assert {"free-list-stranger", "nr-free"} <= keys(result)
    [stranger] = [each for each in result.findings if each.key == "free-list-stranger"]
    machine, _ = machine_and_image()
    assert f"{free_single(machine)[3]:#x}" in stranger.message
    assert stranger.message.startswith("Free lists lead to 1 page that is not free: ")


@pytest.mark.parametrize(
    ("member", "value", "key", "words"),
    [
        ("private", 4, "free-list-misplaced", "1 free block is on a list of another order or zone: "),
        ("private", 1 << 33, "buddy-order", "1 free block has an order that the allocator does not have: "),
        ("flags", 3 << 62, "buddy-zone", "1 free block has page flags of a zone that does not exist: "),
    ],
)
def test_a_block_that_lies_about_itself_is_found(member: str, value: int, key: str, words: str) -> None:
    result = after(lambda machine, spoil: spoil.page(free_single(machine)[3], member, value))
    assert next(each.message for each in result.findings if each.key == key).startswith(words)


def test_one_head_that_is_not_linked_back_to_is_one() -> None:
    result = after(lambda _machine, spoil: spoil.zone("free_area[0].free_list[0].prev", 0x4141414141414141))
    assert [each.message for each in result.findings if each.key == "free-list-head"] == [
        "1 head of free lists is not linked back to."
    ]


@pytest.mark.parametrize(("value", "key"), [(7, "nr-free"), (-1, "nr-free")])
def test_a_count_of_blocks_that_is_wrong_is_found(value: int, key: str) -> None:
    assert keys(after(lambda _, spoil: spoil.zone("free_area[4].nr_free", value))) == {key}


def test_a_counter_of_free_pages_that_is_wrong_is_found() -> None:
    # NR_FREE_PAGES is the first of the zone's counters.
    result = after(lambda _, spoil: spoil.zone("vm_stat", 12345))
    assert keys(result) == {"free-pages-counter"}
    [finding] = result.findings
    assert "NR_FREE_PAGES says 12,345 pages" in finding.message


def stocked(name: str = "6.12") -> tuple[Machine, Image, list[int]]:
    """A machine with pages on a per-CPU list of DMA32, and these."""
    machine = Machine(profile(name).era, memory=64 << 20)
    with machine.running(machine.task("dd", 7), "vfs_write"):
        held = [machine.alloc_pages(0, GFP_KERNEL) for _ in range(8)]
        for pfn in held:
            machine.free_pages(pfn, 0)
    [zone] = [zone for zone in machine.zones if zone.name == "DMA32"]
    pages = next([pfn for pfn, _ in pcp.pages()] for pcp in zone.pcp if pcp.count)
    return machine, build(machine, profile(name), kaslr=2), pages


def test_a_per_cpu_list_that_is_broken_is_followed_as_far_as_it_goes() -> None:
    _, image, pages = stocked()
    Spoiler(image).page(pages[3], "lru.next", 0x4141414141414141)
    with opened(image) as kernel:
        result = run_one(kernel, Buddy())
    assert keys(result) == {"pcp-list", "pcp-count"}
    [broken] = [each for each in result.findings if each.key == "pcp-list"]
    assert "after 3 pages" in broken.message or "after 4 pages" in broken.message


def test_a_per_cpu_list_that_leads_into_itself_comes_to_an_end() -> None:
    _, image, pages = stocked()
    with opened(image) as kernel:
        here = kernel.memmap.address(pages[2]) + kernel.list_heads.lru
    Spoiler(image).page(pages[2], "lru.next", here)
    Spoiler(image).page(pages[2], "lru.prev", here)
    with opened(image) as kernel:
        assert "pcp-list" in keys(run_one(kernel, Buddy()))


def test_blocks_freed_without_the_lock_are_found_in_kernels_that_have_them() -> None:
    # Linux 6.15 and newer; the page's links are a struct llist_node of their own.
    machine, image, _ = stocked("6.18")
    spoil = Spoiler(image)
    with machine.running(machine.task("bpf", 8), "vfs_write"):
        first, second = (machine.alloc_pages(0, GFP_KERNEL) for _ in range(2))
    offset = image.profile.types.member("struct page", "pcp_llist").offset
    with opened(image) as kernel:
        nodes = [kernel.memmap.address(pfn) + offset for pfn in (first, second)]
    spoil.zone("trylock_free_pages", nodes[0])
    for pfn, following, order in ((first, nodes[1], 0), (second, 0, 2)):
        spoil.page(pfn, "pcp_llist.next", following)
        member = "order" if image.profile.types.has("struct page", "order") else "private"
        spoil.page(pfn, member, order)
    with opened(image) as kernel:
        pcp = run_one(kernel, Buddy()).tables["pcp"].frame
    rows = pcp.filter(pcp["cpu"].is_null()).select("order", "blocks").rows()
    assert rows == [(0, 1), (2, 1)]


def test_the_number_that_a_node_gives_itself_may_be_garbage() -> None:
    def damage(_machine: Machine, spoil: Spoiler) -> None:
        at = spoil.image.profile.types.member("struct pglist_data", "node_id").offset
        with opened(spoil.image) as kernel:
            pgdat = kernel.target.prog["node_data"][0].value_()
        spoil.image.memory.write(spoil.image.addresses.phys(pgdat + at), b"\xfe\xff\xff\x7f")

    result = after(damage)
    assert result.findings == []
    assert result.tables["zones"].frame["node"].to_list() == [0, 0]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_damaged_there_is_an_answer_or_a_sentence(seed: int) -> None:
    _, image = machine_and_image()
    random = Random(seed)
    found = targets(image)
    for name in ("page array", "nodes and zones", "per-CPU areas", "kernel data"):
        if name in found and random.random() < 0.7:
            Damage(random.randrange(1 << 32)).memory(
                image.memory,
                {name: found[name]},
                address=image.addresses.direct,
                changes=random.randint(1, 30),
            )
    with opened(image) as kernel:
        for analysis in (Buddy(), Buddy(want=3), Reported()):
            # Anything but a result or a clear error is a failure.
            with suppress(MmdumpError):
                run_one(kernel, analysis)
        for file in (*FILES, PAGETYPEINFO):
            with suppress(MmdumpError):
                list(file.read(kernel, Ranges(kernel)))
