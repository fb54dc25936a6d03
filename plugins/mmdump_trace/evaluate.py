"""From an event's ``print_fmt`` to a function that prints events.

Mirrors what include/trace/stages/ makes of TP_printk(), so far as the format string in memory tells it.
Nothing of it is trusted: what is not understood raises :class:`UnprintableError` when the function is made,
and the event is shown by its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmdump_trace.calls import Calls
from mmdump_trace.cexpr import parse_print_fmt
from mmdump_trace.expressions import Names, Value
from mmdump_trace.formats import EventFormat, Field
from mmdump_trace.printf import Conversion, PointerWords, UnprintableError, parse_format

__all__ = ["Names", "compile_print_fmt"]

#: The text of one event; the kernel's own limit is a page (or two: TRACE_SEQ_BUFFER_SIZE).
_MOST_TEXT = 8192


def compile_print_fmt(
    event: EventFormat, names: Names, words: PointerWords, common: Mapping[str, Field]
) -> Callable[[bytes], str]:
    """A function from an event's bytes to its text, without its name and without a newline.

    :param common: The fields that all events have, by their names in ``struct trace_entry``.
    :raises UnprintableError: Its format is missing or not understood.
    """
    if event.print_fmt is None:
        raise UnprintableError("its print format is not in the dump")
    text, arguments = parse_print_fmt(event.print_fmt, lambda each: names.type_of(each) is not None)
    compiler = Calls(event, names, common)
    values = [compiler.value(each) for each in arguments]
    parts: list[tuple[Conversion, list[Callable[[bytes], Any]]]] = []
    for part in parse_format(text, words):
        count = 0 if part.wants is None else part.stars + 1
        if count > len(values):
            raise UnprintableError("a print format that has fewer values than conversions")
        taken, values = values[:count], values[count:]
        parts.append((part, _converted(part, taken, names)))
    if values:
        raise UnprintableError("a print format that has more values than conversions")

    def printed(data: bytes) -> str:
        try:
            return "".join([part.convert([get(data) for get in gets]) for part, gets in parts])[:_MOST_TEXT]
        except (IndexError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise UnprintableError(str(error)) from error

    return printed


def _converted(part: Conversion, taken: Sequence[Value], names: Names) -> list[Callable[[bytes], Any]]:
    """The values of one conversion, as it wants them."""
    if not taken:
        return []
    last = taken[-1]
    if any(each.kind != "int" for each in taken[:-1]):
        raise UnprintableError(f"conversion {part.text} of something else")
    if part.wants == "text":
        if last.kind == "int":
            return [*[each.get for each in taken[:-1]], _string_of(last.get, names)]
        if last.kind != "text":
            raise UnprintableError(f"conversion {part.text} of an array")
    elif last.kind != "int":
        raise UnprintableError(f"conversion {part.text} of a text")
    return [each.get for each in taken]


def _string_of(get: Callable[[bytes], Any], names: Names) -> Callable[[bytes], str]:
    def text(data: bytes) -> str:
        address = get(data) & 0xFFFFFFFFFFFFFFFF
        if not address:
            return "(null)"
        found = names.string_at(address)
        return "(efault)" if found is None else found

    return text
