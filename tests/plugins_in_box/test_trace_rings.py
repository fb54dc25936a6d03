"""Trace events from the ring buffers of machines that are known, and from buffers that are damaged."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from functools import cache
from random import Random

import pytest

from mmdump.errors import IncompleteError, MmdumpError, UnsupportedError
from mmdump.kernel import Kernel
from mmdump.kernel.pointers import HashedPointers
from mmdump.kernelfile import find_kernel_file
from mmdump.scan import Ranges
from mmdump_snapshots.kernels import Profile, profile
from mmdump_snapshots.model import Boot, Machine
from mmdump_snapshots.model.era import Pinner
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.model.page_pinner import PinnerEvent
from mmdump_snapshots.model.zone import Migratetype
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import Image, build, build_state
from mmdump_snapshots.writer.trace import PTR_KEY
from mmdump_snapshots.writer.tracestate import TraceState
from mmdump_trace.files import FILES
from mmdump_trace.read import TraceEvents, read_events
from tests.snapshots.machines import PROFILES

RFC = [name for name in PROFILES if profile(name).pinner is Pinner.RFC]
[FAILURE] = [each for each in SCENARIOS if each.name == "cma-failure"]


@cache
def _failure(name: str) -> Machine:
    return FAILURE.play(profile(name))


def _kernel(image: Image) -> Kernel:
    return Kernel(image.target())


def _text(kernel: Kernel) -> str:
    file = find_kernel_file(FILES, "/sys/kernel/tracing/trace")
    assert file.why_not(kernel) is None
    return b"".join(file.read(kernel, Ranges(kernel))).decode()


def _expected(event: PinnerEvent, kernel: Profile, image: Image) -> dict[str, object]:
    """An event as mmdump should find it."""
    bits = kernel.types.enumerators("enum pageflags")
    flags = {1 << bits[f"PG_{str(flag.name).lower()}"] for flag in event.flags}
    return {
        "time": event.time,
        "cpu": event.cpu,
        "pid": event.pid,
        "comm": event.comm if event.pid else "<idle>",
        "event": event.name,
        "pfn": event.pfn,
        "flags": sum(flags),
        "count": event.count,
        "mapcount": event.mapcount,
        "mapping": event.mapping and image.addresses.direct(0) + event.mapping,
        "mt": event.mt,
        "stack": list(event.stack),
    }


def _found(events: TraceEvents, kernel: Kernel, types: Profile) -> list[dict[str, object]]:
    """The same of what was read, without the upper bits of flags, and with names of migratetypes."""
    flags = (1 << types.types.enumerators("enum pageflags")["__NR_PAGEFLAGS"]) - 1
    numbers = types.types.enumerators("enum migratetype")
    known = {f"MIGRATE_{each.name}" for each in Migratetype}
    names = {value: name for name, value in numbers.items() if name in known}
    found = []
    for row in events.frame.to_dicts():
        stack = [] if row["stack"] is None else events.stacks[row["stack"]]
        found.append(
            {name: row[name] for name in ("time", "cpu", "pid", "comm", "event")}
            | {name: row[f"field.{name}"] for name in ("pfn", "count", "mapcount", "mapping")}
            | {
                "flags": row["field.flags"] & flags,
                "mt": names[row["field.mt"]],
                "stack": [kernel.symbols.text(frame).split("+")[0] for frame in stack],
            }
        )
    return found


def _named(expected: dict[str, object]) -> dict[str, object]:
    frames = [str(frame).partition("+")[0] for frame in expected["stack"]]  # type: ignore[attr-defined]
    return expected | {"mt": f"MIGRATE_{Migratetype(expected['mt']).name}", "stack": frames}  # type: ignore[call-overload]


@pytest.mark.parametrize("name", RFC)
def test_decoded_events_are_those_of_the_model(name: str) -> None:
    machine, kernel = _failure(name), profile(name)
    image = build(machine, kernel, kaslr=3)
    assert machine.page_pinner is not None
    target = _kernel(image)
    events = read_events(target)
    assert not events.incomplete
    assert len(machine.page_pinner.events) > 2
    assert _found(events, target, kernel) == [
        _named(_expected(event, kernel, image)) for event in machine.page_pinner.events
    ]


@pytest.mark.parametrize("name", RFC)
def test_the_trace_reads_as_the_kernel_prints_it(name: str) -> None:
    """Event for event as the model's text, but for what the kernel's release decides."""
    machine, kernel = _failure(name), profile(name)
    image = build(machine, kernel, kaslr=3)
    assert machine.page_pinner is not None
    hashed = HashedPointers(PTR_KEY)
    lines = [line for line in _text(_kernel(image)).splitlines() if not line.startswith("#")]
    expected = []
    for event in machine.page_pinner.events:
        mapping = event.mapping and image.addresses.direct(0) + event.mapping
        expected.append(
            f"pfn={event.pfn:#x} count={event.count} mapcount={event.mapcount} "
            f"mapping={hashed.text(mapping)} mt={event.mt}"
        )
        expected += ["<stack trace>", *(f" => {frame.partition('+')[0]}" for frame in event.stack)]
    found = [re.sub(r"^.*?(pfn=|<stack)", r"\1", re.sub(r" flags=\S+", "", line)) for line in lines]
    assert found == expected
    columns = [line for line in lines if ": page_pinner_" in line]
    width = 7 if kernel.version >= (5, 9) else 5
    dots = "....." if kernel.version >= (5, 14) else "...."
    for line, event in zip(columns, machine.page_pinner.events, strict=True):
        micros = (event.time + 500) // 1000
        assert line.startswith(
            f"{event.comm:>16}-{event.pid:<{width}} [{event.cpu:03}] {dots} "
            f"{micros // 1_000_000:5}.{micros % 1_000_000:06}: {event.name}: pfn="
        )


def test_the_second_version_says_why_and_what_came_of_it() -> None:
    kernel = profile("5.15").with_pinner(Pinner.PIN_OWNER)
    machine = Machine(kernel.era, memory=64 << 20)
    pfn = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
    assert pfn is not None
    assert machine.page_pinner is not None
    with machine.running(machine.task("cma-user", pid=77), "migrate_pages", "alloc_contig_range"):
        machine.page_pinner.not_migrated([pfn])
        machine.put_page(pfn)
    target = _kernel(build(machine, kernel))
    rows = read_events(target).frame.to_dicts()
    assert [row["event"] for row in rows] == ["report_page_pinners", "page_pin_owner_put"]
    assert rows[0]["field.err"] == -11
    first = next(line for line in _text(target).splitlines() if "report_page_pinners: " in line)
    assert first.endswith(" mt=1 reason=contig_range err=-11")


# Buffers that are small, read, or not there.


def _busy(name: str = "6.12", events: int = 300, **boot: object) -> tuple[Machine, Profile]:
    """Pages that two CPUs let go of, now and then after a long time."""
    kernel = profile(name)
    machine = Machine(
        kernel.era, arch=kernel.arch, memory=64 << 20, cpus=2, boot=Boot(**boot) if boot else None
    )
    assert machine.page_pinner is not None
    tasks = [machine.task(f"holder/{number}", pid=200 + number) for number in range(5)]
    random = Random(3)
    pfn = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
    assert pfn is not None
    machine.page_pinner.failure(pfn)
    for number in range(events - 1):
        task = tasks[number % 5]
        with machine.running(task, "pipe_read", "vfs_read", "ksys_read", cpu=random.randrange(2)):
            machine.clock.advance(random.choice([0, 0.001, 0.2, 5.0]))
            machine.get_page(pfn)
            machine.put_page(pfn)
    return machine, kernel


def _image(machine: Machine, kernel: Profile, **trace: object) -> Image:
    image = build(machine, kernel, kaslr=2)
    if not trace:
        return image
    state = image.state
    assert state.trace is not None
    state.__dict__["trace"] = replace(state.trace, **trace)
    return build_state(state, kernel, image.addresses)


def _times(events: TraceEvents) -> dict[int, list[int]]:
    rows = events.frame.select("cpu", "time").iter_rows()
    found: dict[int, list[int]] = {0: [], 1: []}
    for cpu, time in rows:
        found[cpu].append(time)
    return found


def _model_times(machine: Machine) -> dict[int, list[int]]:
    assert machine.page_pinner is not None
    return {cpu: [event.time for event in machine.page_pinner.events if event.cpu == cpu] for cpu in range(2)}


@pytest.mark.parametrize("name", ["4.19", "5.10", "6.6", "6.12", "7.1", "6.12-arm64-16k"])
def test_a_small_buffer_holds_the_newest(name: str) -> None:
    machine, kernel = _busy(name, trace_buf_size=3 * profile(name).page_size)
    if kernel.page_shift > 12:
        machine, kernel = _busy(name, 900, trace_buf_size=2 * kernel.page_size)
    target = _kernel(_image(machine, kernel))
    events = read_events(target)
    found, every = _times(events), _model_times(machine)
    for cpu in range(2):
        assert 0 < len(found[cpu]) < len(every[cpu])
        assert found[cpu] == every[cpu][-len(found[cpu]) :]
    assert not events.incomplete
    assert events.overrun > 0
    assert any("overwritten" in note for note in events.notes)
    text = _text(target)
    shown, written = map(int, re.search(r"entries-written: (\d+)/(\d+)", text).groups())  # type: ignore[union-attr]
    assert written == 2 * sum(map(len, every.values()))
    assert text.count(": page_pinner_") + text.count("<stack trace>") == shown


def test_without_overwriting_the_first_are_kept_and_the_rest_is_counted() -> None:
    machine, kernel = _busy(trace_buf_size=8192, trace_overwrite=False)
    events = read_events(_kernel(_image(machine, kernel)))
    found, every = _times(events), _model_times(machine)
    assert all(found[cpu] == every[cpu][: len(found[cpu])] for cpu in range(2))
    assert len(found[0]) < len(every[0])
    assert any("were not recorded, as the buffer was full" in note for note in events.notes)


def test_what_trace_pipe_has_read_is_gone() -> None:
    machine, kernel = _busy()
    # An event and its stack are two entries.
    events = read_events(_kernel(_image(machine, kernel, consumed={0: 62, 1: 30})))
    found, every = _times(events), _model_times(machine)
    assert found == {0: every[0][31:], 1: every[1][15:]}
    assert not events.incomplete


@pytest.mark.parametrize(("name", "order"), [("6.12", 2), ("7.1", 1)])
def test_sub_buffers_may_be_larger_than_a_page(name: str, order: int) -> None:
    machine, kernel = _busy(name)
    events = read_events(_kernel(_image(machine, kernel, subbuf_order=order)))
    assert _times(events) == _model_times(machine)
    assert not events.incomplete


@pytest.mark.parametrize("name", ["5.4", "6.12", "7.1"])
def test_each_instance_has_a_buffer_of_its_own(name: str) -> None:
    machine, kernel = _busy(name, 40)
    plain = build(machine, kernel, kaslr=2).state.trace
    assert plain is not None
    some = {
        "first": TraceState([event for event in plain.events if event.cpu == 1]),
        "second": TraceState(plain.events[-7:]),
    }
    target = _kernel(_image(machine, kernel, instances=some))
    every = _model_times(machine)
    assert _times(read_events(target)) == every
    assert _times(read_events(target, instance="first")) == {0: [], 1: every[1]}
    assert len(read_events(target, instance="second").frame) == 7
    with pytest.raises(UnsupportedError, match="no trace instance third"):
        read_events(target, instance="third")


@pytest.mark.parametrize("name", PROFILES)
def test_a_tracer_that_was_never_used_has_no_events(name: str) -> None:
    kernel = profile(name)
    machine = Machine(kernel.era, arch=kernel.arch, memory=64 << 20, boot=Boot(page_pinner=False))
    target = _kernel(build(machine, kernel))
    events = read_events(target)
    assert len(events.frame) == 0
    assert not events.incomplete
    assert "entries-in-buffer/entries-written: 0/0   #P:2" in _text(target)


# Damage.


class _Damaged:
    """An image, and where its ring buffers are."""

    def __init__(self, name: str = "6.12", **trace: object) -> None:
        self.machine, self.kernel = _busy(name)
        self.image = _image(self.machine, self.kernel, **trace)
        types = self.kernel.types
        array = self.image.vmlinux.variable("global_trace")[0]
        inner = "array_buffer" if types.has("struct trace_array", "array_buffer") else "trace_buffer"
        place = types.member("struct trace_array", f"{inner}.buffer").offset
        self.buffer = self.word(self.image.addresses.kernel_phys(array) + place)
        name = "struct trace_buffer" if inner == "array_buffer" else "struct ring_buffer"
        self.table = self.word(self.phys(self.buffer) + types.member(name, "buffers").offset)

    def phys(self, address: int) -> int:
        return self.image.addresses.phys(address)

    def word(self, phys: int) -> int:
        return int.from_bytes(self.image.memory.read(phys, 8), "little")

    def put(self, phys: int, word: int) -> None:
        self.image.memory.write(phys, struct.pack("<Q", word))

    def cpu(self, number: int) -> int:
        """Physical address of a CPU's buffer."""
        return self.phys(self.word(self.phys(self.table) + 8 * number))

    def member(self, cpu: int, name: str) -> int:
        """Physical address of a member of it."""
        return self.cpu(cpu) + self.kernel.types.member("struct ring_buffer_per_cpu", name).offset

    def pages(self, cpu: int) -> list[int]:
        """Physical addresses of the ``struct buffer_page`` of a CPU's ring, from the head on."""
        first = self.word(self.member(cpu, "head_page"))
        found, at = [], first
        while True:
            found.append(self.phys(at))
            at = self.word(self.phys(at)) & ~3
            if at == first:
                return found

    def data(self, page: int) -> int:
        """Physical address of a page's data."""
        return self.phys(self.word(page + self.kernel.types.member("struct buffer_page", "page").offset))

    def read(self) -> TraceEvents:
        return read_events(_kernel(self.image))


def test_a_cpu_without_a_buffer_has_no_events() -> None:
    damaged = _Damaged()
    damaged.put(damaged.phys(damaged.table) + 8, 0)
    events = damaged.read()
    assert _times(events) == {0: _model_times(damaged.machine)[0], 1: []}
    assert not events.incomplete


def test_a_page_that_says_too_much_is_left_out_and_said() -> None:
    damaged = _Damaged()
    page = damaged.pages(0)[1]
    damaged.put(damaged.data(page) + 8, 0x5000)
    events = damaged.read()
    found, every = _times(events), _model_times(damaged.machine)
    assert found[1] == every[1]
    assert 0 < len(found[0]) < len(every[0])
    assert set(found[0]) < set(every[0])
    assert any("hold more than fits" in sentence for sentence in events.incomplete)
    with pytest.raises(IncompleteError, match="hold more than fits"):
        _text(_kernel(damaged.image))


def test_a_list_that_is_torn_is_followed_from_both_ends() -> None:
    damaged = _Damaged()
    pages = damaged.pages(0)
    damaged.put(pages[2], 0xFFFF_8881_2345_0000)
    events = damaged.read()
    found, every = _times(events), _model_times(damaged.machine)
    assert found[0] == every[0]
    assert any("torn" in sentence for sentence in events.incomplete)


def test_an_event_that_was_being_written_is_not_shown() -> None:
    damaged = _Damaged()
    commit = damaged.phys(damaged.word(damaged.member(1, "commit_page")))
    write = commit + damaged.kernel.types.member("struct buffer_page", "write").offset
    damaged.put(write, damaged.word(write) + 48)
    events = damaged.read()
    assert _times(events) == _model_times(damaged.machine)
    assert any("writing an event" in note for note in events.notes)


def test_events_that_the_tracer_lost_are_mentioned() -> None:
    damaged = _Damaged()
    data = damaged.data(damaged.pages(0)[1])
    damaged.put(data + 8, damaged.word(data + 8) | 1 << 31)
    events = damaged.read()
    assert _times(events) == _model_times(damaged.machine)
    assert any("noted lost events before 1 of" in note for note in events.notes)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_the_buffers_hold_there_is_an_answer(seed: int) -> None:
    damaged, random = _Damaged(("4.19", "6.12", "7.1")[seed % 3]), Random(seed)
    pages = damaged.pages(seed % 2)
    places = [
        (damaged.cpu(seed % 2), 256),
        (pages[1], 64),
        (damaged.data(pages[1]), 4096),
        (damaged.data(pages[0]), 64),
        (damaged.phys(damaged.buffer), 128),
    ]
    start, size = places[seed % len(places)]
    raw = bytearray(damaged.image.memory.read(start, size))
    for _ in range(random.randrange(1, 12)):
        at = random.randrange(0, size, 8)
        raw[at : at + 8] = random.choice([random.randbytes(8), bytes(8), b"\xff" * 8, raw[:8]])
    damaged.image.memory.write(start, bytes(raw))
    try:
        damaged.read()
        _text(_kernel(damaged.image))
    except MmdumpError:
        # Nothing else may be raised.
        pass
