"""The events of all CPUs in the order in which the kernel shows them, some pages at a time.

``__find_next_entry()`` takes the earliest of the CPUs' next events, that of the lowest CPU of equal ones.
Nothing of a page is kept but the events that are wanted, so that memory does not grow with the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from mmdump_trace.pages import decode_pages, read_pages

if TYPE_CHECKING:
    from mmdump.kernel.arrays import I32, I64, U8, U64, Bools
    from mmdump.target import Reader
    from mmdump_trace.layout import TraceLayout
    from mmdump_trace.pages import RawEvents, RawPages
    from mmdump_trace.rings import CpuRing, Ring

__all__ = ["Account", "Events", "Source", "concatenated"]

#: Bytes of sub-buffers that are decoded together.
_TOGETHER = 16 << 20
#: Sub-buffers that are decoded together at least; the largest are of 4 MiB.
_AT_LEAST = 16
#: CPUs whose pages are decoded together: few pages of each would take as many steps as many do.
_CPUS_TOGETHER = 64


@dataclass(frozen=True)
class Events:
    """Some events: columns of equal length, and the bytes of each.

    :param cpu: The CPU that wrote it.
    :param number: Its number among that CPU's events in the buffer, from 0.
    :param stamp: When, on the trace's clock.
    :param type: What it is: ``entry->type``.
    :param flags: ``TRACE_FLAG_*`` of what it interrupted.
    :param preempt: The preemption count, and in the upper half the count of disabled migration.
    :param start: Where its bytes begin in ``data``.
    :param size: How many they are, the common fields included.
    :param data: The bytes of these events, and maybe of others.
    """

    cpu: I32
    number: I64
    stamp: U64
    type: I32
    flags: U8
    preempt: U8
    pid: I32
    start: I64
    size: I64
    data: U8

    def __len__(self) -> int:
        return len(self.cpu)

    def rows(self, which: Bools | I64) -> Events:
        """Some of the rows, in the order given; they share the bytes."""
        chosen = {each.name: getattr(self, each.name)[which] for each in fields(self) if each.name != "data"}
        return replace(self, **chosen)

    def compact(self) -> Events:
        """The same with no bytes but their own."""
        length = self.size >> 2
        begins = np.cumsum(length) - length
        places = np.repeat((self.start >> 2) - begins, length) + np.arange(int(length.sum()))
        return replace(self, start=begins * 4, data=self.data.view(np.uint32)[places].view(np.uint8))

    @staticmethod
    def none() -> Events:
        """No events."""
        i32, i64, u8 = np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.uint8)
        return Events(i32, i64, i64.astype(np.uint64), i32, u8, u8, i32, i64, i64, u8)

    def bytes_of(self, row: int) -> bytes:
        """The bytes of an event."""
        return self.data[self.start[row] : self.start[row] + self.size[row]].tobytes()


def concatenated(parts: Sequence[Events]) -> Events:
    """Events of several parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    shift = np.cumsum([0, *(len(each.data) for each in parts[:-1])])
    moved = [replace(each, start=each.start + by) for each, by in zip(parts, shift, strict=True)]
    return Events(
        **{each.name: np.concatenate([getattr(part, each.name) for part in moved]) for each in fields(Events)}
    )


@dataclass
class Account:
    """What became of the pages of a ring buffer, as they are decoded.

    :ivar found: Events found, by CPU.
    :ivar skipped: Of those, events from before the trace's start.
    :ivar bytes_skipped: Events on a page that a reader had begun to read.
    """

    found: dict[int, int] = field(default_factory=dict)
    skipped: dict[int, int] = field(default_factory=dict)
    pages: int = 0
    lost: int = 0
    garbage: int = 0
    torn: int = 0
    short: int = 0
    missed: int = 0

    def problems(self, ring: Ring) -> list[str]:
        """One sentence for each thing that was wrong, once all pages are decoded."""
        said = [*ring.problems, *(each for cpu in ring.cpus for each in cpu.problems)]
        for count, words in (
            (self.lost, "are not in the dump: their events are missing"),
            (self.garbage, "are garbage: they say that they hold more than fits"),
            (self.torn, "are torn: events after the tear are missing"),
        ):
            if count:
                said.append(f"{count} of {self.pages} pages of the ring buffer {words}")
        if self.short:
            said.append(f"{self.short} events are too short to be any")
        whole = not (self.lost or self.garbage or self.torn or self.short or said)
        for cpu in ring.cpus:
            found = self.found.get(cpu.cpu, 0)
            if whole and found != cpu.entries:
                said.append(f"CPU {cpu.cpu}: {cpu.entries} events are counted, {found} were found")
        return said

    def notes(self, ring: Ring) -> list[str]:
        """What is to be known of a buffer that is as it should be."""
        said = []
        for count, words in (
            (sum(each.overrun for each in ring.cpus), "were overwritten by later ones"),
            (sum(each.dropped for each in ring.cpus), "were not recorded, as the buffer was full"),
            (sum(each.commit_overrun for each in ring.cpus), "were not recorded, as interrupts piled up"),
        ):
            if count:
                said.append(f"{count} events {words}.")
        if self.missed:
            said.append(f"The tracer noted lost events before {self.missed} of {self.pages} pages.")
        writing = sum(each.writing for each in ring.cpus)
        if writing:
            said.append(f"{writing} CPUs were writing an event when the dump was taken; it is not shown.")
        return said


@dataclass
class _Cpu:
    """How far one CPU's buffer is decoded.

    :ivar waiting: Events that are decoded and not shown yet.
    :ivar keys: By what they are sorted: their time, or that of an earlier one that is later.
    """

    ring: CpuRing
    at: int = 0
    number: int = 0
    latest: int = 0
    started: bool = False
    waiting: Events = field(default_factory=Events.none)
    keys: U64 = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def exhausted(self) -> bool:
        return self.at >= len(self.ring.pages)


class Source:
    """A ring buffer as a source of events.

    :param time_start: Events of a CPU before the first that is not older do not count.
    """

    def __init__(self, reader: Reader, layout: TraceLayout, ring: Ring, time_start: int = 0) -> None:
        self._reader = reader
        self._layout = layout
        self._time_start = time_start
        self.ring = ring

    def merged(self, account: Account, together: int = _TOGETHER) -> Iterator[Events]:
        """All events in the kernel's order, in parts.

        :param account: Keeps the account of it.
        :param together: Bytes of sub-buffers that are decoded together.
        """
        cpus = [_Cpu(each) for each in self.ring.cpus]
        hungry = [each for each in cpus if not each.exhausted]
        while hungry:
            self._decode(hungry, account, together)
            going = [each for each in cpus if not each.exhausted]
            limit = min((each.latest for each in going), default=None)
            ready = []
            for each in cpus:
                count = len(each.keys)
                if limit is not None:
                    count = int(np.searchsorted(each.keys, np.uint64(limit), side="left"))
                if count:
                    ready.append((each.waiting.rows(np.arange(count)), each.keys[:count]))
                    each.waiting = each.waiting.rows(np.arange(count, len(each.keys)))
                    each.keys = each.keys[count:]
            if ready:
                events = concatenated([part for part, _ in ready])
                keys = np.concatenate([part for _, part in ready])
                # Within a CPU they are in order, and stay so: the sort is stable.
                yield events.rows(np.argsort(keys, kind="stable"))
            hungry = [each for each in going if each.latest == limit]

    def by_pages(self, account: Account, together: int = _TOGETHER) -> Iterator[Events]:
        """All events in parts, each of one CPU and in order: for who looks for some and sorts them later."""
        cpus = [_Cpu(each) for each in self.ring.cpus]
        for first in range(0, len(cpus), _CPUS_TOGETHER):
            group = cpus[first : first + _CPUS_TOGETHER]
            while hungry := [each for each in group if not each.exhausted]:
                self._decode(hungry, account, together)
                for each in hungry:
                    if len(each.waiting):
                        yield each.waiting
                    each.waiting, each.keys = Events.none(), np.empty(0, np.uint64)

    def _decode(self, cpus: Sequence[_Cpu], account: Account, together: int) -> None:
        """Decode the next pages of some CPUs, all at once."""
        size = self.ring.subbuf_size
        # Of large sub-buffers some more: decoding takes as many steps for one as for several.
        each = max(1, max(together, _AT_LEAST * size) // size // len(cpus))
        addresses, skip, owner = [], [], []
        for index, cpu in enumerate(cpus):
            taken = cpu.ring.pages[cpu.at : cpu.at + each]
            addresses.append(taken)
            read = np.zeros(len(taken), np.int64)
            if cpu.at == 0 and len(taken):
                read[0] = cpu.ring.first_read
            skip.append(read)
            owner.append(np.full(len(taken), index))
            cpu.at += len(taken)
        pages = read_pages(self._reader, self._layout, np.concatenate(addresses), size)
        raw = decode_pages(pages, self._layout, np.concatenate(skip))
        account.pages += len(pages.commit)
        account.lost += int(pages.lost.sum())
        account.garbage += int((pages.garbage & ~pages.lost).sum())
        account.missed += int((pages.missed & ~pages.garbage).sum())
        account.torn += len(raw.torn)
        events, keep = _gathered(pages, raw, self._layout)
        account.short += len(keep) - int(keep.sum())
        owners = np.concatenate(owner)[raw.page][keep]
        bounds = np.searchsorted(owners, np.arange(len(cpus) + 1))
        for index, cpu in enumerate(cpus):
            self._take(cpu, events.rows(np.arange(bounds[index], bounds[index + 1])), account)

    def _take(self, cpu: _Cpu, events: Events, account: Account) -> None:
        number = cpu.ring.cpu
        events = replace(
            events,
            cpu=np.full(len(events), number, np.int32),
            number=np.arange(cpu.number, cpu.number + len(events)),
        )
        cpu.number += len(events)
        account.found[number] = account.found.get(number, 0) + len(events)
        if self._time_start and not cpu.started and len(events):
            late = np.flatnonzero(events.stamp >= np.uint64(self._time_start))
            first = int(late[0]) if len(late) else len(events)
            cpu.started = bool(len(late))
            account.skipped[number] = account.skipped.get(number, 0) + first
            events = events.rows(np.arange(first, len(events)))
        if not len(events):
            return
        keys = np.maximum.accumulate(np.maximum(events.stamp, np.uint64(cpu.latest)))
        cpu.latest = int(keys[-1])
        cpu.waiting = concatenated([cpu.waiting, events]) if len(cpu.waiting) else events
        cpu.keys = np.concatenate([cpu.keys, keys])


def _gathered(pages: RawPages, raw: RawEvents, layout: TraceLayout) -> tuple[Events, Bools]:
    """The bytes of events, close together, and what all have in common; which are long enough for that."""
    entry = layout.entry
    keep = raw.size >= entry.itemsize
    page, start, size = raw.page[keep], raw.start[keep], raw.size[keep]
    words, width = pages.words.reshape(-1), pages.words.shape[1]
    length = size >> 2
    ends = np.cumsum(length)
    begins = ends - length
    total = int(ends[-1]) if len(ends) else 0
    places = np.repeat(page * width + start - begins, length) + np.arange(total)
    data = words[places]
    common = data[begins[:, None] + np.arange(entry.itemsize // 4)] if len(begins) else data[:0]
    head = np.ascontiguousarray(common).view(entry).reshape(-1)
    none = np.zeros(len(page), np.int32)
    return (
        Events(
            cpu=none,
            number=none.astype(np.int64),
            stamp=raw.stamp[keep],
            type=head["type"].astype(np.int32),
            flags=head["flags"].astype(np.uint8),
            preempt=head["preempt_count"].astype(np.uint8),
            pid=head["pid"].astype(np.int32),
            start=begins * 4,
            size=size,
            data=data.view(np.uint8),
        ),
        keep,
    )
