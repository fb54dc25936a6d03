"""C's arithmetic: types, the usual conversions, and what operators come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmdump_trace.printf import UnprintableError, wrapped

__all__ = ["INT", "LONG", "ULONG", "CType", "common", "operation", "promoted"]


@dataclass(frozen=True)
class CType:
    """A type of C, so far as arithmetic goes.

    :param pointee: Bytes of what a pointer points to; 0 for what is no pointer, None where it is not known.
    """

    size: int
    signed: bool
    pointee: int | None = 0


INT, LONG, ULONG = CType(4, True), CType(8, True), CType(8, False)


def promoted(kind: CType) -> CType:
    """The type that a value of this one has in arithmetic."""
    return kind if kind.size >= 4 else INT


def common(one: CType, other: CType) -> CType:
    """The usual arithmetic conversions."""
    if one.pointee != 0 or other.pointee != 0:
        return one if one.pointee != 0 else other
    one, other = promoted(one), promoted(other)
    if one.size == other.size:
        return one if not one.signed else other
    return one if one.size > other.size else other


def operation(sign: str, one: CType, other: CType) -> tuple[CType, Callable[[int, int], int]]:
    """The type of ``one sign other``, and how it is computed."""
    if sign in ("&&", "||"):
        if sign == "&&":
            return INT, lambda a, b: int(bool(a) and bool(b))
        return INT, lambda a, b: int(bool(a) or bool(b))
    if sign in ("<<", ">>"):
        kind = promoted(one)
        size, signed, most = kind.size, kind.signed, 8 * kind.size - 1
        if sign == "<<":
            return kind, lambda a, b: wrapped(a << (b & most), size, signed)
        return kind, lambda a, b: a >> (b & most)
    kind = common(one, other)
    size, signed = kind.size, kind.signed
    if sign in _COMPARISONS:
        compare = _COMPARISONS[sign]
        return INT, lambda a, b: int(compare(wrapped(a, size, signed), wrapped(b, size, signed)))
    scale = _scale(sign, one, other)
    work = _ARITHMETIC[sign]
    if scale == (1, 1, 1):
        return kind, lambda a, b: wrapped(
            work(wrapped(a, size, signed), wrapped(b, size, signed)), size, signed
        )
    left, right, down = scale
    if down != 1:
        return LONG, lambda a, b: wrapped(a - b, 8, True) // down
    return kind, lambda a, b: wrapped(work(a * left, b * right), size, signed)


def _scale(sign: str, one: CType, other: CType) -> tuple[int, int, int]:
    """By what to multiply either side, and to divide the result, as pointers count in what they point to."""
    if one.pointee == 0 and other.pointee == 0:
        return 1, 1, 1
    if sign not in "+-" or None in (one.pointee, other.pointee):
        raise UnprintableError("arithmetic with pointers to something unknown")
    if one.pointee and other.pointee:
        return 1, 1, one.pointee
    return (1, one.pointee, 1) if one.pointee else (other.pointee or 1, 1, 1)


def _quotient(a: int, b: int) -> int:
    whole = abs(a) // abs(b)
    return whole if (a < 0) == (b < 0) else -whole


_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _quotient,
    "%": lambda a, b: a - _quotient(a, b) * b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
}
