"""The tracer: its events, its instances and their ring buffers (kernel/trace/)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdump_snapshots.kernels.rodata import page_pinner_print_fmt
from mmdump_snapshots.model.era import Pinner
from mmdump_snapshots.writer.ring_buffer import HEADER, CpuBuffer, SubBuffer
from mmdump_snapshots.writer.state import State
from mmdump_snapshots.writer.tracestate import TraceState
from mmdump_snapshots.writer.zones import zone_numbers

if TYPE_CHECKING:
    from mmdump_snapshots.kernels import Profile
    from mmdump_snapshots.writer.arena import Arena, Struct
    from mmdump_snapshots.writer.pages import PageFields
    from mmdump_snapshots.writer.tracestate import TraceEvent

__all__ = ["PINNER_FIELDS", "PTR_KEY", "cpu_buffers", "event_types", "write_trace"]

#: ``ptr_key``: what the kernel draws at boot, here always the same.
PTR_KEY = (0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179)
#: The fields of both events of the page pinner: name, type, offset, size, whether signed.
PINNER_FIELDS = (
    ("pfn", "unsigned long", 8, 8, False),
    ("flags", "unsigned long", 16, 8, False),
    ("count", "int", 24, 4, True),
    ("mapcount", "int", 28, 4, True),
    ("mapping", "void *", 32, 8, False),
    ("mt", "int", 40, 4, True),
)
_PINNER = struct.Struct("<HBBiQQiiQi4x")
_REASON = struct.Struct("<Qi4x")
#: ``struct stack_entry`` before its frames: the common fields and ``size``.
_STACK = struct.Struct("<HBBii4x")
#: In a time without tracing a CPU's buffer has the least that there may be.
_LEAST_PAGES = 2
#: Frames that the fields of kernel_stack admit to, FTRACE_STACK_ENTRIES.
_STACK_ENTRIES = 8
#: TRACE_BUF_SIZE_DEFAULT: no buffer is larger that nobody asked for.
_BUF_SIZE_DEFAULT = 1_441_792
#: saved_cmdlines_size, and what stands for none in its map (NO_CMDLINE_MAP).
_CMDLINES, _NO_CMDLINE = 128, 0xFFFFFFFF
#: PID_MAX_DEFAULT.
_PIDS = 0x8000
#: Options that are on: TRACE_DEFAULT_FLAGS, and stacktrace.
_OPTIONS = (
    *("PRINT_PARENT", "PRINTK", "ANNOTATE", "CONTEXT_INFO", "RECORD_CMD", "OVERWRITE", "IRQ_INFO", "MARKERS"),
    *("TRACE_PRINTK", "HASH_PTR", "STACKTRACE"),
)
#: The event of the RFC's second version that says more, and what.
_REPORT = "report_page_pinners"
_REPORT_FIELDS = (*PINNER_FIELDS, ("reason", "const char *", 48, 8, False), ("err", "int", 56, 4, True))
#: The events of the RFC's two versions: their system, and by name what prints them. Android's has none.
_PINNERS = {
    Pinner.RFC: (
        "page_pinner",
        dict.fromkeys(("page_pinner_put", "page_pinner_failure"), "page_pinner_template"),
    ),
    Pinner.PIN_OWNER: (
        "page_pin_owner",
        {name: name for name in ("page_pin_owner_put", _REPORT)},
    ),
}
_NO_PINNER: tuple[str, dict[str, str]] = ("", {})
#: How many numbers other events have before the page pinner's.
_OTHERS = 372


def event_types(profile: Profile) -> dict[str, int]:
    """The numbers of the events that there are."""
    numbers = profile.types.enumerators("enum trace_type")
    first = numbers["__TRACE_LAST_TYPE"] + _OTHERS
    _, events = _PINNERS.get(profile.pinner, _NO_PINNER)
    own = {name: first + index for index, name in enumerate(events)}
    return {"kernel_stack": numbers["TRACE_STACK"], **own}


def write_trace(arena: Arena, state: State, fields: PageFields) -> None:
    """Write the top instance with what it has recorded, and what its events are.

    :param fields: Where page->flags has zone and node.
    """
    if not arena.has("ftrace_trace_arrays"):
        return
    trace = state.trace if state.trace is not None else TraceState((), 0)
    _events(arena)
    arrays = [(arena.variable("global_trace"), trace)]
    for name, each in trace.instances.items():
        array = arena.struct("struct trace_array")
        array.set("name", arena.string(name))
        arrays.append((array, each))
    # list_add(): the newest comes first.
    links = [array.at("list") for array, _ in reversed(arrays)]
    head = arena.address("ftrace_trace_arrays")
    arena.words("ftrace_trace_arrays", [links[0], links[-1]])
    for index, (array, each) in enumerate(reversed(arrays)):
        array.set("list.next", links[index + 1] if index + 1 < len(links) else head)
        array.set("list.prev", links[index - 1] if index else head)
        reasons = {event.reason: arena.string(event.reason) for event in each.events if event.reason}
        _instance(arena, state, array, each, cpu_buffers(arena.profile, state, each, fields, reasons))
        if each is trace:
            arena.store(array)
        else:
            arena.finish(array)
    _comms(arena, [event for _, each in arrays for event in each.events])
    if not arena.maybe("filled_random_ptr_key", 1) and arena.has("not_filled_random_ptr_key"):
        # A static key that is on until there is a key.
        arena.store(arena.variable("not_filled_random_ptr_key"))
    arena.words("ptr_key", PTR_KEY)


# What was recorded.


def cpu_buffers(
    profile: Profile, state: State, trace: TraceState, fields: PageFields, reasons: Mapping[str, int]
) -> list[CpuBuffer]:
    """Each CPU's buffer, filled.

    :param fields: Where page->flags has zone and node.
    :param reasons: Addresses of the strings that events point to.
    """
    size = profile.page_size << trace.subbuf_order
    records = _records(profile, state, trace, fields, reasons)
    pages = trace.buffer_size // size
    if not trace.buffer_size:
        pages = min(_fitting(records, size), _BUF_SIZE_DEFAULT // size)
    buffers = [
        CpuBuffer(max(pages, _LEAST_PAGES), size, overwrite=trace.overwrite) for _ in range(state.cpus)
    ]
    for cpu, time, data in records:
        buffers[cpu].write(time, data)
    for cpu, count in trace.consumed.items():
        buffers[cpu].consume(count)
    return buffers


def _fitting(records: Sequence[tuple[int, int, bytes]], size: int) -> int:
    """So many pages that nothing of what any CPU records is overwritten."""
    need: dict[int, int] = {}
    # Beside the data of each: its header, a time extend, and alignment.
    most = max((len(data) for _, _, data in records), default=0) + 20
    for cpu, _, data in records:
        need[cpu] = need.get(cpu, 0) + len(data) + 20
    return max(need.values(), default=0) // (size - HEADER - most) + 2


def _records(
    profile: Profile, state: State, trace: TraceState, fields: PageFields, reasons: Mapping[str, int]
) -> list[tuple[int, int, bytes]]:
    """The events with their stacks as the kernel lays them out: CPU, time, and bytes."""
    types = event_types(profile)
    words = _FlagWords(profile, state, fields)
    migratetypes = profile.types.enumerators("enum migratetype")
    found = []
    for event in trace.events:
        common = (types[event.name], 0, 0, event.pid)
        raw = _PINNER.pack(
            *common,
            event.pfn,
            words.of(event.pfn, event.flags),
            event.count,
            event.mapcount,
            event.mapping,
            migratetypes[f"MIGRATE_{event.mt}"],
        )
        if event.reason is not None:
            raw += _REASON.pack(reasons[event.reason], event.err)
        found.append((event.cpu, event.time, raw))
        frames = list(event.stack)
        # Up to 5.1 a stack that was not full ended with a frame of all ones.
        if profile.version < (5, 2):
            frames.append(0xFFFFFFFFFFFFFFFF)
        stack = _STACK.pack(types["kernel_stack"], *common[1:], len(frames))
        found.append((event.cpu, event.stack_time, stack + np.array(frames, "<u8").tobytes()))
    return found


class _FlagWords:
    """``page->flags`` as an event has it: flags by name, zone and node."""

    def __init__(self, profile: Profile, state: State, fields: PageFields) -> None:
        self._bits = profile.types.enumerators("enum pageflags")
        self._numbers = zone_numbers(profile)
        self._fields = fields
        self._nodes = state.nodes

    def of(self, pfn: int, flags: Sequence[str]) -> int:
        """The word of a page."""
        word = sum({1 << self._bits[f"PG_{name}"] for name in flags if f"PG_{name}" in self._bits})
        for node in self._nodes:
            for zone in node.zones:
                if zone.start_pfn <= pfn < zone.start_pfn + zone.spanned:
                    number = np.array([self._numbers[zone.name]], np.uint64)
                    return word | int(self._fields.words(number, np.array([node.number], np.uint64))[0])
        return word


# Where it is.


def _instance(
    arena: Arena, state: State, array: Struct, trace: TraceState, buffers: Sequence[CpuBuffer]
) -> None:
    """A ``struct trace_array``, which is not written yet, and its ring buffer, which is."""
    profile = arena.profile
    nop = arena.variable("nop_trace")
    nop.set("name", arena.string("nop"))
    arena.store(nop)
    # 5.6 renamed both.
    inner = "array_buffer" if profile.types.has("struct trace_array", "array_buffer") else "trace_buffer"
    array.set(f"{inner}.tr", array.address)
    array.set(f"{inner}.buffer", _ring_buffer(arena, state, trace, buffers))
    array.set("current_trace", nop.address)
    bits = profile.types.enumerators("enum trace_iterator_bits")
    options = {1 << bits[f"TRACE_ITER_{name}_BIT"] for name in _OPTIONS if f"TRACE_ITER_{name}_BIT" in bits}
    if not trace.overwrite:
        options.discard(1 << bits["TRACE_ITER_OVERWRITE_BIT"])
    array.set("trace_flags", sum(options))
    if not array.maybe("ring_buffer_expanded", int(bool(trace.events))):
        arena.maybe("ring_buffer_expanded", int(bool(trace.events)))


def _ring_buffer(arena: Arena, state: State, trace: TraceState, buffers: Sequence[CpuBuffer]) -> int:
    """``struct trace_buffer``, up to 5.5 ``struct ring_buffer``. :return: Its address."""
    name = "struct trace_buffer"
    if not arena.profile.types.has(name, "buffers"):
        name = "struct ring_buffer"
    buffer = arena.struct(name)
    buffer.set("flags", int(trace.overwrite))  # RB_FL_OVERWRITE
    buffer.maybe("cpus", state.cpus)
    buffer.maybe("subbuf_order", trace.subbuf_order)
    pointers = [_cpu_buffer(arena, buffer, trace, cpu, each) for cpu, each in enumerate(buffers)]
    buffer.set("buffers", arena.place(np.array(pointers, "<u8").tobytes()))
    return arena.finish(buffer)


def _cpu_buffer(arena: Arena, buffer: Struct, trace: TraceState, cpu: int, filled: CpuBuffer) -> int:
    """A CPU's buffer: the ring of its pages, and the reader's. :return: Its address."""
    ring = [_buffer_page(arena, trace, each) for each in filled.ring]
    reader = _buffer_page(arena, trace, filled.reader)
    count = len(ring)
    for index, page in enumerate(ring):
        following = (index + 1) % count
        # RB_PAGE_HEAD, in the pointer that leads to the head.
        page.set("list.next", ring[following].address | int(following == filled.head))
        page.set("list.prev", ring[index - 1].address)
    # A page that was taken out of the ring still leads to its neighbours.
    reader.set("list.next", ring[filled.head].address if filled.swapped else reader.address)
    reader.set("list.prev", ring[filled.head - 1].address if filled.swapped else reader.address)
    for page in (*ring, reader):
        arena.finish(page)
    found = arena.struct("struct ring_buffer_per_cpu")
    for member, value in {
        "cpu": cpu,
        "buffer": buffer.address,
        "nr_pages": count,
        "pages": ring[0].address,
        # Where the head was when somebody last looked for it.
        "head_page": ring[0].address,
        "tail_page": ring[filled.tail].address,
        "commit_page": ring[filled.tail].address,
        "reader_page": reader.address,
        "entries.a.counter": filled.entries,
        "overrun.a.counter": filled.overrun,
        "dropped_events.a.counter": filled.dropped,
        "commits.a.counter": filled.entries,
        "read": filled.read,
        "read_bytes": filled.read_bytes,
    }.items():
        found.set(member, value)
    # 5.0, and 6.1 for the second.
    found.maybe("pages_touched.a.counter", filled.touched)
    found.maybe("pages_lost.a.counter", filled.lost)
    found.maybe("pages_read.a.counter", filled.pages_read)
    return arena.finish(found)


def _buffer_page(arena: Arena, trace: TraceState, page: SubBuffer) -> Struct:
    """``struct buffer_page``, not written yet, and its data, which is."""
    size = arena.profile.page_size << trace.subbuf_order
    raw = page.stamp.to_bytes(8, "little") + len(page.data).to_bytes(8, "little") + page.data + page.behind
    found = arena.struct("struct buffer_page")
    found.set("page", arena.place(raw.ljust(size, b"\0"), size))
    found.set("write.a.counter", page.write)
    found.set("read", page.read)
    found.set("entries.a.counter", page.entries)
    found.set("real_end", len(page.data) if page.behind else 0)
    found.maybe("order", trace.subbuf_order)
    return found


# What the events are.


def _events(arena: Arena) -> None:
    """``ftrace_events``."""
    types = event_types(arena.profile)
    constant = arena.profile.types.constant
    # Up to 5.5 the frames were described as an array without a length.
    dynamic = arena.profile.version < (5, 6)
    frames = "unsigned long[]" if dynamic else f"unsigned long[{_STACK_ENTRIES}]"
    stack_fields = (
        ("size", "int", 8, 4, True),
        ("caller", frames, 16, 0 if dynamic else 8 * _STACK_ENTRIES, False),
    )
    calls = []
    system, events = _PINNERS.get(arena.profile.pinner, _NO_PINNER)
    for name, template in events.items():
        point = arena.struct("struct tracepoint")
        point.set("name", arena.string(name))
        call = arena.struct("struct trace_event_call")
        call.set("class", _class(arena, system, _REPORT_FIELDS if name == _REPORT else PINNER_FIELDS))
        call.set("tp", arena.finish(point))
        call.set("flags", constant("TRACE_EVENT_FL_TRACEPOINT"))
        call.set("event.funcs", _functions(arena, f"trace_raw_output_{template}"))
        print_fmt = page_pinner_print_fmt(arena.profile, reason=name == _REPORT)
        call.set("print_fmt", arena.string(print_fmt))
        calls.append((name, call))
    call = arena.struct("struct trace_event_call")
    call.set("class", _class(arena, "ftrace", stack_fields))
    call.set("name", arena.string("kernel_stack"))
    call.set("flags", constant("TRACE_EVENT_FL_IGNORE_ENABLE"))
    call.set("print_fmt", arena.string('"\\t=> %ps\\n", (void *)REC->caller[0]'))
    calls.append(("kernel_stack", call))
    links = [call.at("list") for _, call in calls]
    head = arena.address("ftrace_events")
    for index, (name, call) in enumerate(calls):
        call.set("event.type", types[name])
        call.set("list.next", links[index + 1] if index + 1 < len(links) else head)
        call.set("list.prev", links[index - 1] if index else head)
        arena.finish(call)
    arena.words("ftrace_events", [links[0], links[-1]])


def _functions(arena: Arena, printer: str) -> int:
    """``struct trace_event_functions`` of an event. :return: Its address."""
    found = arena.struct("struct trace_event_functions")
    for member, name in {
        "trace": printer,
        **dict.fromkeys(("raw", "hex", "binary"), "trace_nop_print"),
    }.items():
        found.set(member, arena.addresses.kernel(arena.vmlinux.symbols[name].address))
    return arena.finish(found)


def _class(arena: Arena, system: str, fields: Sequence[tuple[str, str, int, int, bool]]) -> int:
    """A ``struct trace_event_class`` with its fields, the last of them first. :return: Its address."""
    found = arena.struct("struct trace_event_class")
    found.set("system", arena.string(system))
    structs = []
    for name, kind, offset, size, signed in reversed(fields):
        each = arena.struct("struct ftrace_event_field")
        each.set("name", arena.string(name))
        each.set("type", arena.string(kind))
        each.set("offset", offset)
        each.set("size", size)
        each.set("is_signed", int(signed))
        if kind == "const char *":
            each.set("filter_type", arena.profile.types.constant("FILTER_PTR_STRING"))
        structs.append(each)
    links = [each.at("link") for each in structs]
    head = found.at("fields")
    for index, each in enumerate(structs):
        each.set("link.next", links[index + 1] if index + 1 < len(links) else head)
        each.set("link.prev", links[index - 1] if index else head)
        arena.finish(each)
    found.set("fields.next", links[0])
    found.set("fields.prev", links[-1])
    return arena.finish(found)


def _comms(arena: Arena, events: Sequence[TraceEvent]) -> None:
    """``savedcmd``: what the last tasks that were traced are called, by PID."""
    names = {event.pid: event.comm for event in events if event.pid}
    last = dict(list(names.items())[-_CMDLINES:])
    slots = np.full(_PIDS + 1, _NO_CMDLINE, "<u4")
    pids = np.zeros(_CMDLINES, "<u4")
    text = bytearray(16 * _CMDLINES)
    for index, (pid, comm) in enumerate(last.items()):
        slots[pid & (_PIDS - 1)], pids[index] = index, pid
        text[16 * index : 16 * index + 15] = comm.encode("utf-8", "surrogateescape")[:15].ljust(15, b"\0")
    types, name = arena.profile.types, "struct saved_cmdlines_buffer"
    behind = types.member(name, "saved_cmdlines").type.bare.kind == "array"
    size, at = types.sizeof(name), types.member(name, "saved_cmdlines").offset
    raw = bytearray(at + len(text) if behind else size)
    raw[: 4 * len(slots)] = slots.tobytes()
    if behind:
        raw[at:] = text
    else:
        raw[at : at + 8] = arena.place(text).to_bytes(8, "little")
    members = {"map_cmdline_to_pid": arena.place(pids.tobytes()), "cmdline_num": _CMDLINES}
    for member, value in {**members, "cmdline_idx": max(len(last) - 1, 0)}.items():
        place = types.member(name, member)
        raw[place.offset : place.offset + place.type.size] = value.to_bytes(place.type.size, "little")
    arena.set("savedcmd", arena.place(raw))
