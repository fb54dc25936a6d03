"""From an event's ``print_fmt`` to a function that prints events: C's arithmetic on the event's fields.

Mirrors what include/trace/stages/ makes of TP_printk(), so far as the format string in memory tells it.
Nothing of it is trusted: what is not understood raises :class:`UnprintableError` when the function is made,
and the event is shown by its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mmdump_trace.arithmetic import INT, ULONG, CType, common, operation, promoted
from mmdump_trace.cexpr import Node, parse_print_fmt
from mmdump_trace.formats import EventFormat, Field
from mmdump_trace.printf import Conversion, PointerWords, UnprintableError, parse_format, wrapped

__all__ = ["Names", "compile_print_fmt"]

#: The text of one event; the kernel's own limit is a page (or two: TRACE_SEQ_BUFFER_SIZE).
_MOST_TEXT = 8192
#: Elements of an array that are printed: no event has more bytes.
_MOST_ELEMENTS = 1 << 16
#: Nodes of an expression that are evaluated for each event.
_MOST_NODES = 1 << 16


class Names(Protocol):
    """What a print format may name beside the event's fields."""

    @property
    def little(self) -> bool:
        """Whether the machine is little-endian."""

    def type_of(self, words: str) -> CType | None:
        """A type of the kernel; None where there is none of that name."""

    def value_of(self, name: str) -> tuple[int, CType] | None:
        """A constant or a variable of the kernel; None where there is none."""

    def string_at(self, address: int) -> str | None:
        """A string of the kernel; None where it is not in the dump."""


@dataclass(frozen=True)
class _Value:
    """An expression: what it is (``int``, ``text`` or ``bytes``), and its value for an event's bytes."""

    kind: str
    get: Callable[[bytes], Any]
    type: CType = ULONG
    const: Any = None


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
    compiler = _Compiler(event, names, common)
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


def _converted(part: Conversion, taken: Sequence[_Value], names: Names) -> list[Callable[[bytes], Any]]:
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


class _Compiler:
    def __init__(self, event: EventFormat, names: Names, common: Mapping[str, Field]) -> None:
        self._event = event
        self._common = common
        self._names = names
        self._order: Any = "little" if names.little else "big"
        self._nodes = 0

    def value(self, node: Node) -> _Value:
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise UnprintableError("a print format that is too long")
        return getattr(self, f"_{node[0]}")(*node[1:])

    def _int(self, node: Node) -> _Value:
        found = self.value(node)
        if found.kind != "int":
            raise UnprintableError("arithmetic with a text")
        return found

    def _number(self, text: str) -> _Value:
        digits = text.rstrip("uUlL")
        suffix = text[len(digits) :].lower()
        octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xX"
        number = int(digits, 8 if octal else 0)
        signed = "u" not in suffix
        size = (
            8
            if "l" in suffix or number >= 1 << 32 or (signed and digits.isdigit() and number >= 1 << 31)
            else 4
        )
        if signed and number >= 1 << (8 * size - 1):
            signed = False
        return _constant(wrapped(number, size, signed), CType(size, signed))

    def _string(self, text: str) -> _Value:
        return _Value("text", lambda _: text, const=text)

    def _name(self, name: str) -> _Value:
        if name in ("REC", "NULL"):
            if name == "NULL":
                return _constant(0, CType(8, False, 1))
            raise UnprintableError("the event itself as a value")
        found = self._names.value_of(name)
        if found is None:
            raise UnprintableError(f"{name}, which is neither a constant nor a variable")
        return _constant(*found)

    def _member(self, of: Node, name: str) -> _Value:
        if of == ("member", ("name", "REC"), "ent") and name in self._common:
            return self._field_value(self._common[name])
        if of != ("name", "REC"):
            raise UnprintableError("a member of something else than the event")
        return self._field_value(self._field(name))

    def _field(self, name: str) -> Field:
        field = self._event.field(name) or self._common.get(name.removeprefix("common_"))
        if field is None:
            raise UnprintableError(f"field {name}, which the event has not")
        return field

    def _field_value(self, field: Field) -> _Value:
        start, end = field.offset, field.offset + field.size
        if "[" in field.type and not field.dynamic:
            if "char" in field.type:
                return _Value("text", lambda data: _c_string(_part(data, start, end)))
            return _Value("bytes", lambda data: _part(data, start, end))
        if field.size not in (1, 2, 4, 8):
            return _Value("bytes", lambda data: _part(data, start, end))
        order, signed = self._order, field.signed
        pointee: int | None = 0
        if field.type.rstrip().endswith("*"):
            known = self._names.type_of(field.type)
            pointee = known.pointee if known is not None else None

        def get(data: bytes) -> int:
            return int.from_bytes(_part(data, start, end), order, signed=signed)

        return _Value("int", get, CType(field.size, signed, pointee))

    def _index(self, of: Node, index: Node) -> _Value:
        place = self._int(index)
        if of[0] != "member" or of[1] != ("name", "REC") or place.const is None:
            raise UnprintableError("an element of something else than the event's array")
        field = self._field(of[2])
        length = field.type.rpartition("[")[2].rstrip("]")
        if not length.isdigit() or not 0 <= place.const < int(length) or field.size % int(length):
            raise UnprintableError(f"an element that {field.name} has not")
        size = field.size // int(length)
        element = Field(field.name, "", field.offset + place.const * size, size, field.signed, 0)
        return self._field_value(element)

    def _sizeof(self, words: str) -> _Value:
        found = self._names.type_of(words)
        if found is None or not found.size:
            raise UnprintableError(f"the size of {words}")
        return _constant(found.size, ULONG)

    def _cast(self, words: str, node: Node) -> _Value:
        found = self.value(node)
        into = self._names.type_of(words)
        if into is None:
            raise UnprintableError(f"type {words}")
        if found.kind != "int":
            # A pointer to an array in the event.
            return found
        if into.size not in (1, 2, 4, 8):
            raise UnprintableError(f"a value of type {words}")
        return _mapped(found, into, lambda value: wrapped(value, into.size, into.signed))

    def _unary(self, sign: str, node: Node) -> _Value:
        if sign in "&*":
            raise UnprintableError("the address of something, or what is there")
        found = self._int(node)
        if sign == "!":
            return _mapped(found, INT, lambda value: int(not value))
        kind = promoted(found.type)
        size, signed = kind.size, kind.signed
        work: dict[str, Callable[[int], int]] = {
            "-": lambda value: wrapped(-value, size, signed),
            "~": lambda value: wrapped(~value, size, signed),
            "+": lambda value: value,
        }
        return _mapped(found, kind, work[sign])

    def _choice(self, condition: Node, one: Node, other: Node) -> _Value:
        test, first, second = self.value(condition), self.value(one), self.value(other)
        if first.kind != second.kind or test.kind == "bytes":
            raise UnprintableError("a choice between a number and a text")
        kind = common(first.type, second.type) if first.kind == "int" else ULONG
        decide, yes, no = test.get, first.get, second.get
        if test.const is not None:
            return first if test.const else second
        if first.kind != "int":
            return _Value(first.kind, lambda data: yes(data) if decide(data) else no(data))
        size, signed = kind.size, kind.signed
        return _Value(
            "int", lambda data: wrapped(yes(data) if decide(data) else no(data), size, signed), kind
        )

    def _binary(self, sign: str, left: Node, right: Node) -> _Value:
        one, other = self._int(left), self._int(right)
        kind, work = operation(sign, one.type, other.type)
        first, second = one.get, other.get
        if one.const is not None and other.const is not None:
            try:
                return _constant(work(one.const, other.const), kind)
            except ZeroDivisionError:
                raise UnprintableError("a division by zero") from None
        return _Value("int", lambda data: work(first(data), second(data)), kind)

    def _braces(self, _: list[Node]) -> _Value:
        raise UnprintableError("a list where a value should be")

    def _call(self, name: str, arguments: list[Node]) -> _Value:
        made = _FUNCTIONS.get(name)
        if made is None:
            raise UnprintableError(f"{name}(), which is not known here")
        try:
            return made(self, *arguments)
        except TypeError as error:
            raise UnprintableError(f"{name}() of other arguments") from error

    # What print formats call, named as there.

    def flags(self, value: Node, delimiter: Node, *table: Node) -> _Value:
        """``__print_flags()``: trace_print_flags_seq()."""
        found, between = self._int(value), self.value(delimiter)
        masks = self._table(table)
        known: dict[int, str] = {}
        if between.kind != "text" or between.const is None:
            raise UnprintableError("flags with an unknown delimiter")

        def text(data: bytes) -> str:
            flags = found.get(data) & 0xFFFFFFFFFFFFFFFF
            word = known.get(flags)
            if word is None:
                word = _flag_words(flags, masks, between.const)
                if len(known) < _MOST_ELEMENTS:
                    known[flags] = word
            return word

        return _Value("text", text)

    def symbolic(self, value: Node, *table: Node) -> _Value:
        """``__print_symbolic()``: trace_print_symbols_seq()."""
        found = self._int(value)
        words = dict(reversed(self._table(table)))

        def text(data: bytes) -> str:
            number = found.get(data) & 0xFFFFFFFFFFFFFFFF
            return words.get(number, f"{number:#x}")

        return _Value("text", text)

    def _table(self, table: Sequence[Node]) -> list[tuple[int, str]]:
        found = []
        for node in table:
            if node[0] != "braces" or len(node[1]) != 2:
                raise UnprintableError("a table of something else than pairs")
            number, word = self._int(node[1][0]), self.value(node[1][1])
            if word.kind == "int" and word.const == 0:
                # NULL, which ends the kernel's own table.
                break
            if number.const is None or word.kind != "text" or word.const is None:
                raise UnprintableError("a table that is not constant")
            found.append((number.const & 0xFFFFFFFFFFFFFFFF, word.const))
        return found

    def _located(self, name: Node) -> Callable[[bytes], bytes]:
        if name[0] != "name":
            raise UnprintableError("a dynamic array without a name")
        field = self._field(name[1])
        if not field.dynamic or field.size != 4:
            raise UnprintableError(f"{field.name}, which is no dynamic array")
        start, order = field.offset, self._order
        # __rel_loc counts from the end of its own field (5.17).
        base = field.offset + 4 if field.type.startswith("__rel_loc") else 0

        def get(data: bytes) -> bytes:
            where = int.from_bytes(_part(data, start, start + 4), order)
            offset = base + (where & 0xFFFF)
            return _part(data, offset, offset + (where >> 16))

        return get

    def get_str(self, name: Node) -> _Value:
        """``__get_str()``."""
        located = self._located(name)
        return _Value("text", lambda data: _c_string(located(data)))

    def dynamic_array(self, name: Node) -> _Value:
        """``__get_dynamic_array()``."""
        return _Value("bytes", self._located(name))

    def dynamic_array_len(self, name: Node) -> _Value:
        """``__get_dynamic_array_len()``."""
        located = self._located(name)
        return _Value("int", lambda data: len(located(data)), CType(4, True))

    def bitmask(self, name: Node) -> _Value:
        """``__get_bitmask()``: groups of 32 bits, as ``%*pb`` prints them."""
        located, order = self._located(name), self._order

        def text(data: bytes) -> str:
            raw = located(data)
            # Longs, each of which has its own byte order.
            words = [int.from_bytes(raw[at : at + 8], order) for at in range(0, len(raw), 8)]
            digits = "".join(f"{word:016x}" for word in reversed(words))[-2 * len(raw) :]
            return ",".join(digits[at : at + 8] for at in range(0, len(digits), 8))

        return _Value("text", text)

    def array(self, of: Node, count: Node, size: Node) -> _Value:
        """``__print_array()``: trace_print_array_seq()."""
        source, length, width = self.value(of), self._int(count), self._int(size)
        if source.kind != "bytes" or width.const not in (1, 2, 4, 8):
            raise UnprintableError("an array of unknown elements")
        step, order = width.const, self._order

        def text(data: bytes) -> str:
            raw = source.get(data)
            whole = max(0, min(length.get(data), len(raw) // step, _MOST_ELEMENTS))
            words = (int.from_bytes(raw[at : at + step], order) for at in range(0, whole * step, step))
            return "{" + ",".join(f"{word:#x}" for word in words) + "}"

        return _Value("text", text)

    def hexadecimal(self, of: Node, count: Node) -> _Value:
        """``__print_hex()``: bytes with spaces between them."""
        return self._hex(of, count, " ")

    def hexadecimal_str(self, of: Node, count: Node) -> _Value:
        """``__print_hex_str()``: bytes without."""
        return self._hex(of, count, "")

    def _hex(self, of: Node, count: Node, between: str) -> _Value:
        source, length = self.value(of), self._int(count)
        if source.kind != "bytes":
            raise UnprintableError("bytes of something that is no array")

        def text(data: bytes) -> str:
            raw = source.get(data)[: max(0, min(length.get(data), _MOST_ELEMENTS))]
            return between.join(f"{byte:02x}" for byte in raw)

        return _Value("text", text)

    def expect(self, value: Node, _: Node) -> _Value:
        """``__builtin_expect()``."""
        return self._int(value)


_FUNCTIONS: dict[str, Callable[..., _Value]] = {
    "__print_flags": _Compiler.flags,
    "__print_flags_u64": _Compiler.flags,
    "__print_symbolic": _Compiler.symbolic,
    "__print_symbolic_u64": _Compiler.symbolic,
    "__get_str": _Compiler.get_str,
    "__get_rel_str": _Compiler.get_str,
    "__get_dynamic_array": _Compiler.dynamic_array,
    "__get_rel_dynamic_array": _Compiler.dynamic_array,
    "__get_dynamic_array_len": _Compiler.dynamic_array_len,
    "__get_rel_dynamic_array_len": _Compiler.dynamic_array_len,
    "__get_bitmask": _Compiler.bitmask,
    "__get_rel_bitmask": _Compiler.bitmask,
    "__get_cpumask": _Compiler.bitmask,
    "__get_rel_cpumask": _Compiler.bitmask,
    "__print_array": _Compiler.array,
    "__print_hex": _Compiler.hexadecimal,
    "__print_hex_str": _Compiler.hexadecimal_str,
    "__builtin_expect": _Compiler.expect,
}


def _part(data: bytes, start: int, end: int) -> bytes:
    if start < 0 or end > len(data):
        raise IndexError("a field that lies outside of the event")
    return data[start:end]


def _c_string(raw: bytes) -> str:
    """A string as text of which each character is a byte."""
    return raw.split(b"\0", 1)[0].decode("latin-1")


def _flag_words(flags: int, masks: Sequence[tuple[int, str]], between: str) -> str:
    words = []
    for mask, word in masks:
        if not flags:
            break
        if flags & mask == mask:
            words.append(word)
            flags &= ~mask
    if flags:
        words.append(f"{flags:#x}")
    return between.join(words)


def _constant(value: int, kind: CType) -> _Value:
    return _Value("int", lambda _: value, kind, value)


def _mapped(found: _Value, kind: CType, work: Callable[[int], int]) -> _Value:
    if found.const is not None:
        return _constant(work(found.const), kind)
    get = found.get
    return _Value("int", lambda data: work(get(data)), kind)
