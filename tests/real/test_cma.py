"""CMA areas of the real vmcore, against the kernel's own files."""

from __future__ import annotations

import pytest

from mmdump.errors import UsageError
from mmdump.kernel import Kernel
from mmdump.kernelfile import find_kernel_file
from mmdump.scan import Ranges, run_one
from mmdump_cma import FILES, Cma
from mmdump_page_pinner import Pinned
from tests.conftest import Sample


@pytest.mark.parametrize("name", ["base_pfn", "bitmap", "count", "maxchunk", "order_per_bit", "used"])
def test_the_files_of_the_area_are_the_kernels_own(kernel: Kernel, sample: Sample, name: str) -> None:
    file = find_kernel_file(FILES, f"reserved/{name}")
    assert file.path == f"/sys/kernel/debug/cma/reserved/{name}"
    assert file.why_not(kernel) is None
    assert b"".join(file.read(kernel, Ranges(kernel))) == sample.truth(f"cma_{name}.txt")


def test_areas_and_ranges_that_are_not_there_are_said(kernel: Kernel) -> None:
    assert "this kernel has: reserved" in find_kernel_file(FILES, "cma/nosuch/used").why_not(kernel)
    # 6.12 has no directory of ranges.
    assert "one range" in find_kernel_file(FILES, "reserved/ranges/0/bitmap").why_not(kernel)
    with pytest.raises(UsageError):
        find_kernel_file(FILES, "used")


def test_every_page_is_accounted_for_and_blockers_are_those_of_pinned(kernel: Kernel, sample: Sample) -> None:
    result = run_one(kernel, Cma())
    [row] = result.tables["areas"].frame.to_dicts()
    [theirs] = run_one(kernel, Pinned(cma="*")).tables["cma"].frame.to_dicts()
    assert {name: row[name] for name in theirs if name in row} == {
        name: value for name, value in theirs.items() if name in row
    }
    assert row["size"] == row["used"] + row["free"] + row["movable"] + row["blockers"] * 4096
    assert row["used"] == int(sample.truth("cma_used.txt")) * 4096
    assert result.tables["blockers"].frame["size"].sum() == row["blockers"] * 4096
    assert [finding.key for finding in result.findings] == ["cma-failed", "cma-blocked"]
    # The kernel's own words: "__cma_alloc: reserved: alloc failed, req-size: 16384 pages, ret: -16".
    assert "16,384 pages (64 MiB) failed with EBUSY" in result.findings[0].message
    assert not result.incomplete
