"""`mmdump alloc-tags` and /proc/allocinfo on machines that are known, and on tags that are damaged."""

from __future__ import annotations

import dataclasses
import struct
from functools import cache
from random import Random

import numpy as np
import pytest

from mmdump.errors import IncompleteError, MmdumpError, UnsupportedError
from mmdump.kernel import Kernel
from mmdump.pagenotes import AskedPages
from mmdump.result import Result
from mmdump.scan import Ranges, run_one
from mmdump_alloc_tags import ALLOC_TAGGING, AllocTagsAnalysis
from mmdump_alloc_tags.files import ALLOCINFO
from mmdump_alloc_tags.notes import tag_notes
from mmdump_page_owner import PAGE_OWNER
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Boot, Machine
from mmdump_snapshots.model.gfp import GFP_KERNEL, Gfp
from mmdump_snapshots.model.pages import PageType
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import Image, build, build_state
from mmdump_snapshots.writer.tags import INACCURATE, MODULE, MODULE_FILE, MODULE_FUNCTIONS, line_of, sites
from tests.snapshots.machines import PROFILES

PROFILED = [name for name in PROFILES if profile(name).version >= (6, 10)]
KINDS = [(name, False) for name in PROFILED] + [
    (name, True) for name in PROFILED if profile(name).version >= (6, 13)
]
BY_NAME = {each.name: each for each in SCENARIOS}
#: Allocates blocks that are no compound pages before page_owner is ready: how large they are is not known.
DEPOT = "stack_depot_save_flags"


@cache
def _played(name: str, *, compressed: bool = False) -> Machine:
    """A machine that nobody may change: a CMA allocation failed, so that pages were migrated."""
    story = BY_NAME["cma-failure"]
    boot = {**story.boot, "mem_profiling": True, "mem_profiling_compressed": compressed}
    return dataclasses.replace(story, boot=boot).play(
        profile(name), memory=128 << profile(name).page_shift + 8
    )


def _kernel(machine: Machine, name: str) -> Kernel:
    return _opened(build(machine, profile(name), kaslr=3))


def _opened(image: Image) -> Kernel:
    return Kernel(image.target(), (PAGE_OWNER, ALLOC_TAGGING))


def _file(kernel: Kernel) -> bytes:
    assert ALLOCINFO.why_not(kernel) is None
    return b"".join(ALLOCINFO.read(kernel, Ranges(kernel)))


def _rows(result: Result) -> dict[str, dict[str, object]]:
    return {row["function"]: row for row in result.tables["sites"].frame.to_dicts()}


@pytest.mark.parametrize(("name", "compressed"), KINDS)
def test_each_function_has_what_it_allocated(name: str, compressed: bool) -> None:
    machine = _played(name, compressed=compressed)
    assert machine.alloc_tags is not None
    result = run_one(_kernel(machine, name), AllocTagsAnalysis())
    truth = machine.alloc_tags.truth()
    rows = _rows(result)
    assert {function: (row["bytes"], row["calls"]) for function, row in rows.items()} == {
        function: (each.bytes, each.calls)
        for function, each in truth.items()
        if each.bytes or each.calls or each.pages
    }
    assert len(rows) > 3
    for function, row in rows.items():
        if function == DEPOT:
            assert 0 < row["pages"] <= truth[function].pages
        else:
            assert row["pages"] == truth[function].pages
            assert row["not_found"] == 0 or not row["calls"]
        assert row["objects"] == truth[function].objects
        assert (row["file"], row["line"]) == next(
            (file, line) for file, line, other in sites(profile(name)) if other == function
        )
    sizes = [row["bytes"] for row in result.tables["sites"].frame.to_dicts()]
    assert sizes == sorted(sizes, reverse=True)
    assert not result.incomplete
    assert sum(row["objects"] for row in rows.values()) > 20
    # Nothing that is free refers to a line, and no page to nothing.
    assert not {finding.key for finding in result.findings} & {"alloc-tags-unknown", "alloc-tags-stale"}


@pytest.mark.parametrize("name", PROFILED)
def test_migration_is_counted_as_that_kernel_does(name: str) -> None:
    """Up to 6.12 pages are taken off where bytes should be."""
    machine = _played(name)
    row = _rows(run_one(_kernel(machine, name), AllocTagsAnalysis(all=True)))["alloc_migration_target"]
    page = profile(name).page_size
    assert row["pages"] == row["calls"] == 0
    if profile(name).version < (6, 13):
        assert row["bytes"] > 0
        assert row["bytes"] % (page - 1) == 0
    else:
        assert row["bytes"] == 0


@pytest.mark.parametrize("name", PROFILED)
def test_allocinfo_has_every_line_in_the_kernels_order(name: str) -> None:
    machine = _played(name)
    assert machine.alloc_tags is not None
    truth = machine.alloc_tags.truth()
    version = "2.0" if profile(name).version >= (6, 18) else "1.0"
    expected = [f"allocinfo - version: {version}", "#     <size>  <calls> <tag info>"]
    for file, line, function in sites(profile(name)):
        each = truth.get(function)
        size, calls = (each.bytes, each.calls) if each else (0, 0)
        mark = " accurate:no" if function == INACCURATE and version == "2.0" else ""
        expected.append(f"{size:12} {calls:8} {file}:{line} func:{function}{mark} ")
    expected += [
        f"{0:12} {0:8} {MODULE_FILE}:{line_of(each)} [{MODULE}] func:{each} " for each in MODULE_FUNCTIONS
    ]
    assert _file(_kernel(machine, name)).decode() == "\n".join([*expected, ""])


@pytest.mark.parametrize("name", PROFILED)
def test_a_kernel_that_is_not_profiled_says_how_it_would_be(name: str) -> None:
    machine = Machine(profile(name).era, arch=profile(name).arch, memory=64 << 20)
    kernel = _kernel(machine, name)
    with pytest.raises(UnsupportedError, match=r"not enabled: boot with sysctl\.vm\.mem_profiling=1"):
        run_one(kernel, AllocTagsAnalysis())
    assert tag_notes(kernel, AskedPages(kernel, [machine.ram[0][0]])) == {}
    if profile(name).version >= (6, 13):
        assert "sysctl.vm.mem_profiling=1" in (ALLOCINFO.why_not(kernel) or "")
    else:
        # There the file is always there, with lines that say nothing.
        lines = _file(kernel).splitlines()[2:]
        assert len(lines) == len(sites(profile(name))) + len(MODULE_FUNCTIONS)
        assert all(line.split()[:2] == [b"0", b"0"] for line in lines)


def test_a_kernel_without_it_says_so() -> None:
    kernel = _kernel(Machine(profile("6.6").era, memory=64 << 20), "6.6")
    with pytest.raises(UnsupportedError, match="CONFIG_MEM_ALLOC_PROFILING"):
        run_one(kernel, AllocTagsAnalysis())
    assert "CONFIG_MEM_ALLOC_PROFILING" in (ALLOCINFO.why_not(kernel) or "")


@pytest.mark.parametrize(("name", "compressed"), [("6.12", False), ("7.1", True)])
def test_every_page_of_an_allocation_tells_the_line(name: str, compressed: bool) -> None:
    machine = _played(name, compressed=compressed)
    assert machine.alloc_tags is not None
    function = "do_huge_pmd_anonymous_page"
    number = machine.alloc_tags.functions.index(function)
    head = int((machine.alloc_tags.ref == number + 1).argmax())
    free = int(np.flatnonzero(machine.pages.type == PageType.BUDDY)[0])
    kernel = _kernel(machine, name)
    notes = tag_notes(kernel, AskedPages(kernel, [head, head + 5, free]))
    for pfn in (head, head + 5):
        facts = {fact.label: fact.value for fact in notes[pfn][0].facts}
        assert facts["function"] == function
        assert facts["line"] == f"mm/huge_memory.c:{line_of(function)}"
    assert not notes[free][0].facts


def test_only_what_was_asked_for_is_shown() -> None:
    machine = _played("6.12")
    kernel = _kernel(machine, "6.12")
    some = _rows(run_one(kernel, AllocTagsAnalysis(file=("mm/*",), function=("do_*",))))
    assert set(some) == {"do_anonymous_page", "do_huge_pmd_anonymous_page"}
    everything = run_one(kernel, AllocTagsAnalysis(all=True)).tables["sites"].frame
    assert len(everything) == len(sites(profile("6.12"))) + len(MODULE_FUNCTIONS)
    module = run_one(kernel, AllocTagsAnalysis(all=True, module=("ig*",))).tables["sites"].frame
    assert sorted(module["function"]) == sorted(MODULE_FUNCTIONS)
    own = run_one(kernel, AllocTagsAnalysis(module=("vmlinux",))).tables["sites"].frame
    assert own["module"].null_count() == len(own) > 0


# Damage.


def _image(name: str = "6.12") -> Image:
    boot = Boot(mem_profiling=True)
    machine = Machine(profile(name).era, arch=profile(name).arch, memory=64 << 20, boot=boot)
    with machine.running(machine.task("worker"), "pipe_write", "vfs_write"):
        for _ in range(50):
            machine.alloc_pages(0, GFP_KERNEL)
    return build(machine, profile(name), kaslr=1)


def _phys(image: Image, name: str) -> int:
    return image.addresses.kernel_phys(image.vmlinux.variable(name)[0])


def _word(image: Image, phys: int) -> int:
    return int.from_bytes(image.memory.read(phys, 8), "little")


def _answers(image: Image) -> list[str]:
    """What all that reads tags says to be missing; nothing else may be raised."""
    said: list[str] = []
    kernel = _opened(image)
    for ask in (
        lambda: run_one(kernel, AllocTagsAnalysis()).incomplete,
        lambda: [] if _file(kernel) else ["empty"],
        lambda: list(tag_notes(kernel, AskedPages(kernel, [4096, 5000]))) and [],
    ):
        try:
            said += ask()
        except MmdumpError as error:
            said.append(error.message)
    return said


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_tags_there_is_an_answer(seed: int) -> None:
    image, random = _image(), Random(seed)
    types = image.profile.types
    tag_size = types.sizeof("struct alloc_tag")
    kind = image.addresses.phys(_word(image, _phys(image, "alloc_tag_cttype")))
    node = _word(image, kind + types.member("struct codetag_type", "mod_idr.idr_rt.xa_head").offset)
    places = [
        (_phys(image, "_alloc_tag"), 200 * tag_size),
        (kind, types.sizeof("struct codetag_type")),
        (image.addresses.phys(node - 2), types.sizeof("struct xa_node")),
        (_phys(image, "alloc_tag_cttype"), 8),
    ]
    start, size = places[seed % len(places)]
    raw = bytearray(image.memory.read(start, size))
    for _ in range(random.randrange(1, 40)):
        at = random.randrange(0, len(raw), 8)
        raw[at : at + 8] = random.choice(
            [
                random.randbytes(8),
                b"\xff" * 8,
                bytes(8),
                struct.pack("<Q", node),
                struct.pack("<Q", image.addresses.direct(random.randrange(0, 64 << 20, 8))),
            ]
        )
    image.memory.write(start, raw)
    _answers(image)


def test_tags_of_a_lost_register_are_found_by_their_section() -> None:
    image = _image()
    image.memory.write(_phys(image, "alloc_tag_cttype"), bytes(8))
    kernel = _opened(image)
    result = run_one(kernel, AllocTagsAnalysis(all=True))
    assert len(result.tables["sites"].frame) == len(sites(profile("6.12")))
    assert any("which modules" in sentence for sentence in result.incomplete)
    with pytest.raises(IncompleteError, match="which modules"):
        _file(kernel)


def test_a_register_that_leads_in_a_circle_has_an_end() -> None:
    image = _image()
    types = image.profile.types
    kind = image.addresses.phys(_word(image, _phys(image, "alloc_tag_cttype")))
    node = _word(image, kind + types.member("struct codetag_type", "mod_idr.idr_rt.xa_head").offset)
    slots = types.member("struct xa_node", "slots").offset
    at = image.addresses.phys(node - 2)
    image.memory.write(at, bytes([6]))
    image.memory.write(at + slots, struct.pack("<Q", node) * 64)
    assert any(
        "garbage or unreadable" in sentence or "which modules" in sentence for sentence in _answers(image)
    )


def test_counters_that_cannot_be_read_are_not_zero() -> None:
    image = _image()
    types = image.profile.types
    number = [function for _, _, function in sites(image.profile)].index("pipe_write")
    at = _phys(image, "_alloc_tag") + number * types.sizeof("struct alloc_tag")
    image.memory.write(
        at + types.member("struct alloc_tag", "counters").offset, struct.pack("<Q", 0x123456789000)
    )
    kernel = _opened(image)
    result = run_one(kernel, AllocTagsAnalysis())
    row = _rows(result)["pipe_write"]
    assert row["bytes"] is None
    assert row["calls"] is None
    assert row["pages"] == 50
    assert any("counters of 1 of" in sentence for sentence in result.incomplete)
    pieces = []
    with pytest.raises(IncompleteError, match="1 lines are left out"):
        pieces.extend(ALLOCINFO.read(kernel, Ranges(kernel)))
    assert len(pieces) == len(sites(image.profile)) + len(MODULE_FUNCTIONS)


def test_references_to_nothing_are_counted_apart() -> None:
    machine = Machine(profile("6.12").era, memory=64 << 20, boot=Boot(mem_profiling=True))
    with machine.running(machine.task("worker"), "pipe_write", "vfs_write"):
        pfns = [machine.alloc_pages(0, GFP_KERNEL) for _ in range(3)]
    image = build(machine, profile("6.12"), kaslr=1)
    ext = image.state.page_ext
    assert ext is not None
    offset, _ = ext.clients["page_alloc_tagging"]
    [(section, table)] = [(number, at) for number, at in ext.tables.items() if number == 0]
    assert section == 0
    for pfn, word in zip(pfns, (0xFFFF888012345678, 1, 0), strict=True):
        assert pfn is not None
        at = image.addresses.phys(table) + ext.stride * pfn + offset
        page = at & ~4095
        whole = bytearray(image.memory.read(page, 8192))
        whole[at - page : at - page + 8] = struct.pack("<Q", word)
        image.memory.write(page, bytes(whole))
    result = run_one(_opened(image), AllocTagsAnalysis())
    parts = {row["part"]: row["count"] for row in result.tables["sums"].frame.to_dicts()}
    assert parts["unknown tag"] == parts["exempt"] == 1
    assert [finding.key for finding in result.findings if "unknown" in finding.key] == ["alloc-tags-unknown"]


def test_without_page_owner_blocks_that_are_no_compound_pages_are_said_to_be_uncounted() -> None:
    machine = Machine(profile("6.12").era, memory=64 << 20, boot=Boot(mem_profiling=True, page_owner=False))
    with machine.running(machine.task("worker"), "pipe_write", "vfs_write"):
        machine.alloc_pages(3, GFP_KERNEL)
        machine.alloc_pages(3, GFP_KERNEL | Gfp.COMP)
    result = run_one(_kernel(machine, "6.12"), AllocTagsAnalysis())
    row = _rows(result)["pipe_write"]
    assert (row["bytes"], row["calls"], row["pages"], row["not_found"]) == (65536, 2, 9, 7 * 4096)
    assert any("Without page_owner" in note for note in result.notes)
    assert "alloc-tags-not-found" in {finding.key for finding in result.findings}


def test_counts_that_are_less_than_what_there_is_are_a_warning() -> None:
    image = _image()
    state = image.state.tags
    assert state is not None
    state.bytes[0][list(state.functions).index("pipe_write")] -= 8192  # type: ignore[index]
    result = run_one(_opened(build_state(image.state, image.profile, image.addresses)), AllocTagsAnalysis())
    row = _rows(result)["pipe_write"]
    assert (row["pages"], row["not_found"]) == (50, -8192)
    [finding] = [each for each in result.findings if each.key == "alloc-tags-uncounted"]
    assert "8 KiB less" in finding.message
