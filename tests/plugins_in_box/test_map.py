"""The map of memory: every page is counted once, as what the machine knows it to be."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest

from mmdump.amounts import bytes_text
from mmdump.kernel import Kernel
from mmdump.result import Map, Result
from mmdump.scan import run_one
from mmdump_page_pinner.marks import CLIENTS
from mmdump_pages import MemoryMap
from mmdump_pages.memory_map import USES
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Machine
from mmdump_snapshots.model.truth import Truth
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import Image, build
from tests.snapshots.machines import PROFILES

SCENARIO = {scenario.name: scenario for scenario in SCENARIOS}


@cache
def played(scenario: str, name: str) -> tuple[Machine, Image]:
    machine = SCENARIO[scenario].play(profile(name))
    return machine, build(machine, profile(name), kaslr=3)


def mapped(image: Image) -> tuple[Result, pl.DataFrame]:
    with image.target() as target:
        result = run_one(Kernel(target, CLIENTS), MemoryMap())
    assert not result.incomplete
    return result, result.tables["cells"].frame


@pytest.mark.parametrize("name", PROFILES)
def test_every_page_is_counted_once(name: str) -> None:
    machine, image = played("cma-failure", name)
    result, cells = mapped(image)
    assert result.coverage is not None
    assert cells["pages"].sum() == result.coverage.pages == sum(zone.spanned for zone in machine.zones)
    assert (cells.select(pl.sum_horizontal(USES[1:])).to_series() == cells["pages"]).all()
    assert cells["start_pfn"].is_sorted()
    totals = result.tables["totals"].frame
    assert totals["size"].sum() == cells["pages"].sum() * profile(name).page_size


@pytest.mark.parametrize("name", PROFILES)
def test_what_no_zone_spans_is_no_memory(name: str) -> None:
    """The machine ends within a memory section, whose pages all have a struct page."""
    machine = SCENARIO["idle"].play(profile(name), memory=200 << 20 << (profile(name).page_shift - 12))
    result, cells = mapped(build(machine, profile(name)))
    assert result.coverage is not None
    spanned = sum(zone.spanned for zone in machine.zones)
    assert cells["pages"].sum() == spanned < result.coverage.pages
    assert cells["start_pfn"].max() < machine.zones[-1].end_pfn
    assert (cells.select(pl.sum_horizontal(USES[1:])).to_series() == cells["pages"]).all()
    [note] = [note for note in result.notes if note.startswith("Not counted: ")]
    left = (result.coverage.pages - spanned) * profile(name).page_size
    assert f" {bytes_text(left)} " in note


@pytest.mark.parametrize("name", PROFILES)
def test_free_pages_are_the_machines(name: str) -> None:
    machine, image = played("cma-failure", name)
    _, cells = mapped(image)
    truth = Truth.of(machine).free
    # Pages on per-CPU lists are free too.
    assert cells["free"].sum() == truth.pages + sum(each.pages for each in truth.pcp.values())


def test_pinned_pages_are_those_that_are_held() -> None:
    machine, image = played("cma-failure", "6.12")
    _, cells = mapped(image)
    held = {page.pfn for page in Truth.of(machine).pinned if page.state == "held"}
    blocks = np.array(sorted(held)) // 512
    assert cells["pinned"].sum() == len(held) == 16
    assert cells.filter(pl.col("pinned") > 0)["start_pfn"].to_list() == sorted({int(b) * 512 for b in blocks})
    assert set(cells.filter(pl.col("pinned") > 0)["migratetype"]) == {"CMA"}


def test_reported_pages_are_those_that_the_machine_reported() -> None:
    machine, image = played("balloon", "6.12")
    _, cells = mapped(image)
    truth = Truth.of(machine).free
    assert cells["reported"].sum() == truth.reported.pages > 0
    assert cells["free"].sum() == truth.pages - truth.reported.pages + sum(
        each.pages for each in truth.pcp.values()
    )


def test_it_is_drawn_as_a_map() -> None:
    chart = MemoryMap().finish.__globals__["CELLS"].chart
    assert isinstance(chart, Map)
    assert chart.parts == USES[1:]


def test_pieces_of_a_cell_that_is_larger_than_a_range_are_summed() -> None:
    columns = {"cell": [3, 3, 4], "pages": [10, 20, 5], "node": [0, -1, 1], "zone": [1, 255, 2]}
    frame = pl.DataFrame(columns | {"migratetype": [0, 1, 2]} | {use: [1, 2, 3] for use in USES[1:]})
    frame = frame.with_columns(pl.col("zone", "migratetype").cast(pl.UInt8))
    folded = MemoryMap().fold("cells", frame)
    assert folded["pages"].to_list() == [30, 5]
    assert folded["node"].to_list() == [0, 1]
    assert folded["zone"].to_list() == [1, 2]
    # 254 stands for several.
    assert folded["migratetype"].to_list() == [254, 2]
    assert folded["free"].to_list() == [3, 3]
