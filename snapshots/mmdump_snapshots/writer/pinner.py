"""Android's page pinner: its rings of what happened, and its settings (mm/page_pinner.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mmdump_snapshots.writer.arena import Arena
    from mmdump_snapshots.writer.pages import PageWriter
    from mmdump_snapshots.writer.state import CapturedState, RingState, State

__all__ = ["write_pinner"]

_FILE = "mm/page_pinner.c"
_CAPTURED = "struct captured_pinner"


def write_pinner(arena: Arena, state: State, pages: PageWriter) -> None:
    """Write the rings and the variables beside them. A kernel with another page pinner has none."""
    pinner = state.pinner
    if pinner is None or not arena.has("page_pinner_ops"):
        return
    arena.maybe("threshold_usec", pinner.threshold, _FILE)
    arena.maybe("failure_handle", pinner.failure_handle, _FILE)
    arena.maybe("pp_buf_size", pinner.size, _FILE)
    if arena.has("failure_tracking"):
        key = arena.variable("failure_tracking")
        key.set("key.enabled.counter", int(pinner.failure_tracking))
        arena.store(key)
    for ring in pinner.rings:
        _ring(arena, pages, ring)


def _ring(arena: Arena, pages: PageWriter, ring: RingState) -> None:
    types, size = arena.profile.types, arena.profile.types.sizeof(_CAPTURED)
    # Memory that was somebody else's before: it is not cleared. What is in the image is.
    garbage = np.random.default_rng(ring.size).integers(0, 1 << 63, ring.size * size // 8, np.int64)
    raw = bytearray(garbage.tobytes() if ring.buffer else ring.size * size)
    if ring.buffer:
        # As it happens, the place before the first was zero.
        raw[-size:] = bytes(size)
    for place, record in ring.slots.items():
        raw[place * size : (place + 1) * size] = _captured(arena, pages, record)
    ctype = arena.type(ring.name, _FILE)
    assert ctype.bare.name is not None
    struct = f"struct {ctype.bare.name}"
    index = types.member(struct, "index")
    arena.write(ring.name, ring.index.to_bytes(index.type.size, "little"), _FILE, offset=index.offset)
    if ring.buffer:
        arena.memory.write(arena.addresses.phys(ring.buffer), bytes(raw))
        pointer = ring.buffer.to_bytes(8, "little")
        arena.write(ring.name, pointer, _FILE, offset=types.offset(struct, "buffer"))
    elif ring.slots:
        name = "pinner" if types.has(struct, "pinner") else "buffer"
        arena.write(ring.name, bytes(raw), _FILE, offset=types.offset(struct, name))


def _captured(arena: Arena, pages: PageWriter, record: CapturedState) -> bytes:
    """``struct captured_pinner``: of the members that tell the same, those that this kernel has."""
    flags = pages.flag_word(record.pfn, record.flags)
    values = {
        "handle": record.handle,
        "ts_usec": record.usec,
        "pfn": record.pfn,
        "count": record.count,
        "mapcount": record.mapcount,
        "mapping": record.mapping,
        "flags": flags,
        "page_flags": flags,
        "page_mt": arena.profile.types.constant(f"MIGRATE_{record.migratetype}"),
        "state": record.state,
    }
    types = arena.profile.types
    return bytes(
        types.pack(_CAPTURED, {name: value for name, value in values.items() if types.has(_CAPTURED, name)})
    )
