"""The table of call chains that other tables name by ``stack_id``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import polars as pl

from mmdump.kernel.stackdepot import StackStatus
from mmdump.result import Column, Kind, Schema, Table

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["STACKS", "stack_table"]

STACKS = Schema(
    "stacks",
    (
        Column("stack_id", Kind.ID, "stack depot handle"),
        Column("status", Kind.TEXT, "ok, or why there are no frames"),
        Column("frames", Kind.STACK, "call chain, innermost first, as the kernel prints it"),
        Column("addresses", Kind.ADDRESS, "the return address that each frame stands for", in_text=False),
    ),
    "Call chains",
)

#: Chains that one table shows at most; a real depot has some thousands.
_MAX_STACKS = 1 << 16


def stack_table(kernel: Kernel, handles: Iterable[int]) -> tuple[Table, list[str]]:
    """The stacks of these handles as a table, and one sentence for each thing wrong with some of them."""
    wanted = sorted(set(handles))
    notes = []
    if len(wanted) > _MAX_STACKS:
        notes.append(f"{len(wanted) - _MAX_STACKS} of {len(wanted)} call chains are left out")
        wanted = wanted[:_MAX_STACKS]
    statuses: list[str] = []
    frames: list[list[str]] = []
    addresses: list[tuple[int, ...]] = []
    bad: dict[StackStatus, int] = {}
    depot = kernel.stack_depot
    for handle in wanted:
        if depot is None:
            statuses.append("no stack depot")
            frames.append([])
            addresses.append(())
            continue
        stack = depot.stack(handle)
        statuses.append(stack.status.value)
        frames.append([kernel.symbols.text(address) for address in stack.frames])
        addresses.append(stack.frames)
        if stack.status is not StackStatus.OK:
            bad[stack.status] = bad.get(stack.status, 0) + 1
    for status, count in bad.items():
        notes.append(f"{count} of {len(wanted)} stack depot handles lead to no stack: {status.value}")
    frame = pl.DataFrame(
        {"stack_id": wanted, "status": statuses, "frames": frames, "addresses": addresses},
        schema={
            "stack_id": pl.Int64,
            "status": pl.String,
            "frames": pl.List(pl.String),
            "addresses": pl.List(pl.UInt64),
        },
    )
    return Table(STACKS, frame), notes
