"""The stack depot's own variables: how full it is, and what it counts (kernel: lib/stackdepot.c)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, TypeKind, offsetof

from mmdump.kernel.layout import find_object, find_type, has_member

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel.stackdepot import StackDepotLayout

__all__ = ["FILE", "DepotState", "read_depot_state"]

#: Where the depot's variables are; names such as ``counters`` and ``pool_index`` are others' too.
FILE = "lib/stackdepot.c"


@dataclass(frozen=True)
class DepotState:
    """The depot's variables, and the members of a record that only matter to those who want all. Plain data.

    :param limit: Pools that the depot may have.
    :param used: Pools that records were put into.
    :param pool_offset: First byte of the last of these that is not used yet; None where it is not known.
    :param link_offset: Of the member that links the records of one bucket.
    :param lists: Whether buckets are doubly linked lists (6.8); before, chains that end with a null pointer.
    :param count_offset: Of the record's reference count (6.8); None before.
    :param counters: The kernel's own statistics by the name of their enumerator (6.8).
    """

    limit: int
    used: int
    pool_offset: int | None
    link_offset: int
    lists: bool
    hash_offset: int
    count_offset: int | None
    counters: dict[str, int] = field(default_factory=dict)


def read_depot_state(prog: Program, layout: StackDepotLayout) -> DepotState | None:
    """Read the depot's variables; None where this kernel has no depot, or one without a hash."""
    record = find_type(prog, "struct stack_record")
    if record is None or not has_member(record, "hash"):
        return None
    lists = has_member(record, "hash_list")
    limit = _number(prog, "stack_max_pools")  # 6.17; before, the length of the array
    pools = find_object(prog, "stack_pools")
    pools = pools if pools is not None else find_object(prog, "stack_slabs")
    if limit is None and pools is not None and pools.type_.unaliased().kind == TypeKind.ARRAY:
        limit = pools.type_.unaliased().length
    used = _number(prog, "pools_num")  # 6.8
    if used is None:
        # The pool that is being filled; pool_index from 6.3 on.
        index = _number(prog, "depot_index")
        index = index if index is not None else _number(prog, "pool_index")
        used = index + 1 if index is not None else None
    there = np.flatnonzero(np.array(layout.pools, np.uint64))
    last = int(there[-1]) + 1 if len(there) else 0
    if used is None or not 0 <= used <= len(layout.pools):
        used = last
    offset = _number(prog, "pool_offset")
    offset = offset if offset is not None else _number(prog, "depot_offset")  # up to 6.2
    if offset is not None and not 0 <= offset <= layout.pool_size:
        offset = None
    return DepotState(
        limit=min(max(limit or 0, 0), 1 << layout.index_bits),
        used=min(used, last),
        # A pool that was begun, but could not be allocated, is not in use.
        pool_offset=offset if used <= last else None,
        link_offset=offsetof(record, "hash_list" if lists else "next"),
        lists=lists,
        hash_offset=offsetof(record, "hash"),
        count_offset=offsetof(record, "count") if has_member(record, "count") else None,
        counters=_counters(prog),
    )


def _number(prog: Program, name: str) -> int | None:
    found = find_object(prog, name, FILE)
    found = found if found is not None else find_object(prog, name)
    try:
        return None if found is None else int(found.value_())
    except (FaultError, TypeError):
        return None


def _counters(prog: Program) -> dict[str, int]:
    """``counters[]`` by the names of ``enum depot_counter_id``."""
    found, names = find_object(prog, "counters", FILE), find_type(prog, "enum depot_counter_id")
    if found is None or names is None or not names.enumerators:
        return {}
    length = found.type_.unaliased().length or 0
    try:
        return {
            each.name: int(found[each.value].value_())
            for each in names.enumerators
            if 0 <= each.value < min(length, 64)
        }
    except FaultError:
        return {}
