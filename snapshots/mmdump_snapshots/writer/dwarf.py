"""Debug info in DWARF 4: types, variables and functions of C, in bulk.

All types are in the first unit. Each source file has a unit with its variables and functions, which refer to
the types over there. Debuggers look for a name in a file by ``DW_AT_decl_file``, an index into the file names
of the unit's line table; there are no lines in it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from mmdump_snapshots.kernels.types import CType
from mmdump_snapshots.writer import dwarf_encoding as d
from mmdump_snapshots.writer.elf import StringTable

__all__ = ["DebugInfo"]

#: (attribute, form, value) of an entry.
_Attributes: TypeAlias = "list[tuple[int, int, object]]"
#: What an enum is made of, by size and sign.
_INTEGERS = {
    (1, False): "unsigned char",
    (1, True): "signed char",
    (2, False): "unsigned short",
    (2, True): "short",
    (4, False): "unsigned int",
    (4, True): "int",
    (8, False): "unsigned long",
    (8, True): "long",
}
_TAGS = {
    "struct": d.STRUCTURE_TYPE,
    "union": d.UNION_TYPE,
    "const": d.CONST_TYPE,
    "volatile": d.VOLATILE_TYPE,
}


@dataclass
class _Unit:
    """A compilation unit.

    :ivar files: Index of file names that its entries refer to; counted from 1.
    :ivar body: Its entries; :meth:`DebugInfo.sections` puts a header before them.
    :ivar fixups: Places in ``body`` that a reference to a type, by its id, belongs to.
    :ivar ranges: (address, size) of its functions.
    """

    name: str
    files: dict[str, int] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    fixups: list[tuple[int, int]] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)


class DebugInfo:
    """Debug info that grows entry by entry.

    :param name: Of the unit that has the types.
    :param directory: Where the sources were compiled; file names are relative to it.
    """

    def __init__(self, name: str = "init/main.c", directory: str = "/usr/src/linux") -> None:
        self.directory = directory
        self.producer = "mmdump"
        self._strings = StringTable()
        self._abbreviate = d.Abbreviations()
        self._types = _Unit(name)
        self._units: dict[str, _Unit] = {}
        self._places: dict[int, int] = {}
        self._base: dict[tuple[str, int, int], int] = {}
        self._waiting: deque[CType] = deque()
        self._files: dict[int, str] = {}
        #: Types are known by their id: they must not go away.
        self._kept: list[CType] = []

    # Entries

    def type(self, kind: CType, file: str | None = None) -> None:
        """Write a type and those it refers to.

        :param file: The source file that declares it, to be found by it.
        """
        if file is not None:
            self._files.setdefault(id(kind), file)
        self._waiting.append(kind)
        self._drain()

    def variable(self, name: str, kind: CType, address: int, file: str, *, static: bool = False) -> None:
        """Write a variable at a link address, of any type but ``void`` or a function's."""
        unit = self._unit(file)
        attributes: _Attributes = [
            (d.NAME, d.STRP, name),
            (d.DECL_FILE, d.UDATA, unit.files[file]),
            (d.TYPE, d.REF_ADDR, kind),
        ]
        if not static:
            attributes.append((d.EXTERNAL, d.FLAG_PRESENT, None))
        attributes.append((d.LOCATION, d.EXPRLOC, bytes([d.OP_ADDR]) + struct.pack("<Q", address)))
        self._entry(unit, d.VARIABLE, attributes)
        self._drain()

    def function(
        self,
        name: str,
        address: int,
        size: int,
        file: str,
        kind: CType | None = None,
        *,
        static: bool = False,
    ) -> None:
        """Write a function.

        :param kind: Its type, of kind ``function``; None if nothing is known of it.
        """
        unit = self._unit(file)
        unit.ranges.append((address, size))
        attributes: _Attributes = [(d.NAME, d.STRP, name), (d.DECL_FILE, d.UDATA, unit.files[file])]
        if kind is not None:
            attributes.append((d.PROTOTYPED, d.FLAG_PRESENT, None))
            attributes += _typed(kind.target)
        attributes += [(d.LOW_PC, d.ADDR, address), (d.HIGH_PC, d.DATA8, size)]
        if not static:
            attributes.append((d.EXTERNAL, d.FLAG_PRESENT, None))
        children = kind is not None and bool(kind.parameters or kind.variadic)
        self._entry(unit, d.SUBPROGRAM, attributes, children)
        if children:
            assert kind is not None
            self._parameters(unit, kind)
        self._drain()

    def _unit(self, file: str) -> _Unit:
        if file == self._types.name:
            self._types.files.setdefault(file, len(self._types.files) + 1)
            return self._types
        unit = self._units.get(file)
        if unit is None:
            unit = self._units[file] = _Unit(file, {file: 1})
        return unit

    def _entry(
        self, unit: _Unit, tag: int, attributes: Iterable[tuple[int, int, object]], children: bool = False
    ) -> None:
        """Write an entry: (attribute, form, value); a type for a value of ``REF_ADDR``."""
        given = tuple(attributes)
        body = unit.body
        body += self._abbreviate(tag, children, tuple((attribute, form) for attribute, form, _ in given))
        for _, form, value in given:
            if form == d.STRP:
                assert isinstance(value, str)
                body += struct.pack("<I", self._strings.add(value))
            elif form == d.REF_ADDR:
                assert isinstance(value, CType)
                if id(value) not in self._places:
                    self._waiting.append(value)
                unit.fixups.append((len(body), id(value)))
                body += bytes(4)
            elif form == d.EXPRLOC:
                assert isinstance(value, bytes)
                body += d.uleb(len(value)) + value
            elif form != d.FLAG_PRESENT:
                assert isinstance(value, int)
                body += d.NUMBERS[form](value)

    def _parameters(self, unit: _Unit, kind: CType) -> None:
        for name, each in kind.parameters:
            attributes: _Attributes = [] if name is None else [(d.NAME, d.STRP, name)]
            self._entry(unit, d.FORMAL_PARAMETER, [*attributes, (d.TYPE, d.REF_ADDR, each)])
        if kind.variadic:
            self._entry(unit, d.UNSPECIFIED_PARAMETERS, [])
        unit.body.append(0)

    # Types

    def _drain(self) -> None:
        while self._waiting:
            kind = self._waiting.popleft()
            if id(kind) not in self._places:
                self._write(kind)

    def _write(self, kind: CType) -> None:
        """Write the entry of a type. What it refers to may come later."""
        unit = self._types
        self._kept.append(kind)
        self._places[id(kind)] = len(unit.body)
        attributes: _Attributes = []
        if kind.name is not None and kind.kind not in {"pointer", "array", "function", "const", "volatile"}:
            attributes.append((d.NAME, d.STRP, kind.name))
        if (file := self._files.get(id(kind))) is not None:
            attributes.append((d.DECL_FILE, d.UDATA, unit.files.setdefault(file, len(unit.files) + 1)))
        if kind.kind in {"int", "bool", "float"}:
            self._places[id(kind)] = self._base_type(kind.name or kind.kind, kind.size, _encoding(kind))
        elif kind.kind == "enum":
            self._enum(kind, attributes)
        elif kind.kind in {"struct", "union"}:
            self._struct(kind, attributes)
        elif kind.kind == "pointer":
            self._entry(unit, d.POINTER_TYPE, [(d.BYTE_SIZE, d.UDATA, kind.size), *_typed(kind.target)])
        elif kind.kind == "array":
            self._array(kind)
        elif kind.kind == "function":
            children = bool(kind.parameters or kind.variadic)
            prototyped: tuple[int, int, object] = (d.PROTOTYPED, d.FLAG_PRESENT, None)
            self._entry(unit, d.SUBROUTINE_TYPE, [prototyped, *_typed(kind.target)], children)
            if children:
                self._parameters(unit, kind)
        elif kind.kind == "typedef":
            self._entry(unit, d.TYPEDEF, [*attributes, *_typed(kind.target)])
        elif kind.kind in {"const", "volatile"}:
            self._entry(unit, _TAGS[kind.kind], _typed(kind.target))
        elif kind.kind != "void":
            raise ValueError(f"a type of kind {kind.kind}")

    def _base_type(self, name: str, size: int, encoding: int) -> int:
        """The place of a base type, written if there is none like it."""
        key = (name, size, encoding)
        if key not in self._base:
            self._base[key] = len(self._types.body)
            self._entry(
                self._types,
                d.BASE_TYPE,
                [(d.NAME, d.STRP, name), (d.BYTE_SIZE, d.UDATA, size), (d.ENCODING, d.UDATA, encoding)],
            )
        return self._base[key]

    def _enum(self, kind: CType, attributes: _Attributes) -> None:
        unit = self._types
        if not kind.complete:
            self._entry(unit, d.ENUMERATION_TYPE, [*attributes, (d.DECLARATION, d.FLAG_PRESENT, None)])
            return
        base = CType("int", _INTEGERS[kind.size, kind.signed], kind.size, kind.size, signed=kind.signed)
        self._write(base)
        self._places[id(kind)] = len(unit.body)
        self._entry(
            unit,
            d.ENUMERATION_TYPE,
            [*attributes, (d.BYTE_SIZE, d.UDATA, kind.size), (d.TYPE, d.REF_ADDR, base)],
            bool(kind.enumerators),
        )
        form = d.SDATA if kind.signed else d.UDATA
        for name, value in kind.enumerators.items():
            self._entry(unit, d.ENUMERATOR, [(d.NAME, d.STRP, name), (d.CONST_VALUE, form, value)])
        if kind.enumerators:
            unit.body.append(0)

    def _struct(self, kind: CType, attributes: _Attributes) -> None:
        unit = self._types
        if not kind.complete:
            self._entry(unit, _TAGS[kind.kind], [*attributes, (d.DECLARATION, d.FLAG_PRESENT, None)])
            return
        attributes.append((d.BYTE_SIZE, d.UDATA, kind.size))
        self._entry(unit, _TAGS[kind.kind], attributes, bool(kind.members))
        for each in kind.members:
            member: _Attributes = [] if each.name is None else [(d.NAME, d.STRP, each.name)]
            member.append((d.TYPE, d.REF_ADDR, each.type))
            if each.bit_size:
                member.append((d.BIT_SIZE, d.UDATA, each.bit_size))
                member.append((d.DATA_BIT_OFFSET, d.UDATA, 8 * each.offset + each.bit_offset))
            else:
                member.append((d.DATA_MEMBER_LOCATION, d.UDATA, each.offset))
            self._entry(unit, d.MEMBER, member)
        if kind.members:
            unit.body.append(0)

    def _array(self, kind: CType) -> None:
        """An array; one of arrays is one of several dimensions."""
        lengths: list[int | None] = []
        element: CType | None = kind
        while element is not None and element.kind == "array":
            lengths.append(element.length)
            element = element.target
        self._entry(self._types, d.ARRAY_TYPE, _typed(element), True)
        for length in lengths:
            self._entry(self._types, d.SUBRANGE_TYPE, [] if length is None else [(d.COUNT, d.UDATA, length)])
        self._types.body.append(0)

    # Sections

    def sections(self) -> dict[str, bytes]:
        """``.debug_info`` and those that it needs, by name. The debug info is complete then."""
        info = bytearray()
        lines = bytearray()
        aranges = bytearray()
        origin = 0
        for unit in (self._types, *self._units.values()):
            head = self._head(unit, len(lines))
            lines += d.line_table(unit.files)
            body = unit.body + b"\0"
            if unit is self._types:
                origin = 11 + len(head)
            for place, target in unit.fixups:
                struct.pack_into("<I", body, place, origin + self._places[target])
            if unit.ranges:
                aranges += d.arange(len(info), unit.ranges)
            # Length, version, .debug_abbrev offset, address size.
            info += struct.pack("<IHIB", 7 + len(head) + len(body), 4, 0, 8) + head + body
        return {
            ".debug_aranges": bytes(aranges),
            ".debug_info": bytes(info),
            ".debug_abbrev": bytes(self._abbreviate),
            ".debug_line": bytes(lines),
            ".debug_str": bytes(self._strings),
        }

    def _head(self, unit: _Unit, lines: int) -> bytes:
        """The entry of the unit itself."""
        head = _Unit(unit.name)
        attributes: _Attributes = [
            (d.PRODUCER, d.STRP, self.producer),
            (d.LANGUAGE, d.UDATA, d.C99),
            (d.NAME, d.STRP, unit.name),
            (d.COMP_DIR, d.STRP, self.directory),
            (d.STMT_LIST, d.SEC_OFFSET, lines),
        ]
        if unit.ranges:
            start = min(address for address, _ in unit.ranges)
            end = max(address + size for address, size in unit.ranges)
            attributes += [(d.LOW_PC, d.ADDR, start), (d.HIGH_PC, d.DATA8, end - start)]
        self._entry(head, d.COMPILE_UNIT, attributes, True)
        return bytes(head.body)


def _typed(target: CType | None) -> _Attributes:
    """The attribute that refers to a type; there is none for void."""
    return [] if target is None or target.kind == "void" else [(d.TYPE, d.REF_ADDR, target)]


def _encoding(kind: CType) -> int:
    if kind.kind == "bool":
        return d.BOOLEAN
    if kind.kind == "float":
        return d.FLOAT
    if kind.size == 1 and kind.name is not None and "char" in kind.name:
        return d.SIGNED_CHAR if kind.signed else d.UNSIGNED_CHAR
    return d.SIGNED if kind.signed else d.UNSIGNED
