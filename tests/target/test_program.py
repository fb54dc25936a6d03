import gzip
import lzma
import os
import shutil
import subprocess
import sys

import drgn
import pytest
import zstandard

from mmdump.errors import OpenError
from mmdump.target import PhysStatus, Target, inspect_dump, open_target
from mmdump.target.kdump import UTSNAME_OFFSET, UTSNAME_SIZE
from mmdump.target.program import _open_dump
from mmdump.target.repair import repaired_copy
from mmdump.target.symbolfile import decompressed

from .builders import PAGE, VMCOREINFO, elf_core, flatten, kdump, note

A = b"A" * PAGE
BUILD_ID = "00112233445566778899aabbccddeeff00112233"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)


def read(fd_or_path, pfn):
    return _open_dump("dump", fd_or_path).read(pfn * PAGE, PAGE, True)


@pytest.mark.parametrize("raw", [kdump({1: A}, utsname=False), flatten(kdump({1: A}, utsname=False))])
def test_a_kdump_from_qemu_is_opened_although_libkdumpfile_refuses_it(write, raw):
    path = write(raw)
    with pytest.raises(Exception, match="ARCH_NAME"):
        drgn.Program().set_core_dump(path)
    dump = inspect_dump(path)
    assert dump.writer == "QEMU"
    assert read(repaired_copy(dump), 1) == A
    assert path.read_bytes() == raw


def test_a_flattened_elf_core_is_opened(write):
    assert read(repaired_copy(inspect_dump(write(flatten(elf_core([(PAGE, A, PAGE)]))))), 1) == A


def test_a_page_lost_to_truncation_faults_and_does_not_kill_the_process(write):
    import random

    pages = {pfn: random.Random(pfn).randbytes(PAGE) for pfn in range(1, 40)}
    path = write(kdump(pages)[: -20 * PAGE - 100])
    # In a process of its own: the danger is SIGBUS.
    script = (
        "import sys; from mmdump.target import Reader, inspect_dump; "
        "from mmdump.target.program import _open_dump; from mmdump.target.repair import repaired_copy; "
        "dump = inspect_dump(sys.argv[1]); prog = _open_dump('dump', repaired_copy(dump)); "
        "print(Reader(prog, 4096, None).read_physical(4096, 39 * 4096).status.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    lost = [status == PhysStatus.TRUNCATED for status in inspect_dump(path).coverage.status(1, 39)]
    assert eval(done.stdout) == [2 if page else 0 for page in lost]
    assert sum(lost) == 21


def test_without_room_for_a_copy_it_is_said_how_to_get_some(write, monkeypatch):
    full = os.statvfs_result((4096, 4096, 1, 0, 0, 1, 1, 1, 0, 255))
    monkeypatch.setattr("os.fstatvfs", lambda _: full)
    with pytest.raises(OpenError, match="has no room") as caught:
        repaired_copy(inspect_dump(write(kdump({1: A}, utsname=False))))
    assert "TMPDIR" in caught.value.hint


def test_a_dump_without_debug_info_names_the_kernel_that_is_missing(write):
    with pytest.raises(OpenError, match=rf"no debug info for kernel 6.12.0-test \(build ID {BUILD_ID}\)"):
        open_target(write(elf_core([(PAGE, A, PAGE)])))


def test_a_file_without_debug_info_is_refused_when_asked_for_and_skipped_beside_the_dump(write):
    path = write(elf_core([(PAGE, A, PAGE)]))
    with pytest.raises(OpenError, match="not an ELF file"):
        open_target(path, symbols=[write(b"text", "vmlinuz")])
    with pytest.raises(OpenError, match="no such file"):
        open_target(path, symbols=[path.parent / "nothing"])
    os.mkfifo(path.parent / "fifo")
    with pytest.raises(OpenError, match="not a regular file"):
        open_target(path, symbols=[path.parent / "fifo"])
    write(b"text", "vmlinux")
    with pytest.raises(OpenError, match="vmlinux has no debug info"):
        open_target(path)


def test_vmcoreinfo_that_drgn_cannot_use_is_an_open_error(write):
    raw = elf_core([(PAGE, A, PAGE)])
    for broken in (raw.replace(b"PAGESIZE=4096", b"PAGESIZE=4095"), raw.replace(b"OSRELEASE", b"XXRELEASE")):
        with pytest.raises(OpenError):
            open_target(write(broken))


def test_a_program_that_is_no_kernel_is_no_target():
    with pytest.raises(OpenError, match="not a Linux kernel"):
        Target.from_program(drgn.Program())


def test_no_dump_at_all_is_an_open_error():
    with pytest.raises(OpenError, match="no dump"):
        open_target()


@pytest.mark.parametrize("compress", [zstandard.compress, lzma.compress, gzip.compress])
def test_a_compressed_file_is_decompressed_once(write, compress):
    path = write(compress(b"vmlinux" * 1000), "vmlinux.z")
    first = decompressed(path)
    assert first.read_bytes() == b"vmlinux" * 1000
    assert decompressed(path) == first
    write(compress(b"another"), "vmlinux.z")
    assert decompressed(path).read_bytes() == b"another"
    assert not list(first.parent.glob(".partial*"))


def test_a_dump_is_opened_without_debug_info_where_that_will_do(write):
    with open_target(write(elf_core([(PAGE, A, PAGE)])), bare=True) as target:
        assert target.debug_info is None
        assert "no debug info for kernel 6.12.0-test" in target.no_debug_info


def test_a_file_that_grows_out_of_all_proportion_is_no_debug_info(write):
    bomb = zstandard.compress(bytes(100 << 20))
    with pytest.raises(OpenError, match="which no debug info does"):
        decompressed(write(bomb, "vmlinux.zst"))


@pytest.mark.parametrize("compress", [zstandard.compress, lzma.compress, gzip.compress])
def test_a_compressed_file_that_is_cut_off_is_an_open_error(write, compress):
    with pytest.raises(OpenError, match="damaged or cut off"):
        decompressed(write(compress(bytes(range(256)) * 4000)[:-20], "vmlinux.z"))


def test_the_samples_open_with_the_debug_info_beside_them(dump):
    with open_target(dump) as target:
        assert (target.release, target.architecture, target.page_size) == ("6.12.117-mmdump", "x86_64", 4096)
        assert target.build_id == "70ae118e8b1e126ce6fa013006c06724c39e42c3"
        assert target.debug_info.source == "beside the dump"
        assert not target.live
        assert target.prog.type("struct page").size == 64
        again = Target.from_program(target.prog)
        assert (again.release, again.debug_info.path) == (target.release, target.debug_info.path)
        raw = target.reopen_raw()
        address = target.prog["init_uts_ns"].address_
        assert raw.read(address, 390) == target.prog.read(address, 390)


def test_debug_info_of_another_kernel_takes_force(write, sample):
    path = write(elf_core([(PAGE, A, PAGE)]))
    with pytest.raises(OpenError) as caught:
        open_target(path, symbols=[sample.vmlinux])
    assert BUILD_ID in caught.value.message
    assert "70ae118e8b1e126ce6fa013006c06724c39e42c3" in caught.value.message
    assert open_target(path, symbols=[sample.vmlinux], force=True).debug_info.forced
    (path.parent / "vmlinux").symlink_to(sample.vmlinux)
    with pytest.raises(OpenError, match="vmlinux has build ID 70ae118e"):
        open_target(path)


def test_a_kernel_that_does_not_tell_its_build_id_takes_the_debug_info_given(write, sample):
    raw = elf_core([(PAGE, A, PAGE)]).replace(b"BUILD-ID=", b"BUILD_ID=")
    target = open_target(write(raw), symbols=[sample.vmlinux])
    assert target.build_id is None
    assert target.debug_info.build_id == "70ae118e8b1e126ce6fa013006c06724c39e42c3"
    assert not target.debug_info.forced


def test_debug_info_is_found_in_a_directory_and_as_a_build_id_tree(tmp_path, sample):
    tree = tmp_path / "tree" / ".build-id" / "70"
    tree.mkdir(parents=True)
    (tree / "ae118e8b1e126ce6fa013006c06724c39e42c3.debug").symlink_to(sample.vmlinux)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "vmlinux").symlink_to(sample.vmlinux)
    for directory in ("tree", "plain"):
        target = open_target(sample.kdump, symbols=[tmp_path / directory])
        assert target.debug_info.source == "given with -s"


def test_a_sample_as_qemu_writes_it_reads_the_same(sample, tmp_path):
    raw = bytearray(sample.kdump.read_bytes())
    for field in (0, 1, 2, 3, 5):
        start = UTSNAME_OFFSET + field * UTSNAME_SIZE
        raw[start : start + UTSNAME_SIZE] = bytes(UTSNAME_SIZE)
    path = tmp_path / "vmcore"
    path.write_bytes(flatten(bytes(raw), 1 << 16))
    with open_target(path, symbols=[sample.vmlinux]) as target:
        assert target.prog["init_uts_ns"].name.release.string_() == b"6.12.117-mmdump"
        assert target.reopen_raw().read(0x1000, 16, True) == target.prog.read(0x1000, 16, True)


def test_a_truncated_sample_opens_and_says_what_is_missing(sample, tmp_path):
    path = tmp_path / "vmcore"
    shutil.copy(sample.kdump, path)
    with path.open("r+b") as file:
        file.truncate(10_000_000)
    with open_target(path, symbols=[sample.vmlinux]) as target:
        assert "past its end" in target.dump.truncated
        assert target.dump.coverage.counts()[PhysStatus.TRUNCATED] == 5615
        status = target.reader.read_physical(0, 256 << 20).status
        present = target.dump.coverage.status(0, 65536) == PhysStatus.PRESENT
        assert ((status == 0) == present).all()


def test_a_damaged_elf_core_is_never_more_than_an_open_error(write):
    import random

    generator = random.Random(1)
    good = elf_core([(PAGE, A, 2 * PAGE)])
    for _ in range(300):
        raw = bytearray(good)
        for _ in range(generator.randint(1, 3)):
            # The headers and VMCOREINFO.
            raw[generator.randrange(len(good) - PAGE)] = generator.choice([0, 1, 10, 61, 0x7F, 0x80, 0xFF])
        if generator.random() < 0.2:
            del raw[generator.randrange(len(raw)) :]
        with pytest.raises(OpenError):  # at the least it has no debug info
            open_target(write(bytes(raw)))


def test_a_release_too_long_for_a_file_name_is_no_problem(write):
    long = VMCOREINFO.replace(b"6.12.0-test", b"6" * 300)
    with pytest.raises(OpenError):
        open_target(write(elf_core([(PAGE, A, PAGE)], note(b"VMCOREINFO", 0, long))))


@pytest.mark.parametrize(
    ("vmcoreinfo", "machine"),
    [
        ({"NUMBER(kimage_voffset)": "0xffff", "NUMBER(VA_BITS)": "48"}, "aarch64"),
        ({"NUMBER(phys_base)": "0"}, "x86_64"),
        ({}, "(unknown)"),
    ],
)
def test_the_machine_that_qemu_does_not_name_is_told_by_vmcoreinfo(
    vmcoreinfo: dict[str, str], machine: str
) -> None:
    from mmdump.target.repair import _machine

    assert _machine(vmcoreinfo) == machine
