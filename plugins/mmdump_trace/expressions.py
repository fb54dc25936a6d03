"""C's arithmetic on an event's fields: from an expression of its ``print_fmt`` to a value for its bytes.

Nothing of it is trusted: what is not understood raises :class:`UnprintableError` when the value is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mmdump_trace.arithmetic import INT, ULONG, CType, common, operation, promoted
from mmdump_trace.cexpr import Node
from mmdump_trace.formats import EventFormat, Field
from mmdump_trace.printf import UnprintableError, wrapped

__all__ = ["Expressions", "Names", "Value", "c_string", "part_of"]

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
class Value:
    """An expression: what it is (``int``, ``text`` or ``bytes``), and its value for an event's bytes."""

    kind: str
    get: Callable[[bytes], Any]
    type: CType = ULONG
    const: Any = None


class Expressions:
    """Makes values of the expressions of one event's print format.

    :param common: The fields that all events have, by their names in ``struct trace_entry``.
    """

    def __init__(self, event: EventFormat, names: Names, common: Mapping[str, Field]) -> None:
        self._event = event
        self._common = common
        self._names = names
        self._order: Any = "little" if names.little else "big"
        self._nodes = 0

    def value(self, node: Node) -> Value:
        """What an expression is, and its value for an event's bytes.

        :raises UnprintableError: It is not understood.
        """
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise UnprintableError("a print format that is too long")
        return getattr(self, f"_{node[0]}")(*node[1:])

    def _int(self, node: Node) -> Value:
        found = self.value(node)
        if found.kind != "int":
            raise UnprintableError("arithmetic with a text")
        return found

    def _number(self, text: str) -> Value:
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

    def _string(self, text: str) -> Value:
        return Value("text", lambda _: text, const=text)

    def _name(self, name: str) -> Value:
        if name in ("REC", "NULL"):
            if name == "NULL":
                return _constant(0, CType(8, False, 1))
            raise UnprintableError("the event itself as a value")
        found = self._names.value_of(name)
        if found is None:
            raise UnprintableError(f"{name}, which is neither a constant nor a variable")
        return _constant(*found)

    def _member(self, of: Node, name: str) -> Value:
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

    def _field_value(self, field: Field) -> Value:
        start, end = field.offset, field.offset + field.size
        if "[" in field.type and not field.dynamic:
            if "char" in field.type:
                return Value("text", lambda data: c_string(part_of(data, start, end)))
            return Value("bytes", lambda data: part_of(data, start, end))
        if field.size not in (1, 2, 4, 8):
            return Value("bytes", lambda data: part_of(data, start, end))
        order, signed = self._order, field.signed
        pointee: int | None = 0
        if field.type.rstrip().endswith("*"):
            known = self._names.type_of(field.type)
            pointee = known.pointee if known is not None else None

        def get(data: bytes) -> int:
            return int.from_bytes(part_of(data, start, end), order, signed=signed)

        return Value("int", get, CType(field.size, signed, pointee))

    def _index(self, of: Node, index: Node) -> Value:
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

    def _sizeof(self, words: str) -> Value:
        found = self._names.type_of(words)
        if found is None or not found.size:
            raise UnprintableError(f"the size of {words}")
        return _constant(found.size, ULONG)

    def _cast(self, words: str, node: Node) -> Value:
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

    def _unary(self, sign: str, node: Node) -> Value:
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

    def _choice(self, condition: Node, one: Node, other: Node) -> Value:
        test, first, second = self.value(condition), self.value(one), self.value(other)
        if first.kind != second.kind or test.kind == "bytes":
            raise UnprintableError("a choice between a number and a text")
        kind = common(first.type, second.type) if first.kind == "int" else ULONG
        decide, yes, no = test.get, first.get, second.get
        if test.const is not None:
            return first if test.const else second
        if first.kind != "int":
            return Value(first.kind, lambda data: yes(data) if decide(data) else no(data))
        size, signed = kind.size, kind.signed
        return Value("int", lambda data: wrapped(yes(data) if decide(data) else no(data), size, signed), kind)

    def _binary(self, sign: str, left: Node, right: Node) -> Value:
        one, other = self._int(left), self._int(right)
        kind, work = operation(sign, one.type, other.type)
        first, second = one.get, other.get
        if one.const is not None and other.const is not None:
            try:
                return _constant(work(one.const, other.const), kind)
            except ZeroDivisionError:
                raise UnprintableError("a division by zero") from None
        return Value("int", lambda data: work(first(data), second(data)), kind)

    def _braces(self, _: list[Node]) -> Value:
        raise UnprintableError("a list where a value should be")

    def _call(self, name: str, arguments: list[Node]) -> Value:  # noqa: ARG002
        raise UnprintableError(f"{name}(), which is not known here")


def part_of(data: bytes, start: int, end: int) -> bytes:
    """Bytes of an event.

    :raises IndexError: They are not all in it.
    """
    if start < 0 or end > len(data):
        raise IndexError("a field that lies outside of the event")
    return data[start:end]


def c_string(raw: bytes) -> str:
    """A string as text of which each character is a byte."""
    return raw.split(b"\0", 1)[0].decode("latin-1")


def _constant(value: int, kind: CType) -> Value:
    return Value("int", lambda _: value, kind, value)


def _mapped(found: Value, kind: CType, work: Callable[[int], int]) -> Value:
    if found.const is not None:
        return _constant(work(found.const), kind)
    get = found.get
    return Value("int", lambda data: work(get(data)), kind)
