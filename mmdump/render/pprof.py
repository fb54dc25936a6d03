"""pprof's profile.proto (https://github.com/google/pprof/blob/main/proto/profile.proto), gzipped.

Encoded here: the format is a page of fields, of two of protobuf's four encodings. The library would be
mmdump's largest dependency after drgn, and ties generated code to the version of its runtime.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass, field

from mmdump.render.escape import escape
from mmdump.render.stacks import Chains, Frame, StackRenderer
from mmdump.result import Column, Kind, Result

__all__ = ["PprofRenderer"]

_KERNEL = "[kernel.kallsyms]"
_INT64_MAX = (1 << 63) - 1
_U64 = (1 << 64) - 1


def _varint(value: int) -> bytes:
    """Base 128, lowest digit first; a negative number as its 64-bit two's complement."""
    value &= _U64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(tag: int, value: int) -> bytes:
    """A field of a number; zero is what is not written."""
    return _varint(tag << 3) + _varint(value) if value else b""


def _bytes(tag: int, content: bytes) -> bytes:
    """A field of bytes: a string, a message or packed numbers."""
    return _varint(tag << 3 | 2) + _varint(len(content)) + content


def _packed(tag: int, values: Iterable[int]) -> bytes:
    return _bytes(tag, b"".join(map(_varint, values)))


@dataclass
class _Tables:
    """The tables that samples refer to by number. Numbers of messages begin with 1, of strings with 0."""

    strings: dict[str, int] = field(default_factory=lambda: {"": 0})
    mappings: dict[str, int] = field(default_factory=dict)
    functions: dict[tuple[str, str, str], int] = field(default_factory=dict)
    locations: dict[Frame, int] = field(default_factory=dict)

    def string(self, text: str) -> int:
        """The number of a string."""
        # A path in a target may be no UTF-8.
        text = text.encode("utf-8", "backslashreplace").decode()
        return self.strings.setdefault(text, len(self.strings))

    def location(self, frame: Frame) -> int:
        """The number of a frame's location."""
        found = self.locations.get(frame)
        if found is None:
            self.mapping(frame.module)
            key = (frame.name, frame.file, frame.module)
            self.functions.setdefault(key, len(self.functions) + 1)
            found = self.locations[frame] = len(self.locations) + 1
        return found

    def mapping(self, module: str) -> int:
        """The number of the mapping of a module, or of the kernel."""
        return self.mappings.setdefault(module, len(self.mappings) + 1)

    def messages(self) -> Iterable[bytes]:
        """All tables as fields of ``Profile``; the strings are last, since the others add to them."""
        for module, number in self.mappings.items():
            name = f"[{module}]" if module else _KERNEL
            # id, filename, has_functions: pprof shall not look for symbols, it has them.
            yield _bytes(3, _number(1, number) + _number(5, self.string(name)) + _number(7, 1))
        for frame, number in self.locations.items():
            function = self.functions[frame.name, frame.file, frame.module]
            line = _number(1, function) + _number(2, frame.line)
            # id, mapping_id, address, line
            yield _bytes(
                4,
                _number(1, number)
                + _number(2, self.mapping(frame.module))
                + _number(3, frame.address)
                + _bytes(4, line),
            )
        for (name, file, _module), number in self.functions.items():
            # id, name, system_name, filename
            at = self.string(name)
            yield _bytes(
                5, _number(1, number) + _number(2, at) + _number(3, at) + _number(4, self.string(file))
            )
        for text in self.strings:
            yield _bytes(6, text.encode())


class PprofRenderer(StackRenderer):
    """Writes one profile with a sample type for each weight; that of ``--weight`` is the default.

    A row is a sample: what it says beside its chain and weights are its labels, for ``pprof -tagfocus``.
    """

    def write(self, result: Result, chains: Chains) -> None:
        """Write the profile."""
        # The strings of sample types come first, for readers of the bytes.
        tables = _Tables()
        types = [_value_type(tables, column) for column in chains.weights]
        kinds = {column.name: column.kind for column in chains.labels}
        parts = [_bytes(1, each) for each in types]
        for sample in chains.samples:
            # location_id, value, label
            message = _packed(1, map(tables.location, sample.frames))
            message += _packed(2, (min(weight, _INT64_MAX) for weight in sample.weights))
            for name, value in sample.labels.items():
                if value == "":
                    # To pprof that is no label.
                    continue
                message += _bytes(3, _label(tables, name, value, kinds[name]))
            parts.append(_bytes(2, message))
        # Without a location there is no mapping; a kernel there always is.
        tables.mapping("")
        comments = [tables.string(text) for text in _comments(result, self.options.version)]
        default = tables.string(_type_name(chains.weights[chains.chosen]))
        parts += [*tables.messages(), _packed(13, comments), _number(14, default)]
        # No time in the header: the same dump gives the same bytes.
        self.out.write(gzip.compress(b"".join(parts), mtime=0))


def _type_name(column: Column) -> str:
    # pprof's word for bytes in use.
    return "space" if column.name == "bytes" else column.name


def _value_type(tables: _Tables, column: Column) -> bytes:
    unit = "bytes" if column.kind is Kind.BYTES else "count"
    return _number(1, tables.string(_type_name(column))) + _number(2, tables.string(unit))


def _label(tables: _Tables, name: str, value: str | int, kind: Kind) -> bytes:
    key = _number(1, tables.string(name))
    if isinstance(value, str) or kind is not Kind.NSEC:
        # What names something is no quantity, though it be a number; and pprof drops a zero without a unit.
        return key + _number(2, tables.string(str(value)))
    return key + _number(3, min(value, _INT64_MAX)) + _number(4, tables.string("nanoseconds"))


def _comments(result: Result, version: str) -> list[str]:
    about = ((name, result.target.get(name)) for name in ("path", "release", "build_id", "crash_time"))
    found = [f"mmdump {version} {result.analysis}", *(f"{name}: {value}" for name, value in about if value)]
    return [escape(text) for text in (*found, *result.summary, *result.notes, *result.incomplete)]
