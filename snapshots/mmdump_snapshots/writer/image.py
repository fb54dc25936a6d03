"""The memory of a machine under a given kernel: built once, then opened in memory or written to files."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmdump.malloc import keep_freed_memory
from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.arena import Arena
from mmdump_snapshots.writer.depot import write_depot
from mmdump_snapshots.writer.ext import write_cma, write_page_ext, write_reporting, write_switches
from mmdump_snapshots.writer.kimage import resolver, write_kernel_image
from mmdump_snapshots.writer.memory import BLOCK, PhysicalMemory
from mmdump_snapshots.writer.modelstate import ModelState
from mmdump_snapshots.writer.pages import PageFields, PageWriter
from mmdump_snapshots.writer.pagetables import PageTables
from mmdump_snapshots.writer.percpu import PerCpu
from mmdump_snapshots.writer.pinner import write_pinner
from mmdump_snapshots.writer.sections import section_numbers, section_order, write_sections
from mmdump_snapshots.writer.slabs import write_slabs
from mmdump_snapshots.writer.state import CHUNK, State
from mmdump_snapshots.writer.tags import write_tags
from mmdump_snapshots.writer.tasks import write_batches, write_tasks
from mmdump_snapshots.writer.trace import write_trace
from mmdump_snapshots.writer.vmcoreinfo import Facts, vmcoreinfo
from mmdump_snapshots.writer.vmlinux import Vmlinux, vmlinux
from mmdump_snapshots.writer.zones import write_nodes, zone_numbers

if TYPE_CHECKING:
    import drgn

    from mmdump.target import Target
    from mmdump_snapshots.kernels import Profile
    from mmdump_snapshots.model import Machine
    from mmdump_snapshots.writer.elfcore import Layout

__all__ = ["Container", "Image", "build", "build_state"]

Container = Literal["elf", "kdump", "flattened"]

#: Chunks of the page array that are kept once laid out: 4 MiB each.
_KEPT = 4


class Image:
    """A machine's memory as its kernel has it, with all that a dump of it says.

    :ivar profile: The kernel.
    :ivar memory: Physical memory.
    :ivar addresses: What is mapped where.
    :ivar vmcoreinfo: The text of the note.
    :ivar vmlinux: The kernel's debug info.
    :ivar state: What is in memory.
    :ivar page_array: Where struct pages are: (first PFN, end PFN, physical address).
    :ivar truth: What every decoder must find, for ``truth.json``; None where the source has none.
    """

    def __init__(
        self,
        profile: Profile,
        memory: PhysicalMemory,
        addresses: AddressSpace,
        note: bytes,
        debug: Vmlinux,
        state: State,
        page_array: list[tuple[int, int, int]],
        truth: Callable[[], Any] | None,
        tables: PageTables,
    ) -> None:
        self.profile = profile
        self.memory = memory
        self.addresses = addresses
        self.vmcoreinfo = note
        self.vmlinux = debug
        self.state = state
        self.page_array = page_array
        self.page_tables = tables
        self._truth = truth

    @cached_property
    def truth(self) -> Any:
        """What every decoder must find, as plain data; None where the source has no truth."""
        return None if self._truth is None else self._truth()

    def program(self) -> drgn.Program:
        """A drgn Program on this memory, without any file. Each call makes a new one."""
        from mmdump_snapshots.writer.program import program

        return program(self)

    def target(self) -> Target:
        """The same as mmdump opens it."""
        from mmdump.target import Target

        return Target.from_program(self.program())

    def write(
        self,
        directory: str | os.PathLike[str],
        container: Container = "elf",
        *,
        compression: str | None = "zlib",
        filter_level: int = 0,
    ) -> Path:
        """Write ``vmcore``, ``vmlinux`` and ``truth.json`` into a directory, which is made.

        :param compression: Of a kdump's pages: ``zlib``, ``zstd`` or None.
        :param filter_level: makedumpfile's dump level, 0 to 31.
        :return: The path of the vmcore.
        """
        keep_freed_memory()
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        (target / "vmlinux").write_bytes(self.vmlinux.elf)
        if self.truth is not None:
            with (target / "truth.json").open("w", encoding="utf-8") as file:
                json.dump(self.truth, file, indent=1)
                file.write("\n")
        path = target / "vmcore"
        with path.open("wb", buffering=0) as file:
            self.dump(file, container, compression=compression, filter_level=filter_level)
        return path

    def dump(
        self,
        file: Any,
        container: Container = "elf",
        *,
        compression: str | None = "zlib",
        filter_level: int = 0,
    ) -> Layout:
        """Write the dump alone.

        :param file: Opened for writing in binary, at best unbuffered.
        :return: The parts of the dump; of a flattened one their places once it is no longer flattened.
        """
        from mmdump_snapshots.writer.elfcore import core_notes, prstatus, write_elf
        from mmdump_snapshots.writer.filter import NOTHING, PageArray, page_filter
        from mmdump_snapshots.writer.flatten import FlattenedSink
        from mmdump_snapshots.writer.kdump import write_kdump
        from mmdump_snapshots.writer.sink import FileSink, Sink

        notes = core_notes([prstatus(self.profile.arch) for _ in range(self.state.cpus)], self.vmcoreinfo)
        filtered = NOTHING
        if filter_level:
            pages = PageArray(
                self.memory, self.addresses, self.profile.types, self.page_array, self.profile.version
            )
            filtered = page_filter(filter_level, pages)
        sink: Sink = FlattenedSink(file) if container == "flattened" else FileSink(file)
        if container == "elf":
            return write_elf(sink, self.memory, self.addresses, notes, image=self.image, filtered=filtered)
        # makedumpfile's flattened format is a kdump in disguise.
        return write_kdump(
            sink,
            self.memory,
            self.addresses,
            notes,
            compression=compression,  # type: ignore[arg-type]
            filtered=filtered,
            release=release(self.profile, self.state),
            cpus=self.state.cpus,
        )

    @property
    def image(self) -> tuple[int, int]:
        """The kernel image: physical addresses [start, end)."""
        return _image_extent(self.vmlinux, self.addresses)


def release(profile: Profile, state: State) -> str:
    """``uname -r``."""
    return state.release or vmlinux(profile).release


def build(
    machine: Machine,
    profile: Profile,
    *,
    kaslr: int | None = None,
    addresses: AddressSpace | None = None,
) -> Image:
    """Lay out a modelled machine's memory as a kernel would have it.

    :param kaslr: Seed of the kernel's placement; None is nokaslr.
    :param addresses: Where everything is mapped, instead.
    """
    debug = vmlinux(profile)
    page = machine.era.page_size
    ram = [(start * page, end * page) for start, end in machine.ram]
    place = addresses if addresses is not None else _addresses(profile, machine, ram, kaslr)
    state = ModelState(machine, profile, place, resolver(debug, place))

    def truth() -> Any:
        from mmdump_snapshots.model.truth import Truth

        return Truth.of(machine).to_json()

    return build_state(state, profile, place, truth=truth)


def _addresses(
    profile: Profile, machine: Machine, ram: list[tuple[int, int]], kaslr: int | None
) -> AddressSpace:
    start = machine.reserved[0] * machine.era.page_size
    if profile.arch == "x86_64":
        return AddressSpace.x86_64(text_phys=start, ram_end=ram[-1][1], seed=kaslr)
    return AddressSpace.aarch64(
        page_shift=profile.page_shift,
        ram_start=ram[0][0],
        text_phys=start,
        seed=kaslr,
        page_size_of_struct=profile.types.sizeof("struct page"),
    )


def build_state(
    state: State,
    profile: Profile,
    addresses: AddressSpace,
    *,
    truth: Callable[[], Any] | None = None,
) -> Image:
    """Lay out a state, whatever its source."""
    debug = vmlinux(profile)
    page = profile.page_size
    memory = PhysicalMemory([(start * page, end * page) for start, end in state.ram])
    arena = Arena(profile, debug, addresses, memory, _around_image(debug, addresses, state))
    root = addresses.kernel_phys(debug.symbols["swapper_pg_dir"].address)
    tables = PageTables(memory, addresses, arena.allocate, root)
    nodes = arena.type("node_data").length or 1 if arena.has("node_data") else 1
    fields = PageFields(profile, nodes)
    pages = PageWriter(profile, state, addresses.vmemmap, fields, zone_numbers(profile))
    layout = _Layout(pages)
    page_array = _page_array(arena, tables, layout, pages.size, state)
    _map(tables, memory, addresses, debug)
    percpu = PerCpu(arena, state.cpus)
    write_nodes(arena, state, pages.links, percpu, pages.deferred)
    layout.complete = True
    write_sections(arena, state, addresses.vmemmap)
    write_switches(arena, state)
    tags = write_tags(arena, state, percpu)
    write_page_ext(arena, state, tags)
    write_pinner(arena, state, pages)
    write_cma(arena, state)
    write_reporting(arena, state)
    write_depot(arena, state)
    write_tasks(arena, state, percpu)
    # What is free has its list of free objects written over what was there.
    write_slabs(arena, state, pages, tags)
    write_batches(arena, state, percpu)
    write_trace(arena, state, fields)
    write_kernel_image(arena, state, release(profile, state))
    note = vmcoreinfo(
        Facts(
            release=release(profile, state),
            version=profile.version,
            types=profile.types,
            space=addresses,
            symbol=partial(_symbol, debug, addresses),
            mem_section=arena.read_word("mem_section"),
            build_id=debug.build_id.hex() if isinstance(debug.build_id, bytes) else debug.build_id,
            numa=arena.has("node_data"),
            max_nodes=nodes,
        )
    )
    return Image(profile, memory, addresses, note, debug, state, page_array, truth, tables)


def _symbol(debug: Vmlinux, addresses: AddressSpace, name: str) -> int | None:
    found = debug.symbols.get(name)
    return None if found is None else addresses.kernel(found.address)


def _image_extent(debug: Vmlinux, addresses: AddressSpace) -> tuple[int, int]:
    page = addresses.page_size
    end = addresses.kernel_phys(debug.symbols["_end"].address)
    return addresses.kernel_phys(debug.symbols["_text"].address), -(-end // page) * page


def _around_image(debug: Vmlinux, addresses: AddressSpace, state: State) -> list[tuple[int, int]]:
    """The reserved memory, less the kernel image."""
    start, end = _image_extent(debug, addresses)
    found = []
    for low, high in state.reserved:
        low, high = low * addresses.page_size, high * addresses.page_size  # noqa: PLW2901
        found += (
            [(max(low, end), high), (low, min(high, start))] if low < end and start < high else [(low, high)]
        )
    return found


def _map(tables: PageTables, memory: PhysicalMemory, addresses: AddressSpace, debug: Vmlinux) -> None:
    """The direct map, and the kernel image."""
    for start, end in memory.ram:
        tables.map(addresses.direct(start), start, end - start)
    start, end = _image_extent(debug, addresses)
    tables.map(addresses.kernel(debug.symbols["_text"].address), start, end - start)


def _page_array(
    arena: Arena, tables: PageTables, layout: _Layout, stride: int, state: State
) -> list[tuple[int, int, int]]:
    """Take memory for the struct pages of every section, and map it into the virtual map.

    :return: Runs of sections: first PFN, end PFN, physical address.
    """
    order = section_order(arena.profile)
    runs: list[tuple[int, int]] = []
    for number in section_numbers(arena.profile, state):
        if runs and runs[-1][1] == number << order:
            runs[-1] = runs[-1][0], (number + 1) << order
        else:
            runs.append((number << order, (number + 1) << order))
    found = []
    for start, end in runs:
        size = (end - start) * stride
        # Mapped by large pages where it fills some; and in no block of memory that others write to.
        phys = arena.allocate(-(-size // BLOCK) * BLOCK, 2 << 20 if size >= 2 << 20 else BLOCK)
        arena.memory.write_lazy(phys, size, partial(layout.part, start))
        tables.map(arena.addresses.vmemmap + start * stride, phys, size)
        found.append((start, end, phys))
    return found


class _Layout:
    """The page array, laid out chunk by chunk as it is read; the last few chunks are kept."""

    def __init__(self, pages: PageWriter) -> None:
        self._pages = pages
        #: Whether all lists are known: before that, links cannot be laid out.
        self.complete = False
        self._chunks: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def part(self, first: int, offset: int, size: int) -> NDArray[np.uint8]:
        """Bytes [offset, offset + size) of the struct pages from PFN ``first`` on."""
        assert self.complete
        begin = first * self._pages.size + offset
        end = begin + size
        width = CHUNK * self._pages.size
        parts = []
        position = begin
        while position < end:
            number = position // width
            stop = min(end, (number + 1) * width)
            parts.append(self._chunk(number)[position - number * width : stop - number * width])
            position = stop
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _chunk(self, number: int) -> NDArray[np.uint8]:
        found = self._chunks.get(number)
        if found is None:
            found = self._pages.chunk(number * CHUNK, (number + 1) * CHUNK)
            self._chunks[number] = found
            if len(self._chunks) > _KEPT:
                self._chunks.popitem(last=False)
        else:
            self._chunks.move_to_end(number)
        return found
