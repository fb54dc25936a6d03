"""What print formats name of the kernel: types, constants, variables and strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import FaultError, TypeKind, sizeof

from mmdump.kernel.layout import byteorder, find_object
from mmdump_trace.arithmetic import CType
from mmdump_trace.memory import bytes_at

if TYPE_CHECKING:
    from drgn import Program, Type

    from mmdump.kernel import Kernel

__all__ = ["KernelNames"]

#: Of a string in the kernel that an event points to.
_MOST_STRING = 512


class KernelNames:
    """The names of one kernel; each is looked up once."""

    def __init__(self, kernel: Kernel) -> None:
        self._prog: Program = kernel.target.prog
        self._reader = kernel.target.reader
        self._types: dict[str, CType | None] = {}
        self._values: dict[str, tuple[int, CType] | None] = {}
        self._strings: dict[int, str | None] = {}

    @property
    def little(self) -> bool:
        """Whether the machine is little-endian."""
        return byteorder(self._prog) == "<"

    def type_of(self, words: str) -> CType | None:
        """A type by its name in C."""
        if words not in self._types:
            self._types[words] = self._type_of(words)
        return self._types[words]

    def _type_of(self, words: str) -> CType | None:
        try:
            return _described(self._prog.type(words))
        except (LookupError, SyntaxError, ValueError, TypeError):
            pass
        if words.endswith("*"):
            # To something that the debug info knows only by name.
            return CType(8, False, 1 if words.replace("const", "").split()[0] == "void" else None)
        return None

    def value_of(self, name: str) -> tuple[int, CType] | None:
        """A constant, or what a variable holds in the dump."""
        if name not in self._values:
            self._values[name] = self._value_of(name)
        return self._values[name]

    def _value_of(self, name: str) -> tuple[int, CType] | None:
        found = find_object(self._prog, name)
        if found is None:
            return None
        kind = _described(found.type_)
        try:
            return None if kind is None else (int(found.value_()), kind)
        except (FaultError, TypeError, ValueError):
            return None

    def string_at(self, address: int) -> str | None:
        """A string that an event points to, each character a byte of it."""
        if address not in self._strings:
            raw = bytes_at(self._reader, address, _MOST_STRING)
            self._strings[address] = None if raw is None else raw.decode("latin-1")
        return self._strings[address]


def _described(kind: Type) -> CType | None:
    real = kind.unaliased()
    if real.kind == TypeKind.POINTER:
        to = real.type.unaliased()
        if to.kind in (TypeKind.VOID, TypeKind.FUNCTION):
            return CType(8, False, 1)
        return CType(real.size or 8, False, sizeof(to) if to.is_complete() else None)
    if real.kind == TypeKind.ENUM and real.type is not None:
        real = real.type.unaliased()
    if real.kind in (TypeKind.INT, TypeKind.BOOL) and real.size:
        return CType(real.size, real.kind == TypeKind.INT and bool(real.is_signed))
    if real.kind in (TypeKind.STRUCT, TypeKind.UNION) and real.size:
        # For its size alone: no value of it is ever cast.
        return CType(real.size, False, None)
    return None
