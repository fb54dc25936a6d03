"""C types with the layout that a 64-bit kernel's compiler gives them, and how to find one's way in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from mmdump_snapshots.kernels.preprocess import DeclarationError, Value, evaluate

__all__ = ["CType", "Content", "Member", "Types"]

#: What :meth:`Types.pack` writes: a number, bytes, or one for each element of an array.
Content: TypeAlias = "int | bytes | bytearray | Sequence[Content]"


@dataclass(eq=False, slots=True)
class CType:
    """A type. Two are the same if they are the same object.

    :ivar kind: ``int``, ``bool``, ``float``, ``enum``, ``struct``, ``union``, ``pointer``, ``array``,
        ``typedef``, ``void`` or ``function``; and ``const``, behind a parameter that is a pointer.
    :ivar name: ``unsigned long``, ``atomic_t``; for struct, union and enum the tag. None where there is none.
    :ivar size: Bytes; 0 where it is not known (``complete``), of a flexible array, of void and of functions.
    :ivar align: Bytes.
    :ivar members: Of a struct or union, in order; anonymous ones have no name.
    :ivar target: Of a pointer, array, typedef or const; what a function returns.
    :ivar length: Of an array; None for a flexible one.
    :ivar signed: Of an int or enum.
    :ivar enumerators: Of an enum.
    :ivar parameters: Of a function: (name or None, type).
    :ivar variadic: A function takes more than its parameters.
    :ivar complete: Whether a struct, union or enum has been defined.
    :ivar aligned: An alignment asked for by an attribute, 0 for none.
    """

    kind: str
    name: str | None = None
    size: int = 0
    align: int = 1
    members: tuple[Member, ...] = ()
    target: CType | None = None
    length: int | None = None
    signed: bool = False
    enumerators: dict[str, int] = field(default_factory=dict)
    parameters: tuple[tuple[str | None, CType], ...] = ()
    variadic: bool = False
    complete: bool = True
    aligned: int = 0

    @property
    def bare(self) -> CType:
        """The type behind typedefs."""
        kind = self
        while kind.kind == "typedef":
            assert kind.target is not None
            kind = kind.target
        return kind

    def __str__(self) -> str:
        if self.kind in {"struct", "union", "enum"}:
            return f"{self.kind} {self.name or '<anonymous>'}"
        if self.kind == "pointer":
            return f"{self.target} *"
        if self.kind == "const":
            return f"const {self.target}"
        if self.kind == "array":
            return f"{self.target}[{'' if self.length is None else self.length}]"
        return self.name or self.kind

    def __repr__(self) -> str:
        return f"<CType {self}, {self.size} bytes>"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union, or what a path of members leads to.

    :ivar name: None for an anonymous struct or union, and for what a path leads to.
    :ivar offset: Bytes from the start of what was asked.
    :ivar bit_offset: Of a bit field, from the least significant bit of the byte at ``offset``, 0 to 7.
    :ivar bit_size: Of a bit field; 0 for anything else.
    """

    name: str | None
    type: CType
    offset: int
    bit_offset: int = 0
    bit_size: int = 0


_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]")


class Types:
    """The types of a kernel, by name.

    :param named: ``struct page``, ``enum pageflags``, ``atomic_t``, ``unsigned long``: everything with a
        name, in order of declaration.
    :param enumerators: All enumerators, those of enums without a tag too.
    :param anonymous: Enums without a tag that are declared on their own.
    :param macros: ``#define`` by name.
    """

    def __init__(
        self,
        named: dict[str, CType],
        enumerators: dict[str, int],
        anonymous: tuple[CType, ...] = (),
        macros: Mapping[str, str] | None = None,
    ) -> None:
        self.named = named
        self.all_enumerators = enumerators
        self.anonymous = anonymous
        self.macros = macros or {}
        self._derived: dict[str, CType] = {}

    def __contains__(self, name: str) -> bool:
        """Whether a type is defined; one that is only mentioned does not count."""
        return name in self.named and _defined(self.named[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.named)

    def __getitem__(self, name: str) -> CType:
        """A type by its name, which may end in ``*`` or ``[N]``.

        :raises KeyError: There is none.
        """
        if name in self.named:
            return self.named[name]
        if name in self._derived:
            return self._derived[name]
        if name.endswith("*"):
            made = CType("pointer", None, 8, 8, target=self[name[:-1].rstrip()])
        elif array := re.fullmatch(r"(.*\S)\s*\[(\d+)\]", name):
            target, length = self[array[1]], int(array[2])
            made = CType("array", None, target.size * length, target.align, target=target, length=length)
        else:
            raise KeyError(name)
        self._derived[name] = made
        return made

    def _type(self, kind: str | CType) -> CType:
        return self[kind] if isinstance(kind, str) else kind

    def sizeof(self, kind: str | CType) -> int:
        """Bytes. :raises KeyError: There is no such type."""
        return self._type(kind).size

    def member(self, kind: str | CType, path: str) -> Member:
        """Where a path of members leads: ``free_area[3].nr_free``, through anonymous members too.

        :raises LookupError: It leads nowhere.
        """
        here = Member(None, self._type(kind), 0)
        position = 0
        while position < len(path):
            step = _STEP.match(path, position)
            if step is None:
                raise LookupError(f"{path!r} is no path of members")
            position = step.end()
            found = _named(here.type, step[1]) if step[1] else _element(here.type, int(step[2]))
            if found is None:
                raise LookupError(f"{kind} has no {path}: no {step[0].lstrip('.')} in {here.type}")
            here = Member(None, found.type, here.offset + found.offset, found.bit_offset, found.bit_size)
        return here

    def offset(self, kind: str | CType, path: str) -> int:
        """The offset of a member in bytes, as :meth:`member`."""
        return self.member(kind, path).offset

    def has(self, kind: str | CType, path: str = "") -> bool:
        """Whether there is such a type, defined, with such a member."""
        try:
            self.member(kind, path)
        except LookupError:
            return False
        return _defined(self._type(kind))

    def enumerators(self, name: str) -> dict[str, int]:
        """The enumerators of an enum. :raises KeyError: There is no such enum."""
        found = self[name].bare
        if found.kind != "enum":
            raise KeyError(name)
        return found.enumerators

    def constant(self, name: str) -> int:
        """The value of an enumerator or of a ``#define``.

        :raises KeyError: There is neither, or it is not a number.
        """
        if name in self.all_enumerators:
            return self.all_enumerators[name]
        try:
            value = evaluate(self.macros[name], self._constant)
        except DeclarationError:
            raise KeyError(name) from None
        if not isinstance(value, int):
            raise KeyError(name)
        return value

    def _constant(self, name: str) -> Value:
        return self.constant(name)

    def dtype(self, kind: str | CType, columns: Mapping[str, str] | Sequence[str]) -> np.dtype[np.void]:
        """A numpy dtype of an array of this type with the given members at their places.

        :param columns: Path of members by column name; or paths, that are the names too.
        :return: A structured dtype whose itemsize is the type's size: integers (``<i4``, ``<u8``; pointers
            are ``<u8``), subarrays for arrays of them, ``V<n>`` for structs.
        :raises LookupError: There is no such member.
        :raises ValueError: One is a bit field.
        """
        named = columns if isinstance(columns, Mapping) else {path: path for path in columns}
        whole = self._type(kind)
        formats, offsets = [], []
        for path in named.values():
            member = self.member(whole, path)
            if member.bit_size:
                raise ValueError(f"{kind}.{path} is a bit field")
            formats.append(_format(member.type))
            offsets.append(member.offset)
        return np.dtype(
            {"names": list(named), "formats": formats, "offsets": offsets, "itemsize": whole.size}
        )

    def pack(
        self,
        kind: str | CType,
        values: Mapping[str, Content],
        into: bytearray | memoryview | None = None,
        at: int = 0,
    ) -> bytearray | memoryview:
        """An object of a type as bytes, zero but for the given members.

        :param values: Contents by path of members. Integers wrap as in C. Bytes go into an array or a struct
            as they are; a sequence gives the elements of an array.
        :param into: What to write to instead of a new bytearray, from offset ``at``; what is not named stays.
        :raises LookupError: There is no such member.
        :raises ValueError: A content does not fit its member.
        """
        whole = self._type(kind)
        buffer = bytearray(whole.size) if into is None else into
        for path, content in values.items():
            member = self.member(whole, path)
            try:
                _put(buffer, at + member.offset, member, content)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{kind}.{path}: {error}") from None
        return buffer


def _defined(kind: CType) -> bool:
    return kind.bare.complete or kind.bare.kind not in {"struct", "union", "enum"}


def _named(kind: CType, name: str) -> Member | None:
    for member in kind.bare.members:
        if member.name == name:
            return member
        if member.name is None and (inner := _named(member.type, name)):
            return Member(name, inner.type, member.offset + inner.offset, inner.bit_offset, inner.bit_size)
    return None


def _element(kind: CType, index: int) -> Member | None:
    array = kind.bare
    if array.kind != "array" or array.target is None or (array.length is not None and index >= array.length):
        return None
    return Member(None, array.target, index * array.target.size)


def _format(kind: CType) -> object:
    bare = kind.bare
    if bare.kind == "array":
        assert bare.target is not None
        return (_format(bare.target), (bare.length or 0,))
    if bare.kind in {"int", "enum"} and bare.size <= 8:
        return f"<{'i' if bare.signed else 'u'}{bare.size}"
    return {"pointer": "<u8", "bool": "?"}.get(bare.kind, f"V{bare.size}")


def _put(buffer: bytearray | memoryview, at: int, member: Member, content: Content) -> None:
    bare = member.type.bare
    if isinstance(content, bytes | bytearray):
        if len(content) > bare.size and not (bare.kind == "array" and bare.length is None):
            raise ValueError(f"{len(content)} bytes do not fit into {bare.size}")
        _store(buffer, at, bytes(content))
    elif isinstance(content, Sequence):
        if (
            bare.kind != "array"
            or bare.target is None
            or (bare.length is not None and len(content) > bare.length)
        ):
            raise ValueError(f"{len(content)} elements do not fit into {member.type}")
        for index, each in enumerate(content):
            _put(buffer, at + index * bare.target.size, Member(None, bare.target, 0), each)
    elif member.bit_size:
        size = (member.bit_offset + member.bit_size + 7) // 8
        mask = ((1 << member.bit_size) - 1) << member.bit_offset
        word = int.from_bytes(buffer[at : at + size], "little") & ~mask
        _store(buffer, at, (word | (int(content) << member.bit_offset & mask)).to_bytes(size, "little"))
    else:
        while bare.kind in {"struct", "union"} and bare.members:
            # atomic_t and the like: their first member, wherever it is as large as they are.
            first = bare.members[0].type.bare
            if first.size != bare.size:
                break
            bare = first
        if bare.kind not in {"int", "bool", "enum", "pointer"}:
            raise ValueError(f"a number does not fit into {member.type}")
        value = int(content) & ((1 << 8 * bare.size) - 1)
        _store(buffer, at, value.to_bytes(bare.size, "little"))


def _store(buffer: bytearray | memoryview, at: int, content: bytes) -> None:
    if at + len(content) > len(buffer):
        raise ValueError("beyond the end")
    buffer[at : at + len(content)] = content
