"""Trace events for other plugins: as rows, with their fields as columns and their stacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.errors import UnsupportedError
from mmdump.kernel.arrays import printable
from mmdump_trace.clocks import TraceClock
from mmdump_trace.comms import UNKNOWN
from mmdump_trace.reading import Trace, open_trace
from mmdump_trace.stacks import Recent, owners_of
from mmdump_trace.stream import Account, Events, concatenated

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, Bools
    from mmdump_trace.formats import EventFormat, Field

__all__ = ["MOST_EVENTS", "TraceEvents", "read_events"]

#: Events that are kept at most, the newest; more would not be looked at.
MOST_EVENTS = 1 << 20
_NONE = np.empty(0, np.int64)
_NO_TEXTS = pl.Series([], dtype=pl.String)


@dataclass(frozen=True)
class TraceEvents:
    """Events of an instance, in order of time.

    :param frame: One row per event: ``time`` (uint64: nanoseconds of the trace clock, or what else that
        counts), ``cpu``, ``pid``, ``comm`` (null where it is not known any more), ``system``, ``event``,
        ``stack`` and ``user_stack`` (a row of ``stacks``, or null), and one column for each field, named
        ``field.NAME``, null in events that have no such field.
    :param stacks: Call chains: addresses, innermost first.
    :param clock: The clock of column ``time``.
    :param notes: What the reader must know: overwritten and lost events.
    :param incomplete: What could not be read, one sentence each.
    :param overrun: Events that were overwritten by later ones, of all sorts.
    :param texts: What the kernel prints of some rows behind the events' names, as a column.
    """

    frame: pl.DataFrame
    stacks: Sequence[tuple[int, ...]]
    clock: TraceClock
    notes: Sequence[str] = ()
    incomplete: Sequence[str] = ()
    overrun: int = 0
    texts: Callable[[Sequence[int]], pl.Series] = field(default=lambda _: _NO_TEXTS, repr=False)


def read_events(
    kernel: Kernel,
    names: Iterable[str] = ("*",),
    instance: str | None = None,
    *,
    fields: bool = True,
    most: int = MOST_EVENTS,
) -> TraceEvents:
    """Read events from the ring buffers of a dump.

    :param names: Patterns of events, such as ``page_pinner:*`` or ``mm_page_alloc``. Others are left out
        before anything of them is decoded.
    :param instance: A trace instance by name; the top one by default.
    :param fields: Whether the columns of fields are wanted.
    :param most: How many are kept at most: the newest.
    :raises UnsupportedError: This kernel has no tracer, no such instance, or no such event.
    :raises IncompleteError: What leads to the buffers is not in the dump, or is garbage.
    """
    trace = open_trace(kernel, instance)
    patterns = list(names)
    wanted = [each for each in trace.formats.matching(patterns) if not _is_stack(trace, each.type)]
    everything = "*" in patterns
    if not wanted and not everything and trace.formats.problem is None:
        raise UnsupportedError(
            f"this kernel has no event {' or '.join(patterns)}", "Names are as in available_events."
        )
    account = Account()
    kept, stacks = _gather(trace, None if everything else [each.type for each in wanted], account, most)
    left_out = kept.left_out
    notes = account.notes(trace.source.ring)
    if left_out:
        notes.append(f"{left_out} older events are left out: {most} are shown at most.")
    clock = trace.instance.clock
    if not clock.in_ns:
        notes.append(f"Times are of {clock.title}, which does not count nanoseconds.")
    if trace.instance.text_delta:
        notes.append("The buffer was written before a reboot: addresses in it are of a kernel that is gone.")
    frame, chains = _frame(trace, kept.events, stacks, wanted if fields else ())
    return TraceEvents(
        frame,
        chains,
        clock,
        tuple(notes),
        (*trace.problems, *account.problems(trace.source.ring)),
        sum(each.overrun for each in trace.source.ring.cpus),
        lambda rows: _texts(trace, kept.events, rows),
    )


def _is_stack(trace: Trace, number: int) -> bool:
    return number in (trace.formats.types.kernel_stack, trace.formats.types.user_stack)


@dataclass(frozen=True)
class _Kept:
    events: Events
    left_out: int


@dataclass(frozen=True)
class _Stacks:
    """Stacks of wanted events: whose each is, whether it is a user's, and its event."""

    cpu: I64
    owner: I64
    user: Bools
    events: Events


def _gather(trace: Trace, types: Sequence[int] | None, account: Account, most: int) -> tuple[_Kept, _Stacks]:
    """The wanted events in order of time, and their stacks."""
    wanted = None if types is None else np.array(sorted(types), np.int32)
    own = trace.formats.types
    parts: list[Events] = []
    stacks: list[Events] = []
    owners: list[I64] = []
    rows = left_out = 0
    recent: dict[int, Recent] = {}
    for events in trace.source.by_pages(account):
        cpu = int(events.cpu[0])
        found = owners_of(events, own, recent.get(cpu))
        recent[cpu] = found.recent
        stack = (events.type == own.kernel_stack) | (events.type == own.user_stack)
        chosen = ~stack if wanted is None else np.isin(events.type, wanted)
        belongs = stack & (found.number >= 0)
        if wanted is not None:
            belongs &= np.isin(found.type, wanted)
        if chosen.any():
            parts.append(events.rows(chosen).compact())
            rows += len(parts[-1])
        if belongs.any():
            stacks.append(events.rows(belongs).compact())
            owners.append(found.number[belongs])
        if rows > 2 * most:
            parts = [_newest(parts, most)]
            left_out += rows - most
            rows = most
    events = _newest(parts, most)
    left_out += rows - len(events)
    chains = concatenated(stacks) if stacks else Events.none()
    return _Kept(events, left_out), _Stacks(
        chains.cpu.astype(np.int64),
        np.concatenate([_NONE, *owners]),
        chains.type == own.user_stack,
        chains,
    )


def _newest(parts: Sequence[Events], most: int) -> Events:
    """The last events of some, in the kernel's order."""
    if not parts:
        return Events.none()
    events = concatenated(parts)
    # Within a CPU an event may be older than the one before it: the kernel shows them as they were written.
    keys = events.stamp.copy()
    for cpu in np.unique(events.cpu).tolist():
        own = np.flatnonzero(events.cpu == cpu)
        keys[own] = np.maximum.accumulate(keys[own])
    order = np.lexsort((events.number, events.cpu, keys))
    chosen = events.rows(order[-most:] if most else order[:0])
    return chosen.compact() if len(order) > most else chosen


def _frame(
    trace: Trace, events: Events, stacks: _Stacks, wanted: Sequence[EventFormat]
) -> tuple[pl.DataFrame, list[tuple[int, ...]]]:
    formats = trace.formats.by_type
    types = np.unique(events.type)
    chains: dict[tuple[int, ...], int] = {}
    stack_of = _stacks_of(trace, events, stacks, chains)
    names = {
        number: (formats[number].system, formats[number].name) if number in formats else ("?", f"#{number}")
        for number in types.tolist()
    }
    pids = np.unique(events.pid).tolist()
    comms = {pid: trace.comms.comm(pid) for pid in pids}
    known = [None if comms[pid] == UNKNOWN else printable(comms[pid].encode("latin-1")) for pid in pids]
    columns: dict[str, pl.Series] = {
        "time": pl.Series(events.stamp, dtype=pl.UInt64),
        "cpu": pl.Series(events.cpu, dtype=pl.Int64),
        "pid": pl.Series(events.pid, dtype=pl.Int64),
        "comm": pl.Series(known, dtype=pl.String).gather(np.searchsorted(pids, events.pid))
        if pids
        else pl.Series([], dtype=pl.String),
    }
    for at, column in enumerate(("system", "event")):
        words = pl.Series([names[number][at] for number in types.tolist()], dtype=pl.String)
        columns[column] = words.gather(np.searchsorted(types, events.type))
    for column, user in (("stack", False), ("user_stack", True)):
        columns[column] = pl.Series(stack_of[user], dtype=pl.Int64).replace(-1, None)
    frame = pl.DataFrame(columns)
    extra = _field_columns(events, [each for each in wanted if each.type in names], trace.layout.order)
    return frame.with_columns(**extra), list(chains)


def _stacks_of(
    trace: Trace, events: Events, stacks: _Stacks, chains: dict[tuple[int, ...], int]
) -> dict[bool, I64]:
    """The row of each event's stack among ``chains``, which grows; -1 for none. By whether it is a user's."""
    keys = events.cpu.astype(np.int64) << 44 | events.number
    order = np.argsort(keys)
    at = np.searchsorted(keys[order], stacks.cpu << 44 | stacks.owner)
    found = {user: np.full(len(events), -1, np.int64) for user in (False, True)}
    if not len(events):
        return found
    at = np.minimum(at, len(events) - 1)
    there = keys[order][at] == (stacks.cpu << 44 | stacks.owner)
    raw_known: dict[bytes, int] = {}
    for row in np.flatnonzero(there).tolist():
        data = stacks.events.bytes_of(row)
        kind = int(stacks.events.type[row])
        # The common fields differ, what comes after them seldom.
        key = bytes([int(stacks.user[row])]) + data[trace.layout.entry.itemsize :]
        number = raw_known.get(key)
        if number is None:
            chain = tuple(trace.printer.frames(data, kind))
            number = raw_known[key] = chains.setdefault(chain, len(chains))
        found[bool(stacks.user[row])][order[at[row]]] = number
    return found


def _field_columns(events: Events, formats: Sequence[EventFormat], order: str) -> Mapping[str, pl.Series]:
    """One column for each field of some events."""
    columns: dict[str, pl.Series] = {}
    for event in formats:
        rows = np.flatnonzero(events.type == event.type)
        for each in event.fields:
            values = _values(events, rows, each, order)
            if values is None:
                continue
            name = f"field.{each.name}"
            column = columns.get(name)
            if column is None:
                column = pl.Series(name, [None], dtype=values.dtype).new_from_index(0, len(events))
            elif column.dtype != values.dtype:
                wide = pl.String if pl.String in (column.dtype, values.dtype) else pl.Int128
                column, values = column.cast(wide), values.cast(wide)
            columns[name] = column.scatter(rows, values)
    return columns


def _values(events: Events, rows: I64, each: Field, order: str) -> pl.Series | None:
    """The values of a field: numbers as 64 bits, strings as text; None for arrays of something else."""
    fits = events.size[rows] >= each.offset + each.size
    if "char" in each.type and ("[" in each.type or each.dynamic):
        return pl.Series([_text(events, row, each, order) for row in rows.tolist()], dtype=pl.String)
    if each.size not in (1, 2, 4, 8) or "[" in each.type or each.dynamic:
        return None
    places = events.start[rows][fits][:, None] + each.offset + np.arange(each.size)
    dtype = np.dtype(f"{order}{'i' if each.signed else 'u'}{each.size}")
    raw = np.ascontiguousarray(events.data[places]).view(dtype).reshape(-1)
    wide = pl.UInt64 if each.size == 8 and not each.signed else pl.Int64
    if fits.all():
        return pl.Series(raw.astype(dtype.newbyteorder("="))).cast(wide)
    values = pl.Series([None], dtype=wide).new_from_index(0, len(rows))
    return values.scatter(np.flatnonzero(fits), pl.Series(raw.astype(dtype.newbyteorder("="))).cast(wide))


def _text(events: Events, row: int, each: Field, order: str) -> str | None:
    data = events.bytes_of(row)
    raw = data[each.offset : each.offset + each.size]
    if each.dynamic:
        if len(raw) < 4:
            return None
        where = int(np.frombuffer(raw, f"{order}u4")[0])
        offset = (where & 0xFFFF) + (each.offset + 4 if each.type.startswith("__rel_loc") else 0)
        raw = data[offset : offset + (where >> 16)]
    return printable(raw.split(b"\0", 1)[0])


def _texts(trace: Trace, events: Events, rows: Sequence[int]) -> pl.Series:
    """What the kernel prints of some events behind their names, printable."""
    printer = trace.printer
    texts = [
        printable(
            printer.words_of(int(events.type[row]), events.bytes_of(row)).encode(
                "latin-1", "backslashreplace"
            )
        )
        for row in rows
    ]
    return pl.Series(texts, dtype=pl.String)
