"""How DWARF 4 encodes things: its numbers, and its tables other than the entries."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

__all__ = ["NUMBERS", "Abbreviations", "arange", "line_table", "sleb", "uleb"]

#: Tags, attributes, forms and encodings by number (DWARF 4, section 7.5).
ARRAY_TYPE, ENUMERATION_TYPE, FORMAL_PARAMETER, COMPILE_UNIT = 0x01, 0x04, 0x05, 0x11
POINTER_TYPE, STRUCTURE_TYPE, SUBROUTINE_TYPE, TYPEDEF = 0x0F, 0x13, 0x15, 0x16
MEMBER, UNION_TYPE, UNSPECIFIED_PARAMETERS, SUBRANGE_TYPE = 0x0D, 0x17, 0x18, 0x21
BASE_TYPE, CONST_TYPE, ENUMERATOR, SUBPROGRAM, VARIABLE, VOLATILE_TYPE = 0x24, 0x26, 0x28, 0x2E, 0x34, 0x35

NAME, BYTE_SIZE, STMT_LIST, LOW_PC, HIGH_PC = 0x03, 0x0B, 0x10, 0x11, 0x12
BIT_SIZE, LANGUAGE, COMP_DIR, CONST_VALUE, PRODUCER = 0x0D, 0x13, 0x1B, 0x1C, 0x25
PROTOTYPED, COUNT, DATA_MEMBER_LOCATION, DECL_FILE = 0x27, 0x37, 0x38, 0x3A
DECLARATION, ENCODING, EXTERNAL, LOCATION, TYPE = 0x3C, 0x3E, 0x3F, 0x02, 0x49
DATA_BIT_OFFSET = 0x6B

ADDR, DATA8, SDATA, STRP, UDATA, REF_ADDR = 0x01, 0x07, 0x0D, 0x0E, 0x0F, 0x10
SEC_OFFSET, EXPRLOC, FLAG_PRESENT = 0x17, 0x18, 0x19

BOOLEAN, FLOAT, SIGNED, SIGNED_CHAR, UNSIGNED, UNSIGNED_CHAR = 0x02, 0x04, 0x05, 0x06, 0x07, 0x08
C99 = 0x0C
OP_ADDR = 0x03


def uleb(value: int) -> bytes:
    """An unsigned LEB128 number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def sleb(value: int) -> bytes:
    """A signed LEB128 number."""
    out = bytearray()
    while not -64 <= value < 64:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)


class Abbreviations:
    """``.debug_abbrev``: one table for all units. Called, it gives the code of a kind of entry."""

    def __init__(self) -> None:
        self._codes: dict[tuple[int, bool, tuple[tuple[int, int], ...]], bytes] = {}
        self._table = bytearray()

    def __call__(self, tag: int, children: bool, attributes: tuple[tuple[int, int], ...]) -> bytes:
        """The code of entries of a tag with these (attribute, form)."""
        key = (tag, children, attributes)
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = uleb(len(self._codes) + 1)
            self._table += code + uleb(tag) + bytes([children])
            for attribute, form in attributes:
                self._table += uleb(attribute) + uleb(form)
            self._table += b"\0\0"
        return code

    def __bytes__(self) -> bytes:
        return bytes(self._table + b"\0")


#: How to encode a number, by form.
NUMBERS = {
    ADDR: struct.Struct("<Q").pack,
    DATA8: struct.Struct("<Q").pack,
    SEC_OFFSET: struct.Struct("<I").pack,
    UDATA: uleb,
    SDATA: sleb,
}


def line_table(files: Mapping[str, int]) -> bytes:
    """A line number program of no lines, with the names of files in the order of their numbers."""
    tables = bytearray()
    # minimum_instruction_length, maximum_operations_per_instruction, default_is_stmt, line_base, line_range,
    # opcode_base, standard_opcode_lengths
    tables += struct.pack("<BBBbBB", 1, 1, 1, -5, 14, 13) + bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1])
    tables += b"\0"  # include_directories
    for name in sorted(files, key=files.__getitem__):
        tables += name.encode() + b"\0" + bytes(3)
    tables += b"\0"
    return struct.pack("<IHI", 6 + len(tables), 4, len(tables)) + tables


def arange(unit: int, ranges: Iterable[tuple[int, int]]) -> bytes:
    """The addresses of a unit."""
    rows = b"".join(struct.pack("<QQ", *each) for each in ranges) + bytes(16)
    # version, .debug_info offset, address size, segment selector size; padded to twice the address size.
    return struct.pack("<IHIBB4x", 12 + len(rows), 2, unit, 8, 0) + rows
