"""Whatever processes do, on every kernel: what ``mmdump thp`` decodes is what the machine knows."""

from __future__ import annotations

import contextlib
from functools import cache
from random import Random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump.errors import MmdumpError
from mmdump.kernel import Kernel
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.machine import Machine
from mmdump_snapshots.model.pages import PageFlag
from mmdump_snapshots.model.truth import Truth
from mmdump_snapshots.scenarios.corrupted import corrupt
from mmdump_snapshots.scenarios.thp import thp as scenario
from mmdump_snapshots.writer.image import Image, build
from mmdump_thp import Thp
from mmdump_thp.queue import broken_queues
from tests.snapshots.machines import PROFILES
from tests.snapshots.test_image_pinned import after_a_life

FACTS = (
    *("pfn", "order", "kind", "mapcount", "entire_mapcount", "pages_mapped", "partially_mapped"),
    *("double_map", "deferred"),
)
NAMES = [each for each in PROFILES if not each.endswith("16k")]


def decoded(image: Image) -> Result:
    return run_one(Kernel(image.target()), Thp())


def expected(machine: Machine) -> set[tuple[object, ...]]:
    return {
        (
            *(each.head_pfn, each.order, each.kind.name.lower(), each.mapcount, each.entire_mapcount),
            *(int((each.page_mapcounts > 0).sum()), each.partially_mapped, each.double_map),
            # A folio of two pages has no room for a link.
            each.deferred_split if each.order > 1 else None,
        )
        for each in Truth.of(machine).folios.values()
        if each.order
    }


def check(machine: Machine, found: Result) -> None:
    rows = found.tables["folios"].frame
    assert {tuple(row[fact] for fact in FACTS) for row in rows.iter_rows(named=True)} == expected(machine)
    assert rows["consistent"].all()
    assert set(rows["state"]) <= {"whole"}
    assert not len(found.tables["orphans"].frame)
    assert {each.key for each in found.findings} <= {"partially-mapped"}


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1 << 16))
@settings(max_examples=2)
def test_folios_are_the_machines_truth(name, seed):
    machine = after_a_life(name, seed)
    check(machine, decoded(build(machine, profile(name), kaslr=seed)))


@cache
def scene(name: str) -> tuple[Machine, Image]:
    kernel = profile(name)
    machine = Machine(kernel.era, arch=kernel.arch, memory=256 << (20 + kernel.page_shift - 12))
    scenario(machine)
    return machine, build(machine, kernel, kaslr=3)


@pytest.mark.parametrize("name", PROFILES)
def test_the_scenarios_huge_pages_cost_what_was_given_back(name):
    machine, image = scene(name)
    found = decoded(image)
    check(machine, found)
    size = machine.era.page_size << machine.era.pmd_order
    rows = found.tables["folios"].frame
    assert len(rows) == 20
    # The first four are half unmapped, by both processes.
    assert rows["waste"].sum() == 4 * size // 2
    assert [each.key for each in found.findings] == ["partially-mapped"]
    assert (rows["pincount"] > 0).sum() == (0 if name in ("4.19", "5.4") else 1)


def lose_the_head(machine: Machine, head: int) -> str:
    machine.pages.flags[head] &= ~np.uint32(PageFlag.HEAD)
    return "orphans"


def lose_a_tail(machine: Machine, head: int) -> str:
    machine.pages.tail[head + 5] = 0
    return "torn"


def lose_the_references(machine: Machine, head: int) -> str:
    machine.pages.refcount[head] = 0
    return "frozen"


def map_a_page_less_than_never(machine: Machine, head: int) -> str:
    machine.pages.mapcount[head + 3] -= 1000
    return "inconsistent-counters"


def count_a_page_too_many(machine: Machine, head: int) -> str:
    machine.rmap.folios[head].nr_pages_mapped += 1
    return "inconsistent-counters"


@pytest.mark.parametrize("name", ["4.19", "6.1", "6.6", "6.12", "7.1"])
@pytest.mark.parametrize(
    "spoil",
    [
        lose_the_head,
        lose_a_tail,
        lose_the_references,
        map_a_page_less_than_never,
        count_a_page_too_many,
    ],
)
def test_damage_to_a_folio_is_found_and_named(name, spoil):
    if spoil is count_a_page_too_many and name in ("4.19", "6.1"):
        pytest.skip("this kernel has no count that another could contradict")
    kernel = profile(name)
    machine = Machine(kernel.era, arch=kernel.arch, memory=256 << 20)
    scenario(machine)
    key = spoil(machine, next(head for head, each in Truth.of(machine).folios.items() if each.order))
    assert key in {each.key for each in decoded(build(machine, kernel, kaslr=3)).findings}


@pytest.mark.parametrize("name", ["4.19", "5.15", "6.12"])
def test_a_link_of_the_queue_that_does_not_lead_back_is_found(name):
    machine, image = scene(name)
    kernel, analysis = Kernel(image.target()), Thp()
    state = analysis.start(kernel)
    pages = [kernel.pages(*each) for each in kernel.memmap.chunks()]
    links = pl.concat([pl.DataFrame(analysis.scan(each, state)["links"]) for each in pages])
    assert len(links) == len(machine.rmap.deferred_split) > 2
    assert broken_queues(kernel, links) == ([], [])
    for column in ("next", "prev"):
        there = links[column].to_list()
        spoilt = links.with_columns(pl.Series(column, [there[-1], *there[1:]], dtype=pl.Int64))
        [finding], _ = broken_queues(kernel, spoilt)
        assert finding.key == "deferred-list-broken"


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_dump_has_an_answer_or_a_clear_error(seed):
    machine, _ = scene("6.12")
    image = build(machine, profile("6.12"), kaslr=3)
    corrupt(image, Random(seed))
    with contextlib.suppress(MmdumpError):
        decoded(image)
