"""`mmdump cma` on machines that are known: areas, ranges, blockers, and bitmaps that lie."""

from __future__ import annotations

import numpy as np
import pytest

from mmdump.kernel import Kernel
from mmdump.kernelfile import find_kernel_file
from mmdump.render import Query
from mmdump.result import Result, Severity
from mmdump.scan import Ranges, run_one
from mmdump_cma import FILES, Cma
from mmdump_page_pinner import CLIENTS
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Boot, Machine
from mmdump_snapshots.model.cma import cma_alloc
from mmdump_snapshots.model.truth_pinned import pinned_pages
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import build
from mmdump_snapshots.writer.modelstate import ModelState
from mmdump_snapshots.writer.state import CmaState
from tests.snapshots.machines import PROFILES

[FAILURE] = [each for each in SCENARIOS if each.name == "cma-failure"]
RANGES = [name for name in PROFILES if profile(name).version >= (6, 15)]


def _kernel(machine: Machine, name: str) -> Kernel:
    return Kernel(build(machine, profile(name), kaslr=3).target(), CLIENTS)


def _text(kernel: Kernel, path: str) -> str:
    file = find_kernel_file(FILES, path)
    assert file.why_not(kernel) is None
    return b"".join(file.read(kernel, Ranges(kernel))).decode()


def _row(result: Result, table: str = "areas") -> dict[str, object]:
    [row] = result.tables[table].frame.to_dicts()
    return row


def _longest(free: np.ndarray) -> int:
    return max(map(len, "".join(".#"[not each] for each in free.tolist()).split("#")))


@pytest.mark.parametrize("name", PROFILES)
def test_what_blocks_an_area_is_what_the_machine_holds_there(name: str) -> None:
    machine = FAILURE.play(profile(name))
    [area] = machine.cma
    given = cma_alloc(machine, area, 64)
    kernel = _kernel(machine, name)
    result = run_one(kernel, Cma())
    page = kernel.target.page_size
    held = {each.pfn for each in pinned_pages(machine) if each.state == "held"}
    free = ~area.bitmap
    blocked = np.array([pfn in held for pfn in range(area.base_pfn, area.end_pfn)]) & free
    row = _row(result)
    assert blocked.any()
    assert row["blockers"] == blocked.sum()
    assert row["size"] == area.count * page
    assert row["used"] == int(area.bitmap.sum()) * page
    assert row["longest_clear"] == row["longest_without"] == _longest(free) * page
    assert row["longest_now"] == _longest(free & ~blocked) * page
    assert row["used"] + row["free"] + row["movable"] + row["blockers"] * page == row["size"]
    blockers = result.tables["blockers"].frame
    assert blockers["size"].sum() == row["blockers"] * page
    assert any("foll_pin" in each or "excess" in each for each in blockers["evidence"])
    counts = profile(name).version >= (5, 13)
    assert (row["succeeded"], row["failed"]) == ((area.succeeded, area.failed) if counts else (None, None))
    assert area.succeeded == (0 if given is None else 64)
    assert area.failed > area.count
    # There is no log here that would say so.
    keys = ["cma-blocked", "cma-failed"] if counts else ["cma-blocked"]
    assert [finding.key for finding in result.findings] == keys
    assert not result.incomplete


@pytest.mark.parametrize("name", PROFILES)
def test_the_kernels_files_are_the_machines_numbers(name: str) -> None:
    machine = FAILURE.play(profile(name))
    [area] = machine.cma
    cma_alloc(machine, area, 64)
    kernel = _kernel(machine, name)
    words = np.packbits(area.bitmap, bitorder="little").view("<u4").tolist()
    assert _text(kernel, "reserved/base_pfn") == f"{area.base_pfn}\n"
    assert _text(kernel, "reserved/count") == f"{area.count}\n"
    assert _text(kernel, "reserved/used") == f"{area.bitmap.sum()}\n"
    assert _text(kernel, "reserved/maxchunk") == f"{_longest(~area.bitmap)}\n"
    assert _text(kernel, "reserved/order_per_bit") == "0\n"
    assert _text(kernel, "reserved/bitmap") == " ".join(map(str, words)) + "\n"
    ranges = find_kernel_file(FILES, "reserved/ranges/0/bitmap")
    if name in RANGES:
        assert _text(kernel, ranges.path) == _text(kernel, "reserved/bitmap")
        assert find_kernel_file(FILES, "reserved/ranges/1/bitmap").why_not(kernel) is not None
    else:
        assert ranges.why_not(kernel) is not None


@pytest.mark.parametrize("name", RANGES)
def test_an_area_of_two_ranges_is_one_area_and_no_run_crosses_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(
        profile(name).era, arch=profile(name).arch, memory=256 << 20, boot=Boot(cma=(("two", 32 << 20),))
    )
    [area] = machine.cma
    cma_alloc(machine, area, 100)
    half = area.count // 2
    monkeypatch.setattr(
        ModelState,
        "cma",
        [
            CmaState(
                "two",
                [(area.base_pfn, half), (area.base_pfn + half, area.count - half)],
                0,
                [area.bitmap[:half], area.bitmap[half:]],
            )
        ],
    )
    kernel = _kernel(machine, name)
    result = run_one(kernel, Cma())
    page = kernel.target.page_size
    row = _row(result)
    assert (row["area"], row["ranges"], row["size"]) == ("two", 2, area.count * page)
    assert row["used"] == row["counted"] == 100 * page
    assert row["longest_clear"] == row["longest_now"] == (area.count - half) * page
    parts = result.tables["ranges"].frame.to_dicts()
    assert [(each["area"], each["range"], each["base_pfn"], each["used"]) for each in parts] == [
        ("two", 0, area.base_pfn, 100 * page),
        ("two", 1, area.base_pfn + half, 0),
    ]
    assert "ranges" in result.text_tables
    assert result.findings == []
    assert _text(kernel, "two/count") == f"{area.count}\n"
    assert _text(kernel, "two/used") == "100\n"
    assert _text(kernel, "two/maxchunk") == f"{area.count - half}\n"
    assert _text(kernel, "two/ranges/1/base_pfn") == f"{area.base_pfn + half}\n"
    assert _text(kernel, "two/ranges/0/bitmap") == _text(kernel, "two/bitmap")
    assert set(_text(kernel, "two/ranges/1/bitmap").split()) == {"0"}


@pytest.mark.parametrize("name", PROFILES)
def test_free_pages_that_the_bitmap_has_given_out_are_a_problem(name: str) -> None:
    memory = 192 << 20 << (profile(name).page_shift - 12)
    machine = Machine(
        profile(name).era, arch=profile(name).arch, memory=memory, boot=Boot(cma=(("it's", memory // 6),))
    )
    [area] = machine.cma
    cma_alloc(machine, area, 32)
    assert run_one(_kernel(machine, name), Cma()).findings == []
    area.bitmap[300:310] = True
    result = run_one(_kernel(machine, name), Cma())
    [finding] = result.findings
    assert (finding.key, finding.severity) == ("cma-bitmap", Severity.PROBLEM)
    assert f"10 pages are allocated by its bitmap, but free, the first at PFN {area.base_pfn + 300:#x}" in (
        finding.message
    )
    table = result.tables[finding.table]
    assert len(Query(finding.where).table(table).frame) == 1


def test_a_kernel_without_areas_says_so() -> None:
    machine = Machine(profile("6.12").era, arch="x86_64", memory=64 << 20)
    assert Cma().why_not(_kernel(machine, "6.12")) == "this kernel has no CMA area"
    assert find_kernel_file(FILES, "x/used").why_not(_kernel(machine, "6.12")).endswith("has: none")
