"""A profile's vmlinux, read by drgn as it is: it says what the profile says."""

import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from drgn import Architecture, FindObjectFlags, ModuleFileStatus, Platform, Program, SymbolBinding, SymbolKind

from mmdump_snapshots.kernels import Profile, profile, profiles
from mmdump_snapshots.kernels.rodata import page_owner_formats
from mmdump_snapshots.writer.vmlinux import IMAGE_LIMIT, Vmlinux, vmlinux
from tests.snapshots.debug_info import assert_same

KASLR = 0x12400000
ALL = list(profiles())


def vmcoreinfo(image: Vmlinux, *, build_id: bool = True) -> str:
    lines = [
        f"OSRELEASE={image.release}",
        f"PAGESIZE={image.profile.page_size}",
        f"SYMBOL(swapper_pg_dir)={image.symbols['swapper_pg_dir'].address + KASLR:x}",
        f"KERNELOFFSET={KASLR:x}",
        *([f"BUILD-ID={image.build_id.hex()}"] if build_id else []),
    ]
    if image.profile.arch == "aarch64":
        lines += ["NUMBER(VA_BITS)=48", "NUMBER(TCR_EL1_T1SZ)=0x10", "NUMBER(kimage_voffset)=0"]
    return "".join(f"{line}\n" for line in lines)


def kernel(image: Vmlinux, *, build_id: bool = True) -> Program:
    """A kernel whose memory nobody can read."""
    arch = Architecture.AARCH64 if image.profile.arch == "aarch64" else Architecture.X86_64
    prog = Program(Platform(arch))
    prog.set_linux_kernel_custom(vmcoreinfo(image, build_id=build_id), False)
    return prog


def opened(image: Vmlinux) -> Program:
    prog = kernel(image)
    prog.create_loaded_modules()
    fd = os.memfd_create("vmlinux")
    os.write(fd, image.elf)
    prog.main_module().try_file("vmlinux", fd=fd)
    assert prog.main_module().debug_file_status == ModuleFileStatus.HAVE
    return prog


def relocated(image: Vmlinux, address: int) -> int:
    """Where drgn takes a link address to be: what is outside of all segments stays."""
    return address + KASLR if image.start <= address < image.regions[".bss"].end else address


@pytest.fixture(scope="module", params=ALL)
def image(request: pytest.FixtureRequest) -> Vmlinux:
    return vmlinux(profile(request.param))


@pytest.fixture(scope="module")
def prog(image: Vmlinux) -> Program:
    return opened(image)


def test_every_type_is_as_declared(image: Vmlinux, prog: Program) -> None:
    types = image.profile.types
    seen: set[int] = set()
    for name in types:
        if name in {"void", "__int128"}:
            continue  # drgn knows the one without debug info, and no name for the other
        if types[name].complete or types[name].kind == "typedef":
            assert_same(prog.type(name), types[name], seen)
        else:
            # Not complete anywhere: known only as something that is pointed to.
            with pytest.raises(LookupError):
                prog.type(name)


def test_every_enumerator_is_a_constant(image: Vmlinux, prog: Program) -> None:
    for name, value in image.profile.types.all_enumerators.items():
        assert prog.constant(name).value_() == value, name


def test_every_variable_is_where_it_was_linked(image: Vmlinux, prog: Program) -> None:
    seen: set[int] = set()
    for variable, address in image.variables():
        found = prog.object(variable.name, FindObjectFlags.VARIABLE, variable.file)
        assert found.address_ == relocated(image, address), variable.name
        assert_same(found.type_, variable.type, seen)
        assert image.variable(variable.name, variable.file) == (address, variable.type)


def test_every_symbol_is_found_by_name_and_address(image: Vmlinux, prog: Program) -> None:
    kinds = {"function": SymbolKind.FUNC, "object": SymbolKind.OBJECT}
    for name, symbol in image.symbols.items():
        address = relocated(image, symbol.address)
        found = [each for each in prog.symbols(name) if each.address == address]
        assert [each.size for each in found] == [symbol.size], name
        if symbol.kind in kinds:
            assert found[0].kind == kinds[symbol.kind]
            assert found[0].binding == (SymbolBinding.LOCAL if symbol.static else SymbolBinding.GLOBAL)
        if symbol.kind == "function":
            assert prog.symbol(address + symbol.size - 1).name == name


def test_every_function_has_its_parameters(image: Vmlinux, prog: Program) -> None:
    for each in image.profile.prototypes:
        found = prog.function(each.name, each.file)
        assert found.address_ == image.symbols[each.name].address + KASLR
        assert_same(found.type_, each.type)


def test_a_return_address_is_in_its_function(image: Vmlinux, prog: Program) -> None:
    functions = [name for name, symbol in image.symbols.items() if symbol.kind == "function"][:16]
    pcs = [image.symbols[name].address + KASLR + image.symbols[name].size // 2 for name in functions]
    trace = prog.stack_trace_from_pcs(pcs)
    assert [frame.name for frame in trace] == functions
    assert [frame.symbol().name for frame in trace] == functions


def test_types_of_a_source_file_are_found_with_it(image: Vmlinux, prog: Program) -> None:
    assert prog.type("struct page_owner", "mm/page_owner.c").tag == "page_owner"
    if image.profile.version >= (6, 9):
        assert prog.type("struct stack", "mm/page_owner.c").has_member("stack_record")
    assert prog.object("failure_handle", FindObjectFlags.VARIABLE, "mm/page_owner.c").type_.name.endswith("t")


def test_nothing_in_the_image_overlaps(image: Vmlinux) -> None:
    taken = sorted(
        (symbol.address, symbol.address + symbol.size, name)
        for name, symbol in image.all_symbols
        if symbol.size and name != "init_top_pgt"
    )
    for (_, end, name), (start, _, after) in itertools.pairwise(taken):
        assert end <= start, (name, after)
    loaded = sorted(
        (region.load, region.load + region.size, region.name) for region in image.regions.values()
    )
    for (_, end, name), (start, _, after) in itertools.pairwise(loaded):
        assert end <= start, (name, after)
    assert image.start == loaded[0][0]
    assert loaded[-1][1] <= image.end <= image.start + IMAGE_LIMIT


def test_variables_are_aligned_and_in_their_section(image: Vmlinux) -> None:
    for variable, address in image.variables():
        region = image.regions[image.symbols[variable.name].section]
        assert address % variable.type.align == 0
        assert region.address <= address
        assert address + variable.type.size <= region.end
    assert image.symbols["swapper_pg_dir"].address % image.profile.page_size == 0


def test_the_per_cpu_section_is_where_this_kernel_links_it(image: Vmlinux) -> None:
    old = image.profile.arch == "x86_64" and image.profile.version < (6, 15)
    start = image.symbols["__per_cpu_start"].address
    assert (start == 0) == old
    assert image.start < image.regions[".data..percpu"].load < image.end
    assert start <= image.variable("runqueues")[0] < image.symbols["__per_cpu_end"].address


def test_contents_are_within_sections(image: Vmlinux) -> None:
    found = dict(image.contents)
    banner = found[image.variable("linux_banner")[0]]
    assert banner.startswith(f"Linux version {image.release} ".encode())
    start, end = image.symbols["__start_rodata"].address, image.symbols["__end_rodata"].address
    text = b"".join(
        data for address, data in found.items() if start <= address and address + len(data) <= end
    )
    for each in page_owner_formats(image.profile.version):
        assert b"\0" + each.encode() + b"\0" in text
    assert image.build_id in found[image.symbols["__start_notes"].address]


@pytest.mark.parametrize("known", [True, False], ids=["build ID", "release"])
def test_drgn_takes_it_for_the_kernels_own(
    image: Vmlinux, known: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As by ``drgn -s vmlinux``: by its build ID; before 5.9 VMCOREINFO had none, and the release must do."""
    path = tmp_path / "vmlinux"
    path.write_bytes(image.elf)
    prog = kernel(image, build_id=known)
    prog.load_debug_info([path])
    assert prog.main_module().debug_file_status == ModuleFileStatus.HAVE
    assert prog.main_module().build_id == image.build_id
    assert prog.type("struct page").size == image.profile.types.sizeof("struct page")


def test_drgn_does_not_take_it_for_another_kernels(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(profile("5.4")).elf)
    for known in (True, False):
        prog = kernel(vmlinux(profile("4.19")), build_id=known)
        prog.load_debug_info([path])
        assert prog.main_module().debug_file_status != ModuleFileStatus.HAVE


def test_a_build_id_belongs_to_what_was_built() -> None:
    ids = {vmlinux(profile(name)).build_id for name in ALL}
    assert len(ids) == len(ALL)
    plain = profile("6.12")
    again = Vmlinux(plain)
    assert again.build_id == vmlinux(plain).build_id
    assert again.elf == vmlinux(plain).elf
    assert Vmlinux(other_config(plain)).build_id != again.build_id


def other_config(plain: Profile) -> Profile:
    return plain.with_config(without=("CONFIG_MEMCG",))


def test_it_is_written_in_a_moment() -> None:
    plain = profile("6.12")
    assert plain.types
    start = time.perf_counter()
    assert Vmlinux(plain).elf
    assert time.perf_counter() - start < 1


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
@pytest.mark.parametrize("name", ["4.19", "7.1", "6.12-arm64-16k"])
def test_readelf_finds_no_fault(name: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(profile(name)).elf)
    done = subprocess.run(
        ["readelf", "--all", "--wide", "--debug-dump", path], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "DW_TAG_structure_type" in done.stdout


@pytest.mark.skipif(shutil.which("llvm-dwarfdump") is None, reason="no llvm-dwarfdump")
@pytest.mark.parametrize("name", ["4.19", "7.1", "6.12-arm64-16k"])
def test_llvm_verifies_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(profile(name)).elf)
    done = subprocess.run(["llvm-dwarfdump", "--verify", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
