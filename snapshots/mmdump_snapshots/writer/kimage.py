"""What the kernel image says of itself: names, tables of names, and where memory is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmdump_snapshots.kernels import rodata

if TYPE_CHECKING:
    from mmdump_snapshots.writer.addresses import AddressSpace
    from mmdump_snapshots.writer.arena import Arena
    from mmdump_snapshots.writer.state import State
    from mmdump_snapshots.writer.vmlinux import Vmlinux

__all__ = ["resolver", "write_kernel_image"]


def resolver(debug: Vmlinux, addresses: AddressSpace) -> Callable[[str], int]:
    """From frames, such as ``alloc_pages+0x1f0``, to run-time addresses; without an offset, somewhere inside.

    A function raises LookupError for a name that the kernel has not.
    """

    def resolve(frame: str) -> int:
        name, _, offset = frame.partition("+")
        symbol = debug.symbols.get(name)
        if symbol is None:
            raise LookupError(f"{debug.profile.name} has no function {name}")
        return addresses.kernel(symbol.address + (int(offset, 16) if offset else symbol.size // 2))

    return resolve


def write_kernel_image(arena: Arena, state: State, release: str) -> None:
    """Write what the linker put into the image, and the variables that say how the kernel was started."""
    for link, data in arena.vmlinux.contents:
        arena.memory.write(arena.addresses.kernel_phys(link), data)
    _names(arena, release)
    _places(arena, state)
    _memory(arena, state)
    write_tables(arena)


def _names(arena: Arena, release: str) -> None:
    """``init_uts_ns``."""
    namespace = arena.variable("init_uts_ns")
    for member, text in {
        "sysname": "Linux",
        "nodename": "snapshot",
        "release": release,
        "version": f"#1 SMP {arena.profile.name}",
        "machine": arena.profile.arch,
        "domainname": "(none)",
    }.items():
        namespace.set(f"name.{member}", text.encode())
    arena.store(namespace)


def _places(arena: Arena, state: State) -> None:
    """Where everything is mapped."""
    space = arena.addresses
    for name, value in {
        "phys_base": space.phys_base,
        "page_offset_base": space.page_offset,
        "vmalloc_base": space.vmalloc,
        "vmemmap_base": space.vmemmap_start,
        "memstart_addr": space.memstart,
        "kimage_voffset": space.kimage_voffset,
    }.items():
        arena.maybe(name, value)
    root = space.kernel(arena.vmlinux.symbols["swapper_pg_dir"].address)
    if arena.has("init_mm"):
        mm = arena.variable("init_mm")
        mm.set("pgd", root)
        mm.maybe("mm_users.counter", 2)
        mm.maybe("mm_count.counter", 1)
        arena.store(mm)
    if arena.has("modules"):
        arena.words("modules", [arena.address("modules")] * 2)
    if arena.has("empty_zero_page"):
        zero = space.kernel_phys(arena.vmlinux.variable("empty_zero_page")[0]) >> state.page_shift
        arena.maybe("zero_pfn", zero)
        arena.maybe("zero_page_pfn", zero)
    arena.maybe("huge_zero_pfn", -1)
    # From memblock, so that its address tells where the direct map is.
    arena.maybe("saved_command_line", arena.string("page_owner=on page_pinner=on"))


def _memory(arena: Arena, state: State) -> None:
    """How much memory there is."""
    arena.maybe("max_pfn", state.end_pfn)
    arena.maybe("max_low_pfn", state.end_pfn)
    arena.maybe("min_low_pfn", state.ram[0][0])
    arena.maybe("high_memory", arena.addresses.direct(state.end_pfn << state.page_shift))
    total = sum(zone.managed for node in state.nodes for zone in node.zones)
    if not arena.maybe("_totalram_pages", total):
        arena.maybe("totalram_pages", total)


def write_tables(arena: Arena) -> None:
    """Tables of names, as ``%pGp``, ``%pGg`` and others print them (kernels/rodata.py)."""
    for name, elements in rodata.tables(arena.profile).items():
        if not arena.has(name):
            continue
        ctype = arena.type(name).bare
        assert ctype.target is not None
        raw = bytearray(ctype.size)
        for index, element in enumerate(elements):
            for path, content in element.items():
                place = arena.profile.types.member(ctype.target, path)
                at = index * ctype.target.size + place.offset
                raw[at : at + place.type.size] = _value(arena, content).to_bytes(place.type.size, "little")
        arena.write(name, bytes(raw))


def _value(arena: Arena, content: int | str | rodata.Reference | None) -> int:
    if isinstance(content, str):
        return arena.string(content)
    if isinstance(content, rodata.Reference):
        return arena.address(content.variable) if arena.has(content.variable) else 0
    return content or 0
