"""CMA areas of whatever the test bed has produced: the kernel's own files, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdump.kernel import Kernel
from mmdump.kernelfile import find_kernel_file
from mmdump.scan import Ranges, run_one
from mmdump.target import open_target
from mmdump_cma import FILES, Cma
from mmdump_page_pinner import CLIENTS
from testbed.check import reading
from tests.conformance.test_testbed import DUMPS, RUNS_VARIABLE

pytestmark = [
    pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed"),
    pytest.mark.parametrize(("run", "dump"), DUMPS),
]


def test_every_file_of_every_area_is_the_kernels_own(run: Path, dump: Path) -> None:
    before = run / "truth" / "before"
    names = {
        "/" + str(path.relative_to(before))
        for path in (before / "sys/kernel/debug/cma").rglob("*")
        if path.is_file() and path.name not in ("alloc", "free")
    }
    assert len(names) >= 6
    with open_target(dump, symbols=[run / "vmlinux"]) as target:
        kernel = Kernel(target, CLIENTS)
        for name in sorted(names):
            readings = set(reading(run, name))
            if len(readings) > 1:
                continue
            file = find_kernel_file(FILES, name)
            assert file.why_not(kernel) is None
            assert {b"".join(file.read(kernel, Ranges(kernel)))} == readings, name


def test_bitmap_and_pages_agree_and_blockers_are_those_that_pinned_finds(run: Path, dump: Path) -> None:
    with open_target(dump, symbols=[run / "vmlinux"]) as target:
        kernel = Kernel(target, CLIENTS)
        result = run_one(kernel, Cma())
        ours = result.tables["areas"].frame.to_dicts()
        blockers = result.tables["blockers"].frame
        page = target.page_size
    assert not result.incomplete
    assert {finding.key for finding in result.findings} <= {"cma-blocked", "cma-failed"}
    assert sum(row["blockers"] for row in ours) * page == blockers["size"].sum()
    for row in ours:
        assert row["used"] + row["free"] + row["movable"] + row["blockers"] * page == row["size"]
        assert row["counted"] in (None, row["used"])
        assert row["longest_now"] <= row["longest_without"] <= row["longest_clear"]
        for name, value in (
            ("used", row["used"]),
            ("maxchunk", row["longest_clear"]),
            ("count", row["size"]),
        ):
            [text, *others] = set(reading(run, f"/sys/kernel/debug/cma/{row['area']}/{name}"))
            assert others or int(text) * page == value
