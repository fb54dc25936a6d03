"""What the events are: names, fields and print formats, from the kernel's own list (``ftrace_events``).

4.19 to 7.x have the same ``struct trace_event_call``: the name stands in its tracepoint where a flag says so
(``TRACE_EVENT_FL_TRACEPOINT``), and the fields in a list that its class has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from drgn import offsetof

from mmdump.errors import UnsupportedError
from mmdump.kernel.layout import byteorder, find_object, find_type, struct_dtype
from mmdump_trace.layout import read_record
from mmdump_trace.memory import bytes_at, text_at

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["EventFormat", "EventFormats", "EventTypes", "Field", "read_event_formats"]

#: A kernel has some thousand events, twice that with all its modules.
_MOST_EVENTS = 1 << 16
#: Fields of an event; syscalls have six, and drivers' events some dozens.
_MOST_FIELDS = 256
#: MAX_FILTER_STR_VAL is 256; the longest formats are tables of flags of some ten thousand bytes.
_MOST_FORMAT = 1 << 17


@dataclass(frozen=True)
class Field:
    """A field of an event. Plain data.

    :param type: As it was declared, such as ``unsigned long`` or ``__data_loc char[]``.
    :param offset: Bytes from the event's beginning.
    :param filter_type: What filters take it for (``FILTER_*``), by which ``print_fields()`` prints it.
    """

    name: str
    type: str
    offset: int
    size: int
    signed: bool
    filter_type: int

    @property
    def dynamic(self) -> bool:
        """Whether the event has only where the data lies: (offset, length) in 32 bits."""
        return self.type.startswith(("__data_loc", "__rel_loc"))


@dataclass(frozen=True)
class EventFormat:
    """A ``struct trace_event_call``. Plain data, but for what is read when it is asked for.

    :param type: The number by which events in the buffer say what they are.
    :param system: Such as ``kmem``.
    """

    name: str
    system: str
    type: int
    _read_printer: Callable[[], str | None]
    _read_fields: Callable[[], tuple[Field, ...]]
    _read_print_fmt: Callable[[], str | None]

    @cached_property
    def printer(self) -> str | None:
        """The function that prints it, by name; None where that is unknown."""
        return self._read_printer()

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Its own fields, in the order of their declaration; common fields are not among them."""
        return self._read_fields()

    @cached_property
    def print_fmt(self) -> str | None:
        """The C expressions that its text is made of; None where they are not in the dump."""
        return self._read_print_fmt()

    def field(self, name: str) -> Field | None:
        """The field of that name."""
        return next((each for each in self.fields if each.name == name), None)


@dataclass(frozen=True)
class EventTypes:
    """The numbers of the tracer's own events (``enum trace_type``), which changed when some were added."""

    kernel_stack: int
    user_stack: int
    last: int


@dataclass(frozen=True)
class EventFormats:
    """All events of a kernel.

    :param common: The fields that all events have, by their names in ``struct trace_entry``.
    :param problem: What is wrong with the list, in one sentence.
    """

    by_type: dict[int, EventFormat]
    types: EventTypes
    filters: dict[str, int]
    common: dict[str, Field]
    problem: str | None = None

    def matching(self, patterns: Iterable[str]) -> list[EventFormat]:
        """Events whose name, or ``system:name``, matches one of the patterns (``*`` and ``?``)."""
        from fnmatch import fnmatchcase

        wanted = list(patterns)
        return [
            each
            for each in self.by_type.values()
            if any(
                fnmatchcase(f"{each.system}:{each.name}" if ":" in one else each.name, one) for one in wanted
            )
        ]


def read_event_formats(kernel: Kernel) -> EventFormats:
    """Read the list of events: their names; fields and formats follow when they are needed.

    :raises UnsupportedError: This kernel has no events.
    """
    return _Reader(kernel).read()


#: In these orders since 4.19; types that a kernel lacks have no number in it.
_FILTERS = (
    *("FILTER_OTHER", "FILTER_STATIC_STRING", "FILTER_DYN_STRING", "FILTER_RDYN_STRING"),
    *("FILTER_PTR_STRING", "FILTER_TRACE_FN", "FILTER_CPU", "FILTER_CPUMASK", "FILTER_COMM"),
    "FILTER_STACKTRACE",
)


class _Reader:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._reader = kernel.target.reader
        prog = self._prog = kernel.target.prog
        self._order = byteorder(prog)
        call, events = find_type(prog, "struct trace_event_call"), find_type(prog, "struct trace_event_class")
        field, point = find_type(prog, "struct ftrace_event_field"), find_type(prog, "struct tracepoint")
        functions = find_type(prog, "struct trace_event_functions")
        if call is None or events is None or field is None or point is None or functions is None:
            raise UnsupportedError("this kernel was built without trace events (CONFIG_EVENT_TRACING)")
        entry = find_type(prog, "struct trace_entry")
        if entry is None:
            raise UnsupportedError("the debug info of this kernel has no struct trace_entry")
        names = ("type", "flags", "preempt_count", "pid")
        self._entry = struct_dtype(prog, entry, {name: [name] for name in names})
        self._call_list = offsetof(call, "list")
        self._call = struct_dtype(
            prog,
            call,
            {
                "next": ["list.next"],
                "class": ["class"],
                "name": ["name", "tp"],
                "type": ["event.type"],
                "funcs": ["event.funcs"],
                "print_fmt": ["print_fmt"],
                "flags": ["flags"],
            },
        )
        self._class = struct_dtype(
            prog, events, {"system": ["system"], "next": ["fields.next"], "get_fields": ["get_fields"]}
        )
        self._class_fields = offsetof(events, "fields")
        members = {name: [name] for name in ("name", "type", "filter_type", "offset", "size")}
        self._field = struct_dtype(prog, field, members | {"next": ["link.next"], "prev": ["link.prev"]})
        self._field_list = offsetof(field, "link")
        signed = field.member("is_signed")
        self._signed_at = signed.bit_offset if signed.bit_field_size else signed.offset * 8
        self._point = struct_dtype(prog, point, {"name": ["name"]})
        self._functions = struct_dtype(prog, functions, {"trace": ["trace"]})
        self._by_tracepoint = self._number("TRACE_EVENT_FL_TRACEPOINT", 0x10)
        self._classes: dict[int, tuple[str, int, int]] = {}
        self._printers: dict[int, str | None] = {}

    def _number(self, name: str, default: int) -> int:
        found = find_object(self._prog, name)
        return default if found is None else int(found.value_())

    def read(self) -> EventFormats:
        filters = {name: find_object(self._prog, name) for name in _FILTERS}
        types = EventTypes(
            self._number("TRACE_STACK", 4),
            self._number("TRACE_USER_STACK", 12),
            self._number("__TRACE_LAST_TYPE", 20),
        )
        found: dict[int, EventFormat] = {}
        problem = None
        head = find_object(self._prog, "ftrace_events")
        if head is None or head.address_ is None:
            raise UnsupportedError("this kernel was built without trace events (CONFIG_EVENT_TRACING)")
        first = self._reader.read(head.address_, 8)
        link = int(first.data.view(self._order + "u8")[0]) if first.complete else 0
        seen = {head.address_}
        while link not in seen and len(seen) <= _MOST_EVENTS:
            seen.add(link)
            call = read_record(self._reader, link - self._call_list, self._call)
            if call is None:
                problem = "the list of events is torn: some may be unknown"
                break
            self._add(found, call)
            link = int(call["next"])
        else:
            if link != head.address_:
                problem = "the list of events leads in a circle: some may be unknown"
        return EventFormats(
            found,
            types,
            {name: int(value.value_()) for name, value in filters.items() if value is not None},
            _common_fields(self._entry),
            problem,
        )

    def _add(self, found: dict[int, EventFormat], call: Any) -> None:
        system, fields, get_fields = self._class_of(int(call["class"]))
        at = int(call["name"])
        if int(call["flags"]) & self._by_tracepoint:
            point = read_record(self._reader, at, self._point)
            at = int(point["name"]) if point is not None else 0
        number, print_fmt, functions = (int(call[each]) for each in ("type", "print_fmt", "funcs"))
        # Two lists of names for one number: some of the tracer's own are only there to be described.
        found.setdefault(
            number,
            EventFormat(
                text_at(self._reader, at) or "?",
                system,
                number,
                lambda: self._printer(functions),
                # Syscalls find theirs by a function.
                (lambda: ()) if get_fields else (lambda: self._fields(fields)),
                lambda: self._print_fmt(print_fmt),
            ),
        )

    def _print_fmt(self, address: int) -> str | None:
        raw = bytes_at(self._reader, address, _MOST_FORMAT)
        return None if raw is None else raw.decode("latin-1")

    def _class_of(self, address: int) -> tuple[str, int, int]:
        if address not in self._classes:
            record = read_record(self._reader, address, self._class)
            system = text_at(self._reader, int(record["system"])) if record is not None else None
            self._classes[address] = (
                system or "?",
                address + self._class_fields,
                int(record["get_fields"]) if record is not None else 1,
            )
        return self._classes[address]

    def _printer(self, functions: int) -> str | None:
        if functions not in self._printers:
            record = read_record(self._reader, functions, self._functions)
            text = self._kernel.symbols.text(int(record["trace"])) if record is not None else "0x"
            self._printers[functions] = None if text.startswith("0x") else text.split("+", 1)[0]
        return self._printers[functions]

    def _fields(self, head: int) -> tuple[Field, ...]:
        """The list is made from its head: the kernel prints it in reverse."""
        found: list[Field] = []
        first = self._reader.read(head, 8)
        link = int(first.data.view(self._order + "u8")[0]) if first.complete else 0
        while link != head and len(found) < _MOST_FIELDS:
            address = link - self._field_list
            record = read_record(self._reader, address, self._field)
            if record is None:
                break
            bits = self._reader.read(address + self._signed_at // 8, 1).data
            offset, size = int(record["offset"]), int(record["size"])
            if offset >= 0 and size >= 0:
                found.append(
                    Field(
                        text_at(self._reader, int(record["name"])) or "?",
                        text_at(self._reader, int(record["type"])) or "?",
                        offset,
                        size,
                        bool(len(bits) and int(bits[0]) >> self._signed_at % 8 & 1),
                        int(record["filter_type"]),
                    )
                )
            link = int(record["next"])
        return tuple(reversed(found))


def _common_fields(entry: np.dtype[np.void]) -> dict[str, Field]:
    """``ftrace_common_fields``: what ``struct trace_entry`` has."""
    found = {}
    for name in entry.names or ():
        kind, offset = entry[name], int(entry.fields[name][1]) if entry.fields is not None else 0
        found[name] = Field(name, str(kind), offset, kind.itemsize, kind.kind == "i", 0)
    return found
