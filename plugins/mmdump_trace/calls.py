"""What print formats call, named as there: tables of flags and symbols, and the arrays of an event."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmdump_trace.arithmetic import CType
from mmdump_trace.cexpr import Node
from mmdump_trace.expressions import Expressions, Value, c_string, part_of
from mmdump_trace.printf import UnprintableError

__all__ = ["Calls"]

#: Elements of an array that are printed: no event has more bytes.
_MOST_ELEMENTS = 1 << 16


class Calls(Expressions):
    """Expressions with calls in them."""

    def _call(self, name: str, arguments: list[Node]) -> Value:
        made = _FUNCTIONS.get(name)
        if made is None:
            raise UnprintableError(f"{name}(), which is not known here")
        try:
            return made(self, *arguments)
        except TypeError as error:
            raise UnprintableError(f"{name}() of other arguments") from error

    def flags(self, value: Node, delimiter: Node, *table: Node) -> Value:
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

        return Value("text", text)

    def symbolic(self, value: Node, *table: Node) -> Value:
        """``__print_symbolic()``: trace_print_symbols_seq()."""
        found = self._int(value)
        words = dict(reversed(self._table(table)))

        def text(data: bytes) -> str:
            number = found.get(data) & 0xFFFFFFFFFFFFFFFF
            return words.get(number, f"{number:#x}")

        return Value("text", text)

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
            where = int.from_bytes(part_of(data, start, start + 4), order)
            offset = base + (where & 0xFFFF)
            return part_of(data, offset, offset + (where >> 16))

        return get

    def get_str(self, name: Node) -> Value:
        """``__get_str()``."""
        located = self._located(name)
        return Value("text", lambda data: c_string(located(data)))

    def dynamic_array(self, name: Node) -> Value:
        """``__get_dynamic_array()``."""
        return Value("bytes", self._located(name))

    def dynamic_array_len(self, name: Node) -> Value:
        """``__get_dynamic_array_len()``."""
        located = self._located(name)
        return Value("int", lambda data: len(located(data)), CType(4, True))

    def bitmask(self, name: Node) -> Value:
        """``__get_bitmask()``: groups of 32 bits, as ``%*pb`` prints them."""
        located, order = self._located(name), self._order

        def text(data: bytes) -> str:
            raw = located(data)
            # Longs, each of which has its own byte order.
            words = [int.from_bytes(raw[at : at + 8], order) for at in range(0, len(raw), 8)]
            digits = "".join(f"{word:016x}" for word in reversed(words))[-2 * len(raw) :]
            return ",".join(digits[at : at + 8] for at in range(0, len(digits), 8))

        return Value("text", text)

    def array(self, of: Node, count: Node, size: Node) -> Value:
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

        return Value("text", text)

    def hexadecimal(self, of: Node, count: Node) -> Value:
        """``__print_hex()``: bytes with spaces between them."""
        return self._hex(of, count, " ")

    def hexadecimal_str(self, of: Node, count: Node) -> Value:
        """``__print_hex_str()``: bytes without."""
        return self._hex(of, count, "")

    def _hex(self, of: Node, count: Node, between: str) -> Value:
        source, length = self.value(of), self._int(count)
        if source.kind != "bytes":
            raise UnprintableError("bytes of something that is no array")

        def text(data: bytes) -> str:
            raw = source.get(data)[: max(0, min(length.get(data), _MOST_ELEMENTS))]
            return between.join(f"{byte:02x}" for byte in raw)

        return Value("text", text)

    def expect(self, value: Node, _: Node) -> Value:
        """``__builtin_expect()``."""
        return self._int(value)


_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "__print_flags": Calls.flags,
    "__print_flags_u64": Calls.flags,
    "__print_symbolic": Calls.symbolic,
    "__print_symbolic_u64": Calls.symbolic,
    "__get_str": Calls.get_str,
    "__get_rel_str": Calls.get_str,
    "__get_dynamic_array": Calls.dynamic_array,
    "__get_rel_dynamic_array": Calls.dynamic_array,
    "__get_dynamic_array_len": Calls.dynamic_array_len,
    "__get_rel_dynamic_array_len": Calls.dynamic_array_len,
    "__get_bitmask": Calls.bitmask,
    "__get_rel_bitmask": Calls.bitmask,
    "__get_cpumask": Calls.bitmask,
    "__get_rel_cpumask": Calls.bitmask,
    "__print_array": Calls.array,
    "__print_hex": Calls.hexadecimal,
    "__print_hex_str": Calls.hexadecimal_str,
    "__builtin_expect": Calls.expect,
}


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
