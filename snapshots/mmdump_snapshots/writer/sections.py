"""Memory sections, with pageblock bits and page_ext (mm/sparse.c, include/linux/pageblock-flags.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.writer.state import MIGRATETYPES, State

if TYPE_CHECKING:
    from mmdump_snapshots.kernels import Profile
    from mmdump_snapshots.writer.arena import Arena

__all__ = ["pageblock_words", "section_numbers", "section_order", "write_sections"]

_MASK = 0xFFFFFFFFFFFFFFFF
#: SECTION_MARKED_PRESENT, SECTION_HAS_MEM_MAP, SECTION_IS_ONLINE; an enum since 6.0.
_FLAGS = 1 | 2 | 4
#: SECTION_IS_EARLY (5.3): present since boot, so that all of it is valid.
_EARLY = 8


def section_order(profile: Profile) -> int:
    """PFN_SECTION_SHIFT: log2 of the pages of a section."""
    return profile.era.section_shift - profile.page_shift


def section_numbers(profile: Profile, state: State) -> list[int]:
    """The sections that have memory."""
    shift = section_order(profile)
    found: set[int] = set()
    for start, end in state.ram:
        found.update(range(start >> shift, ((end - 1) >> shift) + 1))
    return sorted(found)


def write_sections(arena: Arena, state: State, vmemmap: int) -> None:
    """Write the section table, to roots of a page each, and what hangs from it.

    :param vmemmap: Address of the ``struct page`` of PFN 0.
    """
    profile, types = arena.profile, arena.profile.types
    size = types.sizeof("struct mem_section")
    per_root = profile.page_size // size
    roots = (1 << (arena.addresses.max_physmem_bits - profile.era.section_shift)) // per_root
    table = np.zeros(max(roots, 1), "<u8")
    rows: dict[int, bytearray] = {}
    order = section_order(profile)
    has_usage = types.has("struct mem_section", "usage")
    tables = state.page_ext.tables if state.page_ext is not None else {}
    for number in section_numbers(profile, state):
        root = rows.setdefault(number // per_root, bytearray(per_root * size))
        start = number << order
        # The map is stored so that an absolute PFN indexes it; with a virtual map that is vmemmap itself.
        values = {"section_mem_map": vmemmap | _FLAGS | (_EARLY if has_usage else 0)}
        bits = pageblock_words(profile, state, start, start + (1 << order)).tobytes()
        if has_usage:
            values["usage"] = _usage(arena, bits)
        else:
            values["pageblock_flags"] = arena.place(bits, 8)
        if number in tables and types.has("struct mem_section", "page_ext"):
            assert state.page_ext is not None
            values["page_ext"] = tables[number] - start * state.page_ext.stride & _MASK
        types.pack("struct mem_section", values, root, number % per_root * size)
    for root_number, raw in rows.items():
        table[root_number] = arena.place(raw, profile.page_size)
    arena.set("mem_section", arena.place(table.tobytes()))
    arena.maybe("__highest_present_section_nr", max(section_numbers(profile, state)))


def _usage(arena: Arena, bits: bytes) -> int:
    """``struct mem_section_usage`` with the pageblock bits behind it (5.3)."""
    types = arena.profile.types
    name = "struct mem_section_usage"
    raw = bytearray(types.member(name, "pageblock_flags").offset + len(bits))
    if types.has(name, "subsection_map"):
        place = types.member(name, "subsection_map")
        raw[place.offset : place.offset + place.type.size] = b"\xff" * place.type.size
    raw[len(raw) - len(bits) :] = bits
    return arena.place(raw, 8)


def pageblock_words(profile: Profile, state: State, start: int, stop: int) -> NDArray[np.uint64]:
    """The pageblock bits of a section.

    :return: The bitmap, uint64, of NR_PAGEBLOCK_BITS for each block of [start, stop).
    """
    migratetypes = profile.types.enumerators("enum migratetype")
    numbers = np.array([migratetypes.get(f"MIGRATE_{name}", 0) for name in MIGRATETYPES], np.uint64)
    types, isolated = state.pageblocks(start, stop)
    values = numbers[types]
    bits = profile.types.enumerators("enum pageblock_bits")
    if "PB_migrate_isolate" in bits:
        # 6.17: isolation is a bit of its own; a block has eight bits.
        values |= isolated.astype(np.uint64) << np.uint64(bits["PB_migrate_isolate"])
        width = 8
    else:
        values = np.where(isolated, np.uint64(migratetypes.get("MIGRATE_ISOLATE", 0)), values)
        width = 4
    per_word = 64 // width
    rows = np.zeros(-(-len(values) // per_word) * per_word, np.uint64)
    rows[: len(values)] = values
    words = rows.reshape(-1, per_word)
    shifts = np.arange(per_word, dtype=np.uint64) * np.uint64(width)
    if profile.version < (5, 9):
        # Counted from the top of the word, and the three bits of the type come first.
        words <<= np.uint64(1)
        shifts = np.uint64(64 - width) - shifts
    return np.bitwise_or.reduce(words << shifts, axis=1)
