"""Facts that differ from kernel to kernel: records, handles, names of bits, functions, variables."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import drgn
import pytest

from mmdump.kernel.names import FlagNames
from mmdump_page_owner.text import _pieces
from mmdump_snapshots.kernels import Profile, gfp, profile, profiles, rodata
from mmdump_snapshots.kernels.functions import catalogue, functions
from tests.conftest import Sample

NAMES = [*profiles(), "7.2"]
#: A directory of the test bed's runs, and which profile each of its kernels has to agree with.
RUNS_VARIABLE = "MMDUMP_TESTBED_RUNS"
RUNS = {
    "6.1": "6.1",
    "6.12": "6.12",
    "6.12-arm64": "6.12-arm64",
    "6.12-arm64-16k": "6.12-arm64-16k",
    "7.x": "7.2",
}


@pytest.fixture(params=NAMES)
def kernel(request: pytest.FixtureRequest) -> Profile:
    return profile(request.param)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("4.19", 12),
        ("5.4", 16),
        ("5.10", 16),
        ("5.15", 40),
        ("6.1", 56),
        ("6.6", 56),
        ("6.12", 64),
        ("7.1", 64),
    ],
)
def test_a_page_owner_record_grew_over_time(name: str, size: int) -> None:
    assert profile(name).types.sizeof("struct page_owner") == size


def test_a_handle_has_the_widths_that_the_model_knows(kernel: Profile) -> None:
    types, era = kernel.types, kernel.era

    def width(*names: str) -> int:
        for name in names:
            if types.has("union handle_parts", name):
                return types.member("union handle_parts", name).bit_size
        return 0

    index = width("slabindex", "pool_index", "pool_index_plus_1")
    assert (index, width("offset"), width("valid"), width("extra")) == era.depot_handle_bits
    assert types.has("union handle_parts", "pool_index_plus_1") == era.depot_index_plus_1
    assert types.member("struct stack_record", "entries").offset == era.depot_header


def test_only_kernels_up_to_5_2_mark_guard_pages_in_page_ext(kernel: Profile) -> None:
    flags = kernel.types.enumerators("enum page_ext_flags")
    assert ("PAGE_EXT_DEBUG_GUARD" in flags) == kernel.era.guard_pages_in_page_ext
    assert ("PAGE_EXT_OWNER_ALLOCATED" in flags) == kernel.era.owner_on_every_page
    if kernel.era.android:
        # 12 has PAGE_EXT_GET before it.
        assert flags["PAGE_EXT_PINNER_MIGRATION_FAILED"] == (3 if "PAGE_EXT_GET" in flags else 2)
        assert "PAGE_EXT_PINNER" not in flags
    else:
        assert flags["PAGE_EXT_PINNER"] == max(flags.values())


@pytest.mark.parametrize(
    ("version", "kernel_mask", "movable"),
    [
        ((4, 19), 0x6000C0, 0x6200CA),
        ((5, 4), 0xCC0, 0x100CCA),
        ((5, 15), 0xCC0, 0x1100CCA),
        ((6, 1), 0xCC0, 0x100CCA),
        ((6, 12), 0xCC0, 0x100CCA),
    ],
)
def test_the_bits_of_gfp_masks_moved(version: tuple[int, int], kernel_mask: int, movable: int) -> None:
    assert gfp.mask(version, ["GFP_KERNEL"]) == kernel_mask
    assert gfp.mask(version, ["GFP_HIGHUSER_MOVABLE"]) == movable


def test_a_flag_that_a_kernel_lacks_adds_nothing() -> None:
    assert gfp.mask((6, 1), ["GFP_ATOMIC"]) == 0xA20
    assert gfp.mask((6, 12), ["GFP_ATOMIC", "__GFP_ATOMIC"]) == 0x820
    assert gfp.mask((6, 12), ["ZERO"]) == gfp.mask((6, 12), ["__GFP_ZERO"]) == 0x100


def test_masks_print_as_they_are_called(kernel: Profile) -> None:
    table = tuple((mask, name) for mask, name in gfp.flag_names(kernel.version) if name is not None)
    names = FlagNames(table, (1 << 32) - 1)
    assert names.split(gfp.mask(kernel.version, ["GFP_KERNEL", "__GFP_ZERO"])) == ["GFP_KERNEL", "__GFP_ZERO"]
    assert names.split(gfp.mask(kernel.version, ["GFP_TRANSHUGE"])) == ["GFP_TRANSHUGE"]


def test_tables_are_as_long_as_they_are_declared(kernel: Profile) -> None:
    declared = {variable.name: variable.type for variable in kernel.variables}
    for name, elements in rodata.tables(kernel).items():
        assert declared[name].length == len(elements), name


def test_the_numbers_in_page_flags_do_not_overlap(kernel: Profile) -> None:
    fields = rodata.tables(kernel).get("pff", [])
    assert bool(fields) == (kernel.version >= (5, 13))
    used = 0
    for field in fields:
        bits = field["mask"] << field["shift"]
        assert not used & bits
        used |= bits
    assert used < 1 << 64
    assert not used & ((1 << kernel.types.constant("__NR_PAGEFLAGS")) - 1)


@pytest.fixture(scope="module", params=["sample", *RUNS])
def real(request: pytest.FixtureRequest) -> tuple[Profile, drgn.Program]:
    """A profile in the configuration of a real kernel, and a dump of that kernel."""
    prog = drgn.Program()
    if request.param == "sample":
        sample: Sample = request.getfixturevalue("sample")
        prog.set_core_dump(sample.elf)
        prog.load_debug_info([sample.vmlinux])
        return profile("6.12").configured((sample.source / "kernel.config").read_text()), prog
    run = Path(os.environ.get(RUNS_VARIABLE, "/nonexistent")) / request.param
    if not (run / "vmcore.elf").is_file():
        pytest.skip(f"{RUNS_VARIABLE} names no directory with a run of {request.param}")
    prog.set_core_dump(run / "vmcore.elf")
    prog.load_debug_info([run / "vmlinux"])
    return profile(RUNS[request.param]).configured((run / "config").read_text()), prog


def _content(found: drgn.Object) -> object:
    """A number or a string, as :func:`rodata.tables` has them."""
    if found.type_.unaliased().kind == drgn.TypeKind.POINTER:
        return found.string_().decode() if found else None
    value = found.value_()
    # The masks of pff are int.
    return value & 0xFFFFFFFF if isinstance(value, int) and value < 0 else value


def test_tables_say_what_those_of_a_real_kernel_say(real: tuple[Profile, drgn.Program]) -> None:
    kernel, prog = real
    for name, elements in rodata.tables(kernel).items():
        table = prog[name]
        assert len(table) == len(elements), name
        for index, element in enumerate(elements):
            for member, content in element.items():
                if isinstance(content, rodata.Reference):
                    continue
                there = table[index].member_(member) if member else table[index]
                assert _content(there) == content, (name, index, member)


def test_strings_are_those_of_a_real_kernel(real: tuple[Profile, drgn.Program]) -> None:
    kernel, prog = real
    start, end = prog.symbol("__start_rodata").address, prog.symbol("__end_rodata").address
    data = prog.read(start, end - start)
    for text in rodata.strings(kernel):
        assert f"\0{text}\0".encode() in data, text


def test_page_owner_prints_what_its_record_has(kernel: Profile) -> None:
    first, second = rodata.page_owner_formats(kernel.version)
    columns = {piece.column for form in (first, second) for piece in _pieces(form)}
    has = kernel.types.has
    for column, member in (("pid", "pid"), ("tgid", "tgid"), ("comm", "comm"), ("ts", "ts_nsec")):
        assert (column in columns) == has("struct page_owner", member), column
    assert {first, second} < set(rodata.strings(kernel))


def test_a_kernel_has_each_function_of_a_file_once(kernel: Profile) -> None:
    count = Counter((name, file) for name, _, file, _ in functions(kernel))
    assert count.most_common(1)[0][1] == 1
    assert all(size > 0 for _, size, _, _ in functions(kernel))
    assert len({file for _, file in count}) > 100


@pytest.mark.parametrize(
    ("older", "newer", "release"),
    [
        ("__alloc_pages_nodemask", "__alloc_pages", (5, 13)),
        ("alloc_pages_vma", "vma_alloc_folio", (5, 19)),
        ("vma_alloc_folio", "vma_alloc_folio_noprof", (6, 10)),
        ("depot_save_stack", "stack_depot_save", (5, 2)),
        ("do_page_fault", "exc_page_fault", (5, 8)),
    ],
)
def test_functions_were_renamed(older: str, newer: str, release: tuple[int, int]) -> None:
    kernels = [kernel for kernel in profiles().values() if kernel.arch == "x86_64"]
    before = {name for name, *_ in functions([each for each in kernels if each.version < release][-1])}
    after = {name for name, *_ in functions(next(each for each in kernels if each.version >= release))}
    assert older in before
    assert newer not in before
    assert newer in after
    assert older not in after


def test_functions_of_an_architecture_are_only_there() -> None:
    arches = {"arch/x86/": {"x86_64"}, "arch/arm64/": {"aarch64"}}
    for each in catalogue():
        for start, arch in arches.items():
            if each.file.startswith(start):
                assert {each.arch} == arch
    arm = {name for name, _, _, _ in functions(profile("6.12-arm64"))}
    assert {"__arm64_sys_ioctl", "el0_svc_common", "do_el0_svc", "el0_svc"} <= arm
    assert "__x64_sys_ioctl" not in arm


def test_the_functions_of_the_page_pinners_trace_are_there(kernel: Profile) -> None:
    names = {name for name, _, _, _ in functions(kernel)}
    if kernel.era.android:
        # It has no trace events.
        assert "__page_pinner_failure" not in names
        return
    failure = {"__page_pinner_failure", "test_pages_isolated", "cma_alloc"}
    put = {"__page_pinner_put", "free_pages_and_swap_cache", "tlb_flush_mmu", "zap_pte_range", "unmap_vmas"}
    if kernel.version < (5, 3):
        put -= {"tlb_flush_mmu"}
    assert (
        failure | put | {"exit_mmap", "__mmput", "mmput", "do_exit", "do_group_exit", "get_signal"} <= names
    )


@pytest.mark.parametrize(
    ("older", "newer", "release"),
    [
        ("extra_mem", "page_ext_size", (5, 4)),
        ("stack_slabs", "stack_pools", (6, 3)),
        ("totalram_pages", "_totalram_pages", (5, 0)),
        ("lru_pvecs", "cpu_fbatches", (5, 19)),
        ("vm_numa_stat", "vm_numa_event", (5, 14)),
    ],
)
def test_variables_were_renamed(older: str, newer: str, release: tuple[int, int]) -> None:
    for kernel in profiles().values():
        names = {variable.name for variable in kernel.variables}
        assert (newer in names) == (kernel.version >= release)
        assert older not in names or kernel.version < release


def test_a_variable_is_declared_once_and_has_a_size(kernel: Profile) -> None:
    count = Counter((variable.name, variable.file) for variable in kernel.variables)
    assert count.most_common(1)[0][1] == 1
    for variable in kernel.variables:
        assert variable.type.size, variable.name


def test_only_kernels_that_count_bits_from_the_top_are_told_their_end(kernel: Profile) -> None:
    names = {
        name
        for prototype in kernel.prototypes
        if prototype.name == "get_pfnblock_flags_mask"
        for name, _ in prototype.type.parameters
    }
    assert ("end_bitidx" in names) == (kernel.version < (5, 9))
