"""The stack depot: pools of records, their hash table, and page_owner's own handles (lib/stackdepot.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdump_snapshots.writer.arena import Struct
from mmdump_snapshots.writer.state import DepotState, Record, State

if TYPE_CHECKING:
    from mmdump_snapshots.writer.arena import Arena

__all__ = ["write_depot"]

_FILE = "mm/page_owner.c"


def write_depot(arena: Arena, state: State) -> None:
    """Write the depot. A machine without one has a depot without pools."""
    depot = state.depot
    if depot is None:
        return
    _pools(arena, depot)
    by_handle = _records(arena, depot)
    for name, handle in depot.special.items():
        if arena.has(name, _FILE):
            arena.set(name, handle, _FILE)
    if depot.listed and arena.has("stack_list", _FILE):
        _stack_list(arena, depot, by_handle)


def _pools(arena: Arena, depot: DepotState) -> None:
    # stack_slabs up to 6.2.
    name = "stack_pools" if arena.has("stack_pools") else "stack_slabs"
    pointers = np.array(list(depot.pools), "<u8").tobytes()
    if arena.type(name).bare.kind == "pointer":
        # 6.17 allocates the array, of stack_max_pools.
        arena.set(name, arena.place(pointers + b"\0" * 64))
        arena.maybe("stack_max_pools", 8192)
    else:
        arena.write(name, pointers)
    # How far they are filled: by index up to 6.7, by count since.
    if not arena.maybe("pools_num", len(depot.pools)) and not arena.maybe("depot_index", depot.pool):
        arena.maybe("pool_index", depot.pool)
    if not arena.maybe("pool_offset", depot.used):
        arena.maybe("depot_offset", depot.used)


def _records(arena: Arena, depot: DepotState) -> dict[int, int]:
    """Write the records, and the chains of the hash table.

    :return: Handle -> address of the record.
    """
    types = arena.profile.types
    name = "struct stack_record"
    entries = types.member(name, "entries").offset
    links = types.has(name, "hash_list")  # a list_head since 6.8, a single pointer before
    buckets: dict[int, list[Record]] = {}
    table, mask, stride = _table(arena, 16 if links else 8, depot.hash_mask)
    by_handle: dict[int, int] = {}
    for record in depot.records:
        buckets.setdefault(record.hash & mask, []).append(record)
        by_handle[record.handle] = depot.pools[record.pool] + record.offset
    rows = np.zeros((mask + 1, stride // 8), "<u8")
    if links:
        # Every bucket is an initialised list_head.
        anchors = np.uint64(table) + np.arange(mask + 1, dtype=np.uint64) * np.uint64(16)
        rows[:, 0] = rows[:, 1] = anchors
    for number, chain in buckets.items():
        # The newest comes first.
        at = [by_handle[record.handle] for record in reversed(chain)]
        anchor = table + number * stride
        for index, record in enumerate(reversed(chain)):
            after = at[index + 1] if index + 1 < len(at) else (anchor if links else 0)
            values: dict[str, int] = {"hash": record.hash, "size": len(record.frames)}
            if links:
                values["hash_list.next"] = after
                values["hash_list.prev"] = at[index - 1] if index else anchor
            else:
                values["next"] = after
            values["handle.handle"] = record.handle
            if types.has(name, "count"):
                values["count.refs.counter"] = record.count
            raw = bytearray(max(types.sizeof(name), entries))
            types.pack(name, values, raw)
            frames = np.array(record.frames, "<u8").tobytes()
            arena.memory.write(arena.addresses.phys(at[index]), bytes(raw[:entries]) + frames)
        rows[number, 0] = at[0]
        if links:
            rows[number, 1] = at[-1]
    # The table of a depot with few stacks is mostly alike; it is written where it is not zero.
    if links or rows.any():
        _write_rows(arena, table, rows)
    return by_handle


def _write_rows(arena: Arena, table: int, rows: np.ndarray) -> None:
    if arena.has("stack_table") and arena.type("stack_table").bare.kind == "array":
        arena.write("stack_table", rows.tobytes())
    else:
        arena.memory.write(arena.addresses.phys(table), rows.tobytes())


def _table(arena: Arena, stride: int, mask: int) -> tuple[int, int, int]:
    """The hash table's address, mask and bytes per bucket."""
    if not arena.has("stack_table"):
        return 0, mask, stride
    ctype = arena.type("stack_table").bare
    if ctype.kind == "array":
        # Up to 5.11, of 1 << CONFIG_STACK_HASH_ORDER pointers.
        return arena.address("stack_table"), (ctype.length or 1) - 1, stride
    table = arena.addresses.direct(arena.allocate(stride * (mask + 1), 4096))
    arena.set("stack_table", table)
    arena.maybe("stack_hash_mask", mask)
    return table, mask, stride


def _stack_list(arena: Arena, depot: DepotState, by_handle: dict[int, int]) -> None:
    """``stack_list``: the stacks that page_owner counts pages for, newest first (6.9)."""
    following = 0
    for index, (handle, address) in reversed(list(enumerate(depot.listed))):
        if address:
            entry = Struct(arena.profile, "struct stack", address)
        else:
            # The last two are variables.
            name = "failure_stack" if index == len(depot.listed) - 1 else "dummy_stack"
            entry = arena.variable(name, _FILE)
        entry.set("stack_record", by_handle.get(handle, 0))
        entry.set("next", following)
        following = entry.address
        if address:
            arena.finish(entry)
        else:
            arena.store(entry)
    arena.set("stack_list", following, _FILE)
