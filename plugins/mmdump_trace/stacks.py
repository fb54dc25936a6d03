"""Which stack belongs to which event.

A stack is an event of its own, written right after the one it belongs to; an interrupt in between may write
others, with stacks of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mmdump.kernel.arrays import I32, I64, U8
    from mmdump_trace.formats import EventTypes
    from mmdump_trace.stream import Events

__all__ = ["Owners", "Recent", "owners_of"]

#: Events that may lie between an event and its stack.
_FAR = 32


@dataclass(frozen=True)
class Owners:
    """The owners of the stacks among some events.

    :param number: Of each event: the number of the event whose stack it is; -1 where it is none, or an
        orphan.
    :param type: That event's type.
    :param recent: The last events, for those that follow.
    """

    number: I64
    type: I32
    recent: Recent


@dataclass(frozen=True)
class Recent:
    """What must be known of earlier events: columns, as in :class:`Events`, and whose stack each is."""

    type: I32
    pid: I32
    flags: U8
    preempt: U8
    number: I64
    stacked: I64


def owners_of(events: Events, types: EventTypes, before: Recent | None = None) -> Owners:
    """Find the owner of each stack.

    :param events: Of one CPU, in order.
    :param before: The last events before them.
    """
    columns = {name: getattr(events, name) for name in ("type", "pid", "flags", "preempt", "number")}
    ghosts = 0
    # Bit 0: has a kernel stack, bit 1: has a user stack.
    stacked = np.zeros(len(events), np.int64)
    if before is not None:
        ghosts = len(before.type)
        columns = {name: np.concatenate([getattr(before, name), column]) for name, column in columns.items()}
        stacked = np.concatenate([before.stacked, stacked])
    kind, pid, number = columns["type"], columns["pid"], columns["number"]
    context = columns["flags"].astype(np.int64) << 8 | columns["preempt"]
    sort = np.where(kind == types.kernel_stack, 1, np.where(kind == types.user_stack, 2, 0))
    owner = np.full(len(kind), -1, np.int64)
    waiting = np.flatnonzero(sort != 0)
    waiting = waiting[waiting >= ghosts]
    for far in range(1, _FAR + 1):
        if not len(waiting):
            break
        reach = waiting[waiting >= far]
        found = reach - far
        fits = (sort[found] == 0) & (pid[found] == pid[reach]) & (stacked[found] & sort[reach] == 0)
        if far > 1:
            # What is not next to it must have been written in the same context.
            fits &= context[found] == context[reach]
        owner[reach[fits]] = found[fits]
        np.bitwise_or.at(stacked, found[fits], sort[reach[fits]])
        waiting = waiting[owner[waiting] < 0]
    known = owner >= 0
    tail = slice(max(0, len(kind) - _FAR), None)
    return Owners(
        np.where(known, number[owner], -1)[ghosts:],
        np.where(known, kind[owner], -1)[ghosts:].astype(np.int32),
        Recent(stacked=stacked[tail], **{name: column[tail] for name, column in columns.items()}),
    )
