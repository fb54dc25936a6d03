"""What page-owner says of a real vmcore, against the kernel's own list of allocations."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mmdump.kernel import Kernel
from mmdump.plugins import Plugins
from mmdump.result import Result
from mmdump.scan import run_one


@pytest.fixture(scope="module")
def owner(kernel: Kernel, plugins: Plugins) -> Any:
    analysis = plugins.analyses()["page-owner"]

    def run(**options: Any) -> Result:
        return run_one(kernel, analysis(**options))

    return run


def counted(result: Result, *keys: str) -> Counter[tuple[Any, ...]]:
    frame = result.tables["groups"].frame.select(*keys, "allocations")
    return Counter({row[:-1]: row[-1] for row in frame.iter_rows()})


def close(ours: Counter[Any], theirs: Counter[Any], part: float = 0.005) -> None:
    """Between the reading of the file and the dump a few pages moved."""
    moved = sum(abs(ours[key] - theirs[key]) for key in ours | theirs)
    assert moved <= part * sum(theirs.values()), (ours - theirs, theirs - ours)


@pytest.mark.parametrize(
    ("options", "columns", "of"),
    [
        ({"cull": ("pid,name",)}, ("pid", "comm"), lambda each: (each.pid, each.comm)),
        ({"cull": ("tgid",)}, ("tgid",), lambda each: (each.tgid,)),
        ({"by": ("order",)}, ("order",), lambda each: (each.order,)),
        ({"by": ("gfp",)}, ("gfp_flags",), lambda each: (each.gfp_flags,)),
    ],
)
def test_allocations_by_a_key_are_those_the_kernel_listed(owner, owner_text, options, columns, of) -> None:
    theirs = Counter(of(record) for record in owner_text.values())
    close(counted(owner(**options), *columns), theirs)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"pid": ("70",)}, lambda each: each.pid == 70),
        ({"comm": ("dd", "w*")}, lambda each: each.comm == "dd" or each.comm.startswith("w")),
        ({"order": ("9",)}, lambda each: each.order == 9),
        ({"gfp": ("__GFP_MOVABLE,__GFP_ZERO",)}, lambda each: each.gfp_mask & 0x108 == 0x108),
        ({"pfn": ("0x8000-0x8fff",)}, lambda each: 0x8000 <= each.pfn <= 0x8FFF),
        ({"since": "@2", "until": "@3"}, lambda each: 2e9 <= each.ts_nsec <= 3e9),
        (
            {"stack": ("do_huge_pmd_anonymous_page",)},
            lambda each: "do_huge_pmd_anonymous" in "".join(each.stack),
        ),
        ({"stack": ("/cma_alloc/",)}, lambda each: any("cma_alloc" in frame for frame in each.stack)),
        (
            {"kind": ("anon",)},
            lambda each: "anon" in each.flags or ("swapbacked" in each.flags and "lru" in each.flags),
        ),
    ],
)
def test_a_filter_leaves_the_allocations_that_the_kernel_listed_so(
    owner, owner_text, options, wanted
) -> None:
    theirs = sum(map(wanted, owner_text.values()))
    ours = owner(**options).tables["groups"].frame["allocations"].sum()
    assert theirs > 0
    if "kind" in options:
        # The kernel's flags do not tell anonymous pages from shmem's.
        ours += owner(kind=("shmem",)).tables["groups"].frame["allocations"].sum()
    assert abs(ours - theirs) <= max(8, 0.02 * theirs)


def test_every_key_sums_to_the_same_pages(owner, plugins: Plugins) -> None:
    from mmdump_page_owner.keys import KEYS

    whole = owner().tables["groups"].frame
    for key in KEYS:
        groups = owner(by=(key,)).tables["groups"].frame
        assert groups["pages"].sum() == whole["pages"].sum(), key
        assert groups["allocations"].sum() == whole["allocations"].sum(), key


def test_an_ordinary_machine_is_not_suspected_of_a_leak(owner) -> None:
    result = owner()
    assert "suspects" not in result.tables
    assert {each.key for each in result.findings} <= {"page-owner-early", "page-owner-dummy"}
    early = next(each for each in result.findings if each.key == "page-owner-early")
    assert "early_handle" in early.message


def test_pages_freed_by_madvise_are_found_by_who_freed_them(owner) -> None:
    result = owner(free=True)
    largest = result.tables["groups"].frame.row(0, named=True)
    assert any(frame.startswith("__x64_sys_madvise+") for frame in largest["frames"])
    by_pid = owner(free=True, by=("pid",), stack=("__x64_sys_madvise",)).tables["groups"].frame
    assert by_pid.row(0, named=True)["pages"] == largest["pages"]


def test_frames_have_source_lines_and_inlined_functions_when_asked(owner) -> None:
    [plain, lines, inlined] = [
        owner(stack=("do_huge_pmd_anonymous_page",), **options).tables["groups"].frame["frames"][0].to_list()
        for options in ({}, {"lines": True}, {"lines": True, "inline": True})
    ]
    assert len(plain) == len(lines) <= len(inlined)
    for before, after in zip(plain, lines, strict=True):
        assert after == before or after.startswith(f"{before} (")
    assert any(
        frame.startswith("do_huge_pmd_anonymous_page+") and "(mm/huge_memory.c:" in frame for frame in lines
    )
    assert set(lines) <= set(inlined)
