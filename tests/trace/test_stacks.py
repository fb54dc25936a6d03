"""Stacks and the events they belong to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmdump_trace.formats import EventTypes
from mmdump_trace.stacks import Recent, owners_of
from mmdump_trace.stream import Events

TYPES = EventTypes(kernel_stack=4, user_stack=12, last=20)


def _events(*rows: tuple[int, int, int], first: int = 0) -> Events:
    """(type, pid, flags) of each."""
    kind, pid, flags = (np.array(column) for column in zip(*rows, strict=True))
    count = len(rows)
    return replace(
        Events.none(),
        cpu=np.zeros(count, np.int32),
        number=np.arange(first, first + count),
        stamp=np.zeros(count, np.uint64),
        type=kind.astype(np.int32),
        flags=flags.astype(np.uint8),
        preempt=np.zeros(count, np.uint8),
        pid=pid.astype(np.int32),
        start=np.zeros(count, np.int64),
        size=np.zeros(count, np.int64),
    )


def test_a_stack_belongs_to_the_event_before_it() -> None:
    found = owners_of(_events((100, 1, 0), (4, 1, 0), (101, 1, 0), (100, 2, 0), (4, 2, 0)), TYPES)
    assert found.number.tolist() == [-1, 0, -1, -1, 3]
    assert found.type.tolist() == [-1, 100, -1, -1, 100]


def test_a_users_stack_follows_the_kernels() -> None:
    assert owners_of(_events((100, 1, 0), (4, 1, 0), (12, 1, 0)), TYPES).number.tolist() == [-1, 0, 0]


def test_what_an_interrupt_wrote_in_between_has_its_own() -> None:
    events = _events((100, 1, 0), (101, 1, 8), (4, 1, 8), (4, 1, 0))
    assert owners_of(events, TYPES).number.tolist() == [-1, -1, 1, 0]


def test_a_stack_of_another_task_belongs_to_none() -> None:
    assert owners_of(_events((100, 1, 0), (4, 2, 0), (4, 1, 8)), TYPES).number.tolist() == [-1, -1, -1]


def test_an_event_and_its_stack_may_lie_on_different_pages() -> None:
    recent: Recent | None = None
    found = []
    for number, row in enumerate([(100, 1, 0), (4, 1, 0), (4, 1, 0), (12, 1, 0)]):
        owners = owners_of(_events(row, first=number), TYPES, recent)
        recent = owners.recent
        found += owners.number.tolist()
    # An event has one stack of each sort.
    assert found == [-1, 0, -1, 0]


def test_nothing_but_stacks_is_done_with_soon() -> None:
    count = 1 << 17
    found = owners_of(_events(*[(4, 1, 0)] * count), TYPES)
    assert (found.number == -1).all()
