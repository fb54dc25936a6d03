"""Allocation tags: the kernel's and a module's, with counters (lib/codetag.c, lib/alloc_tag.c; 6.10)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.kernels.functions import functions
from mmdump_snapshots.writer.state import State

if TYPE_CHECKING:
    from mmdump_snapshots.kernels import Profile
    from mmdump_snapshots.writer.arena import Arena, Struct
    from mmdump_snapshots.writer.percpu import PerCpu

__all__ = [
    "MODULE",
    "MODULE_FILE",
    "MODULE_FUNCTIONS",
    "line_of",
    "sites",
    "tag_ids",
    "tag_shift",
    "write_tags",
]

#: A module that has tags and allocates nothing; an ID before its own belonged to one that is gone.
MODULE, MODULE_ID, MODULE_FILE = "igb", 2, "drivers/net/ethernet/intel/igb/igb_main.c"
MODULE_FUNCTIONS = ("igb_alloc_rx_buffers", "igb_probe")
#: CODETAG_ID_FIRST: the number in page->flags that means the kernel's first tag.
_ID_FIRST = 2
#: How many bits of page->flags a number takes.
_ID_BITS = 16
#: CODETAG_FLAG_INACCURATE (6.18), on the tag of this function.
INACCURATE = "do_exit"


def sites(profile: Profile) -> list[tuple[str, int, str]]:
    """The lines of code that have a tag, in the order of the tags: file, line and function; one for each."""
    return [(file, line_of(name), name) for name, _, file, _ in functions(profile)]


def line_of(function: str) -> int:
    """Where in its file a function allocates."""
    return zlib.crc32(function.encode()) % 4000 + 1


def tag_shift(profile: Profile) -> int:
    """``alloc_tag_ref_offs``: behind the flags."""
    return int(profile.types.enumerators("enum pageflags")["__NR_PAGEFLAGS"])


def _numbers(profile: Profile, state: State) -> NDArray[np.int64]:
    """The number of the tag of each of the state's functions."""
    order = {function: number for number, (_, _, function) in enumerate(sites(profile))}
    assert state.tags is not None
    missing = [function for function in state.tags.functions if function not in order]
    if missing:
        raise LookupError(f"{profile.name} has no function {missing[0]}")
    return np.array([order[function] for function in state.tags.functions], np.int64)


def tag_ids(profile: Profile, state: State) -> NDArray[np.uint64] | None:
    """What page->flags has for each reference of the state, in place; None where page_ext has them."""
    if state.tags is None or not state.tags.compressed:
        return None
    ids = np.concatenate(([0], _numbers(profile, state) + _ID_FIRST)).astype(np.uint64)
    return ids << np.uint64(tag_shift(profile))


def write_tags(arena: Arena, state: State, percpu: PerCpu) -> NDArray[np.uint64]:
    """Write all tags; they are there whether memory is profiled or not.

    :return: The address of the tag that each reference of the state means; of 0 that is 0.
    """
    profile = arena.profile
    if not arena.has("_alloc_tag"):
        return np.zeros(1, np.uint64)
    size = profile.types.sizeof("struct alloc_tag")
    first, lines = arena.address("_alloc_tag"), sites(profile)
    counters = percpu.pointer("_alloc_tag_cntr")
    stride = profile.types.sizeof("struct alloc_tag_counters")
    tags = [
        _tag(arena, (file, line, function, None), counters + number * stride)
        for number, (file, line, function) in enumerate(lines)
    ]
    arena.write("_alloc_tag", b"".join(bytes(tag.data) for tag in tags))
    module = _module(arena, percpu)
    _type(arena, [(0, 0, first, len(lines)), (MODULE_ID, 1, module, len(MODULE_FUNCTIONS))])
    _compressed(arena, state, first, len(lines), module)
    if state.tags is None:
        return np.zeros(1, np.uint64)
    numbers = _numbers(profile, state)
    for cpu in range(percpu.cpus):
        table = np.zeros((len(lines), 2), np.int64)
        table[numbers, 0], table[numbers, 1] = state.tags.bytes[cpu], state.tags.calls[cpu]
        variable = percpu.variable("_alloc_tag_cntr", cpu)
        # A CPU that frees what another has allocated counts below zero, and wraps around.
        variable.data[: table.nbytes] = table.tobytes()
        percpu.finish(variable)
    found = np.zeros(len(numbers) + 1, np.uint64)
    found[1:] = np.uint64(first) + numbers.astype(np.uint64) * np.uint64(size)
    return found


def _tag(arena: Arena, site: tuple[str, int, str, str | None], counters: int) -> Struct:
    from mmdump_snapshots.writer.arena import Struct

    file, line, function, module = site
    tag = Struct(arena.profile, "struct alloc_tag")
    tag.set("ct.flags", int(function == INACCURATE and arena.profile.version >= (6, 18)))
    tag.set("ct.lineno", line)
    tag.set("ct.function", arena.string(function))
    tag.set("ct.filename", arena.string(file))
    tag.set("ct.modname", arena.string(module) if module else 0)
    tag.set("counters", counters)
    return tag


def _module(arena: Arena, percpu: PerCpu) -> int:
    """The tags of a module, each with counters of its own. :return: Their address."""
    raw = b""
    for function in MODULE_FUNCTIONS:
        pointer, _ = percpu.allocate("struct alloc_tag_counters", 16)
        raw += bytes(_tag(arena, (MODULE_FILE, line_of(function), function, MODULE), pointer).data)
    return arena.place(raw)


def _type(arena: Arena, ranges: list[tuple[int, int, int, int]]) -> None:
    """``alloc_tag_cttype``, and who is registered with it: (ID, sequence number, first tag, tags)."""
    size = arena.profile.types.sizeof("struct alloc_tag")
    node = arena.struct("struct xa_node")
    for number, sequence, first, count in ranges:
        module = arena.struct("struct codetag_module")
        module.set("range.start", first)
        module.set("range.stop", first + count * size)
        module.maybe("mod_seq", sequence + 1)
        node.set(f"slots[{number}]", arena.finish(module))
    node.set("count", len(ranges))
    kind = arena.struct("struct codetag_type")
    kind.set("count", sum(count for *_, count in ranges))
    # An entry that ends in binary 10 is a node.
    kind.set("mod_idr.idr_rt.xa_head", arena.finish(node) | 2)
    kind.set("desc.section", arena.string("alloc_tags"))
    kind.set("desc.tag_size", size)
    kind.maybe("next_mod_seq", len(ranges) + 1)
    arena.set("alloc_tag_cttype", arena.finish(kind))


def _compressed(arena: Arena, state: State, first: int, count: int, module: int) -> None:
    """What numbers of tags mean (6.13)."""
    arena.maybe("mem_profiling_support", int(state.tags is not None))
    if not arena.has("module_tags"):
        return
    size = arena.profile.types.sizeof("struct alloc_tag") * len(MODULE_FUNCTIONS)
    area = arena.variable("module_tags")
    area.set("start_addr", module)
    area.set("end_addr", module + size)
    area.set("size", size)
    arena.store(area)
    if state.tags is not None and state.tags.compressed:
        section = arena.variable("kernel_tags")
        section.set("first_tag", first)
        section.set("count", count)
        arena.store(section)
        arena.set("alloc_tag_ref_offs", tag_shift(arena.profile))
        arena.set("alloc_tag_ref_mask", (1 << _ID_BITS) - 1)
