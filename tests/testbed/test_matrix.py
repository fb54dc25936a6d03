"""The page that shows how what mmdump reads compares with the kernel's own files."""

from __future__ import annotations

from testbed.conformance import FILES, NO_FILE, Comparison
from testbed.matrix import _Kernel
from testbed.sort import SORT
from testbed.told import TOLD


def _compared(**counts: tuple[int, int]) -> list[Comparison]:
    """All files, of which those are there whose last name is given: records, and how many are equal."""
    made = []
    for file in (*FILES, SORT, TOLD):
        stable, equal = counts.get(file.rsplit("/", 1)[-1], (0, 0))
        made.append(Comparison(file, stable, equal, absent=None if stable else NO_FILE))
    return made


def test_all_equal_is_100_percent_and_a_file_that_no_dump_has_is_left_out() -> None:
    kernel = _Kernel("6.12", "6.12.117", [("elf", _compared(page_owner=(31000, 31000)), [])])
    assert kernel.perfect
    assert kernel.summary() == "| 6.12 | 6.12.117 | elf | 31,000 | 100 % | as the workload says |"
    assert kernel.table().splitlines()[2:] == [
        "| file | elf |",
        "|---|---:|",
        "| `/sys/kernel/debug/page_owner` | 31,000 of 31,000 (100 %) |",
    ]


def test_one_record_of_a_million_keeps_it_from_being_all() -> None:
    kernel = _Kernel("6.12", "6.12.117", [("elf", _compared(kpageflags=(1000000, 999999)), [])])
    assert not kernel.perfect
    assert "| 1,000,000 | 99.999 % |" in kernel.summary()


def test_what_pinned_gets_wrong_and_what_is_refused_is_said() -> None:
    compared = _compared(page_owner=(5, 5))
    compared[1].absent = "page_owner counts no stacks here"
    kernel = _Kernel("6.1", "6.1.176", [("elf", compared, ["PFN 5 is missing"])])
    assert not kernel.perfect
    assert kernel.summary().endswith("| PFN 5 is missing |")
    assert kernel.table().splitlines()[-1] == (
        "- `/sys/kernel/debug/page_owner_stacks/show_stacks`, elf: page_owner counts no stacks here"
    )


def test_a_kernel_that_could_not_be_run_is_no_success() -> None:
    kernel = _Kernel("7.x", failed="it did not boot")
    assert not kernel.perfect
    assert "it did not boot" in kernel.summary()
    assert kernel.table() == ""
