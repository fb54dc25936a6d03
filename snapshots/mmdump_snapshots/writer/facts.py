"""What the containers need to know of a kernel's types, and the numbers that follow from them."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["TypeFacts", "constant", "mapcount_value", "offset_of", "size_of"]

#: Bits of page types while they were macros (4.18 to 6.9); enumerators since then.
PAGE_TYPE_BITS = {"buddy": 0x80, "offline": 0x100, "hugetlb": 0x800, "slab": 0x1000}
#: The first release whose kernels have the type.
PAGE_TYPE_SINCE = {"buddy": (4, 18), "offline": (5, 2), "hugetlb": (6, 9), "slab": (6, 10)}
#: PAGE_BUDDY_MAPCOUNT_VALUE before there were page types.
OLD_BUDDY = -128


class TypeFacts(Protocol):
    """A profile's types. What does not exist raises LookupError (``has`` answers False)."""

    def sizeof(self, name: str, /) -> int:
        """Bytes of a type."""

    def member(self, name: str, path: str, /) -> Any:
        """A member, ``offset`` among its attributes, in bytes."""

    def has(self, name: str, path: str, /) -> bool:
        """Whether a type has a member."""

    def constant(self, name: str, /) -> int:
        """The value of an enumerator or macro."""


def offset_of(types: TypeFacts, name: str, path: str) -> int | None:
    """``offsetof()``, or ``None`` when there is no such type or member."""
    try:
        return int(types.member(name, path).offset) if types.has(name, path) else None
    except LookupError:
        return None


def size_of(types: TypeFacts, name: str) -> int | None:
    """``sizeof()``, or ``None`` when there is no such type."""
    try:
        return types.sizeof(name)
    except LookupError:
        return None


def constant(types: TypeFacts, name: str) -> int | None:
    """A constant, or ``None`` when there is none of that name."""
    try:
        return types.constant(name)
    except LookupError:
        return None


def mapcount_value(types: TypeFacts, version: tuple[int, int], name: str) -> int | None:
    """What ``_mapcount`` is, as an int, in a page of a type: PAGE_BUDDY_MAPCOUNT_VALUE and the like.

    :param name: ``"buddy"``, ``"offline"``, ``"hugetlb"`` or ``"slab"``.
    :return: ``None`` when the kernel has no such page type.
    """
    number = constant(types, f"PGTY_{name}")
    if number is not None:
        return (number << 24) - (1 << 32)
    if version < PAGE_TYPE_SINCE[name]:
        return OLD_BUDDY if name == "buddy" else None
    # PG_hugetlb was also a flag of the first tail (6.6 to 6.8), PG_slab a page flag: bit numbers, not masks.
    mask = constant(types, f"PG_{name}") if version >= (6, 10) else None
    return ~(PAGE_TYPE_BITS[name] if mask is None else mask)
