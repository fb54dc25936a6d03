"""From the kernel's types, as its debug info describes them, to numpy dtypes.

What a scan needs of a structure is computed here once, as plain data; reading then needs no debug info.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from drgn import PlatformFlags, TypeKind, offsetof, sizeof

from mmdump.errors import UnsupportedError
from mmdump.kernel.arrays import printable

if TYPE_CHECKING:
    from drgn import Object, Program, Type

__all__ = [
    "byteorder",
    "c_string",
    "enumerators",
    "find_object",
    "find_type",
    "has_member",
    "member_dtype",
    "member_type",
    "struct_dtype",
]


def byteorder(prog: Program) -> str:
    """The byte order of the dump as numpy writes it: ``"<"`` or ``">"``."""
    assert prog.platform is not None
    return "<" if prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">"


def find_type(prog: Program, name: str) -> Type | None:
    """The type of that name (such as ``struct page_owner``), or None where this kernel has none."""
    try:
        return prog.type(name)
    except (LookupError, SyntaxError):
        return None


def find_object(prog: Program, name: str, file: str | None = None) -> Object | None:
    """The variable or constant of that name, or None.

    :param file: The source file, for static variables whose name is not unique.
    """
    try:
        return prog.object(name, filename=file) if file else prog[name]
    except LookupError:
        return None


def enumerators(prog: Program, name: str) -> dict[str, int]:
    """The enumerators of an enum type by name; empty where this kernel has no such type."""
    found = find_type(prog, name)
    if found is None or found.kind != TypeKind.ENUM or found.enumerators is None:
        return {}
    return {each.name: each.value for each in found.enumerators}


def member_type(struct: Type, path: str) -> Type | None:
    """The type of a member, given by a dotted path, or None where there is no such member."""
    current = struct
    for name in path.split("."):
        current = current.unaliased()
        if current.kind not in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS) or not current.has_member(
            name
        ):
            return None
        current = current.member(name).type
    return current


def has_member(struct: Type | None, path: str) -> bool:
    """Whether a structure has a member of that dotted path."""
    return struct is not None and member_type(struct, path) is not None


def member_dtype(member: Type, order: str) -> np.dtype[np.generic]:
    """The numpy dtype of a scalar, pointer or char array member; single-member structs are looked through.

    ``atomic_t``, ``atomic_long_t``, ``refcount_t`` and ``memdesc_flags_t`` are such single-member structs.

    :param order: ``"<"`` or ``">"``.
    :raises UnsupportedError: It is none of these.
    """
    real = member.unaliased()
    while real.kind in (TypeKind.STRUCT, TypeKind.UNION) and real.members:
        if len(real.members) > 1 and real.kind == TypeKind.STRUCT:
            break
        real = real.members[0].type.unaliased()
    if real.kind == TypeKind.ARRAY:
        element = real.type.unaliased()
        if element.kind == TypeKind.INT and element.size == 1 and real.length:
            return np.dtype(f"S{real.length}")
    if real.kind == TypeKind.POINTER:
        return np.dtype(f"{order}u{real.size}")
    if real.kind == TypeKind.ENUM and real.type is not None:
        real = real.type.unaliased()
    if real.kind in (TypeKind.INT, TypeKind.BOOL) and real.size in (1, 2, 4, 8):
        signed = real.kind == TypeKind.INT and real.is_signed
        return np.dtype(f"{order}{'i' if signed else 'u'}{real.size}")
    raise UnsupportedError(f"a member of type {member.type_name()} cannot be read as a column")


def struct_dtype(
    prog: Program,
    struct: Type,
    members: Mapping[str, Sequence[str]],
    *,
    itemsize: int | None = None,
    base: int = 0,
    optional: Sequence[str] = (),
) -> np.dtype[np.void]:
    """A structured dtype of chosen members, at their real offsets.

    :param members: Column name -> the member's dotted path, newest name first, then its older names.
    :param itemsize: The stride of the array in bytes; the size of the structure by default.
    :param base: Offset of the structure in each item, in bytes.
    :param optional: Columns that are left out where the structure has none of their members.
    :raises UnsupportedError: A column that is not optional has no member.
    """
    order = byteorder(prog)
    names: list[str] = []
    formats: list[np.dtype[np.generic]] = []
    offsets: list[int] = []
    for column, paths in members.items():
        for path in paths:
            found = member_type(struct, path)
            if found is not None:
                names.append(column)
                formats.append(member_dtype(found, order))
                offsets.append(base + offsetof(struct, path))
                break
        else:
            if column not in optional:
                raise UnsupportedError(
                    f"{struct.type_name()} of this kernel has no member {' or '.join(paths)}",
                    "mmdump does not know this form of the structure yet.",
                )
    return np.dtype(
        {
            "names": names,
            "formats": formats,
            "offsets": offsets,
            "itemsize": sizeof(struct) if itemsize is None else itemsize,
        }
    )


def c_string(pointer: Object, limit: int = 64) -> str:
    """The string a ``char *`` or ``char []`` of the dump holds, printable, of at most ``limit`` bytes.

    :raises drgn.FaultError: It is not in the dump.
    """
    if pointer.type_.unaliased().kind == TypeKind.POINTER:
        return printable(pointer.prog_.read_c_string(pointer.value_(), max_size=limit))
    return printable(pointer.string_()[:limit])
