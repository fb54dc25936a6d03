"""Dumps of a memory, in every container: drgn and mmdump read what it has, miss what it has not."""

from __future__ import annotations

import random
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import drgn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdump.target.coverage import PhysStatus
from mmdump.target.dumpfile import inspect_dump
from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.elfcore import core_notes, prstatus, write_elf
from mmdump_snapshots.writer.filter import NOTHING, Filter
from mmdump_snapshots.writer.flatten import FlattenedSink, flatten
from mmdump_snapshots.writer.kdump import write_kdump
from mmdump_snapshots.writer.memory import Bump, PhysicalMemory
from mmdump_snapshots.writer.pagetables import PageTables
from mmdump_snapshots.writer.sink import FileSink
from mmdump_snapshots.writer.vmcoreinfo import Facts, vmcoreinfo

MIB = 1 << 20
IMAGE = 8 * MIB
CONTAINERS = ["elf", "kdump-zlib", "kdump-zstd", "kdump-none", "flattened-kdump", "flattened-elf"]


class FewTypes:
    """Just enough types for VMCOREINFO."""

    sizes = {"struct page": 64, "struct mem_section": 32, "struct list_head": 16}  # noqa: RUF012

    def sizeof(self, name):
        return self.sizes[name]

    def member(self, _name, _path):
        return SimpleNamespace(offset=0)

    def has(self, name, path):
        return (name, path) == ("struct uts_namespace", "name")

    def constant(self, name):
        raise LookupError(name)


@dataclass
class Machine:
    memory: PhysicalMemory
    space: AddressSpace
    notes: bytes
    tables: PageTables
    #: (virtual address, physical address, size) of what is mapped beside the direct map.
    mappings: list[tuple[int, int, int]]

    @property
    def image(self):
        return self.space.text_phys, self.space.text_phys + IMAGE

    def write(self, path: Path, container: str, filtered: Filter = NOTHING):
        with path.open("wb", buffering=0) as file:
            sink = FlattenedSink(file) if container.startswith("flattened") else FileSink(file)
            return self.write_to(sink, container, filtered)

    def write_to(self, sink, container, filtered=NOTHING):
        if container.endswith("elf"):
            return write_elf(sink, self.memory, self.space, self.notes, image=self.image, filtered=filtered)
        compression = {"kdump-zstd": "zstd", "kdump-none": None}.get(container, "zlib")
        return write_kdump(
            sink,
            self.memory,
            self.space,
            self.notes,
            compression=compression,
            filtered=filtered,
            release="6.12.0-model",
            cpus=2,
        )


def machine(space: AddressSpace, ram, version=(6, 12)) -> Machine:
    """A machine with page tables for direct map, image, some of vmemmap and vmalloc; noise in some of it."""
    memory = PhysicalMemory(ram)
    rng = np.random.default_rng(1)
    bump = Bump(space.text_phys + IMAGE, space.text_phys + IMAGE + 16 * MIB)
    root = space.text_phys + 4 * MIB
    tables = PageTables(memory, space, bump, root)
    for start, end in memory.ram:
        tables.map(space.direct(start), start, end - start)
    array = bump(2 * MIB, 2 * MIB)
    loose = [bump(space.page_size, space.page_size) for _ in range(8)]
    first = memory.ram[0][0] >> 27 << 27 >> space.page_shift
    mappings = [(space.kernel(space.text), space.text_phys, IMAGE), (space.page(first), array, 2 * MIB)]
    # Pages of vmalloc come in any order, and some are not mapped.
    mappings += [
        (space.vmalloc + (1 << 32) + 2 * number * space.page_size, page, space.page_size)
        for number, page in enumerate(reversed(loose))
    ]
    for virt, phys, size in mappings:
        tables.map(virt, phys, size)
        if virt != mappings[0][0]:
            memory.write(phys, rng.integers(0, 256, size, dtype=np.uint8))
    memory.write(space.text_phys, rng.integers(0, 4, 3 * MIB, dtype=np.uint8))
    memory.write(memory.end - 5 * MIB + 77, b"not aligned")
    memory.write(memory.end - 5, b"final")
    # libkdumpfile wants to see that it is Linux.
    names = ("Linux", "model", "6.12.0-model", "#1 SMP", space.arch, "(none)")
    memory.write(space.text_phys + 5 * MIB, b"".join(name.encode().ljust(65, b"\0") for name in names))
    text = space.kernel(space.text)
    symbols = {"swapper_pg_dir": text + 4 * MIB, "_stext": text, "init_uts_ns": text + 5 * MIB}
    info = vmcoreinfo(
        Facts("6.12.0-model", version, FewTypes(), space, symbols.get, space.direct(array), "00" * 20)
    )
    cpus = [prstatus(space.arch, 1), prstatus(space.arch, 2, {"sp" if space.arch == "aarch64" else "rsp": 5})]
    return Machine(memory, space, core_notes(cpus, info), tables, mappings)


X86_RAM = [(0, 0xA0000), (MIB, 96 * MIB), (112 * MIB, 128 * MIB)]
ARM_RAM = [(0x40000000, 0x46000000), (0x47000000, 0x48000000)]
MACHINES = {
    "x86_64": lambda: machine(AddressSpace.x86_64(), X86_RAM),
    "x86_64-kaslr": lambda: machine(
        AddressSpace.x86_64(seed=3, ram_end=128 * MIB, text_phys=34 * MIB), X86_RAM
    ),
    "arm64": lambda: machine(AddressSpace.aarch64(seed=4), ARM_RAM),
    "arm64-16k": lambda: machine(AddressSpace.aarch64(page_shift=14, seed=5), ARM_RAM),
}


@pytest.fixture(scope="module", params=MACHINES)
def subject(request):
    return MACHINES[request.param]()


def opened(path):
    prog = drgn.Program()
    prog.set_core_dump(path)
    return prog


@pytest.mark.parametrize("container", CONTAINERS)
def test_drgn_reads_the_memory(subject, container, tmp_path):
    path = tmp_path / "vmcore"
    subject.write(path, container)
    prog = opened(path)
    assert prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    memory, space = subject.memory, subject.space
    rng = random.Random(7)
    for start, end in memory.ram:
        for _ in range(40):
            phys = rng.randrange(start, end)
            size = min(rng.choice([1, 8, 64, 5000]), end - phys)
            assert prog.read(phys, size, physical=True) == memory.read(phys, size)
            assert prog.read(space.direct(phys), size) == memory.read(phys, size)
    assert prog.read(memory.end - 5, 5, physical=True) == b"final"


@pytest.mark.parametrize("container", CONTAINERS)
def test_drgn_walks_the_page_tables(subject, container, tmp_path):
    path = tmp_path / "vmcore"
    subject.write(path, container)
    prog = opened(path)
    rng = random.Random(8)
    for virt, phys, size in subject.mappings:
        for _ in range(10):
            offset = rng.randrange(size - 8)
            assert prog.read(virt + offset, 8) == subject.memory.read(phys + offset, 8)
    page = subject.space.page_size
    last = subject.mappings[-1][0]
    with pytest.raises(drgn.FaultError):
        prog.read(last + page, 8)


@pytest.mark.parametrize("container", CONTAINERS)
def test_holes_are_faults_and_absent(subject, container, tmp_path):
    path = tmp_path / "vmcore"
    subject.write(path, container)
    prog = opened(path)
    hole = subject.memory.ram[-2][1]
    for address in (hole, subject.memory.end):
        with pytest.raises(drgn.FaultError):
            prog.read(address, 8, physical=True)
    dump = inspect_dump(path)
    assert dump.truncated is None
    shift = subject.space.page_shift
    pages = sum((end - start) >> shift for start, end in subject.memory.ram)
    counts = dump.coverage.counts()
    assert counts[PhysStatus.PRESENT] == pages
    assert dump.coverage.status(hole >> shift, 1)[0] == PhysStatus.ABSENT
    assert dump.coverage.end_pfn == subject.memory.end >> shift
    if "kdump" in container:
        assert dump.compression == {"kdump-zstd": "zstd", "kdump-none": None}.get(container, "zlib")
        assert dump.utsname["release"] == "6.12.0-model"


@pytest.mark.parametrize("container", ["kdump-zlib", "flattened-kdump"])
def test_excluded_pages_are_faults_and_excluded(subject, container, tmp_path):
    path = tmp_path / "vmcore"
    shift = subject.space.page_shift
    first = (subject.memory.end - 2 * MIB) >> shift
    filtered = Filter(16, lambda start, end: np.arange(start, end) % 4096 >= first % 4096)
    subject.write(path, container, filtered)
    prog = opened(path)
    assert prog.read((first << shift) - 8, 8, physical=True) == bytes(8)
    with pytest.raises(drgn.FaultError):
        prog.read(first << shift, 8, physical=True)
    dump = inspect_dump(path)
    assert dump.filter_level == 16
    assert list(dump.coverage.status(first - 1, 2)) == [PhysStatus.PRESENT, PhysStatus.EXCLUDED]


def test_an_elf_core_reads_zeros_for_long_runs_of_excluded_pages(subject, tmp_path):
    path = tmp_path / "vmcore"
    shift = subject.space.page_shift
    space, memory = subject.space, subject.memory
    low = (memory.end - 12 * MIB) >> shift
    single = low - 5

    def excluded(start, end):
        pfns = np.arange(start, end)
        return ((pfns >= low) & (pfns < low + 300)) | (pfns == single)

    memory.write(low << shift, b"gone" * 50)
    memory.write(single << shift, b"kept")
    memory.write((low + 300) << shift, b"next")
    subject.write(path, "elf", Filter(8, excluded))
    prog = opened(path)
    assert prog.read(low << shift, 200, physical=True) == bytes(200)
    assert prog.read(space.direct(low << shift), 8) == bytes(8)
    # Fewer than 256 in a row are not worth a header.
    assert prog.read(single << shift, 4, physical=True) == b"kept"
    assert prog.read((low + 300) << shift, 4, physical=True) == b"next"
    statuses = inspect_dump(path).coverage.status(low - 1, 302)
    assert list(statuses) == [PhysStatus.PRESENT] + [PhysStatus.ZERO_FILLED] * 300 + [PhysStatus.PRESENT]


def test_pages_of_zeros_are_left_out_of_an_elf_core_at_level_1(subject, tmp_path):
    path = tmp_path / "vmcore"
    layout = subject.write(path, "elf", Filter(1))
    counts = inspect_dump(path).coverage.counts()
    assert counts[PhysStatus.ZERO_FILLED] > counts[PhysStatus.PRESENT]
    assert layout["data"][0][1] < sum(end - start for start, end in subject.memory.ram) // 2
    prog = opened(path)
    for virt, phys, size in subject.mappings:
        assert prog.read(virt, size) == subject.memory.read(phys, size)


def test_small_dumps_need_no_file(subject, tmp_path):
    for container in CONTAINERS:
        out = BytesIO()
        sink = FlattenedSink(out) if container.startswith("flattened") else FileSink(out)
        subject.write_to(sink, container)
        subject.write(tmp_path / container, container)
        assert (tmp_path / container).read_bytes() == out.getvalue()


def test_a_file_can_be_flattened_later(subject, tmp_path):
    subject.write(tmp_path / "kdump", "kdump-zlib")
    with (tmp_path / "flat").open("wb") as out:
        flatten(tmp_path / "kdump", out)
    assert opened(tmp_path / "flat").read(subject.memory.end - 5, 5, physical=True) == b"final"
    assert inspect_dump(tmp_path / "flat").describe() == "kdump-compressed (zlib), flattened, filter level 0"


def test_the_parts_of_a_file_are_told(subject):
    for container in CONTAINERS:
        out = BytesIO()
        layout = subject.write_to(FileSink(out), container)
        raw = out.getvalue()
        ((start, end),) = layout["notes"]
        assert raw[start:end] == subject.notes
        assert layout["data"][0][1] == len(raw)
        ordered = sorted(part for parts in layout.values() for part in parts)
        assert all(one[1] <= other[0] for one, other in pairwise(ordered))


def test_holes_take_no_space(tmp_path):
    """64 GiB of idle memory is a file of a few megabytes."""
    space = AddressSpace.x86_64()
    large = machine(space, [*X86_RAM[:1], (MIB, 64 << 30)])
    large.memory.write_lazy(40 << 30, 64 * MIB, lambda _, size: np.zeros(size, np.uint8))
    large.write(tmp_path / "vmcore", "elf")
    assert (tmp_path / "vmcore").stat().st_size > 63 << 30
    assert (tmp_path / "vmcore").stat().st_blocks * 512 < 16 * MIB
    assert opened(tmp_path / "vmcore").read(space.direct((64 << 30) - 5), 5) == b"final"


def test_more_segments_than_e_phnum_can_count(tmp_path):
    space = AddressSpace.x86_64()
    wide = machine(space, [(0, 0xA0000), (MIB, 300 << 30)])

    def excluded(start, end):
        return np.arange(start, end) % 1024 >= 512

    with (tmp_path / "vmcore").open("wb", buffering=0) as file:
        write_elf(FileSink(file), wide.memory, space, wide.notes, filtered=Filter(16, excluded))
    coverage = inspect_dump(tmp_path / "vmcore").coverage
    assert list(coverage.status(1 << 20, 1024)) == [PhysStatus.PRESENT] * 512 + [PhysStatus.ZERO_FILLED] * 512


def test_prstatus_is_as_large_as_the_kernels():
    assert len(prstatus("x86_64")) == 336
    assert len(prstatus("aarch64")) == 392
    with pytest.raises(ValueError, match="no registers"):
        prstatus("aarch64", registers={"rip": 1})


page_ranges = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    page_ranges,
    st.lists(st.tuples(st.integers(0, 1 << 25), st.binary(min_size=1, max_size=200)), max_size=20),
    # libkdumpfile reads nothing of a flattened ELF core without page tables.
    st.sampled_from(CONTAINERS[:-1]),
    st.booleans(),
)
def test_any_layout_of_memory_survives(tmp_path, gaps, writes, container, level_1):
    ram = []
    position = 0
    for gap, length in gaps:
        ram.append(((position + gap) << 12, (position + gap + length) << 12))
        position += gap + length
    memory = PhysicalMemory(ram)
    pages = [start for start, end in memory.ram]
    rng = random.Random(len(writes))
    for offset, data in writes:
        start, end = rng.choice(memory.ram)
        memory.write(start + offset % max(1, end - start - len(data)), data)
    space = AddressSpace.x86_64()
    info = vmcoreinfo(Facts("6.12.0", (6, 12), FewTypes(), space, {"swapper_pg_dir": 1 << 63}.get, 0))
    subject = Machine(memory, space, core_notes([], info), None, [])
    path = tmp_path / "vmcore"
    subject.write(path, container, Filter(int(level_1)))
    prog = opened(path)
    for start, end in memory.ram:
        assert prog.read(start, end - start, physical=True) == memory.read(start, end - start)
    coverage = inspect_dump(path).coverage
    for start in pages:
        assert coverage.status((start >> 12) - 1, 1)[0] == PhysStatus.ABSENT
    status = coverage.status(0, coverage.end_pfn)
    assert (
        np.count_nonzero(status != PhysStatus.ABSENT) == sum(end - start for start, end in memory.ram) >> 12
    )
