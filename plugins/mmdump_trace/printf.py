"""The kernel's ``printf`` (lib/vsprintf.c: vsnprintf), as far as trace events use it.

A format is taken apart once; each conversion becomes a function from values to text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Conversion", "PointerWords", "UnprintableError", "parse_format", "wrapped"]

#: The widest field that is printed; a width from a dump may be anything. FIELD_WIDTH_MAX is no better.
_MOST_WIDTH = 1024
_CONVERSION = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+|))?"
    r"(?P<length>hh|ll|[hlLzjt])?(?P<kind>[diuxXocsp%])(?P<pointer>(?<=p)[a-zA-Z]*)?"
)
_SIZES = {"hh": 1, "h": 2, "": 4, "l": 8, "ll": 8, "L": 8, "z": 8, "j": 8, "t": 8}


class UnprintableError(Exception):
    """A format or an expression that is not understood, or is too much: the event is shown by its fields."""


@dataclass(frozen=True)
class PointerWords:
    """How pointers become text.

    :param hashed: ``%p``.
    :param symbol: ``%pS``: name, offset and size.
    :param name: ``%ps``: the name alone.
    """

    hashed: Callable[[int], str]
    symbol: Callable[[int], str]
    name: Callable[[int], str]


@dataclass(frozen=True)
class Conversion:
    """A part of a format: text that stands for itself, or a conversion of some values.

    :param stars: How many values give its width and precision, before the value itself.
    :param wants: ``int``, ``text`` or ``pointer``; None for text that stands for itself.
    """

    text: str
    stars: int
    wants: str | None
    convert: Callable[[list[Any]], str]


def wrapped(value: int, size: int, signed: bool) -> int:
    """A number as a C integer of so many bytes."""
    bits = 8 * size
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def parse_format(text: str, words: PointerWords) -> list[Conversion]:
    """Take a format apart.

    :raises UnprintableError: It has a conversion that is not known here.
    """
    parts: list[Conversion] = []
    position = 0
    while position < len(text):
        percent = text.find("%", position)
        if percent < 0:
            percent = len(text)
        if percent > position:
            parts.append(_literal(text[position:percent]))
        if percent == len(text):
            break
        found = _CONVERSION.match(text, percent)
        if found is None:
            raise UnprintableError(f"conversion {text[percent : percent + 4]!r}")
        position = found.end()
        if found["kind"] == "%":
            parts.append(_literal("%"))
        elif found["kind"] == "p":
            # What follows %p may be text that only looks like its modifier: those end at the first that is
            # not.
            known, rest = _pointer_kind(found["pointer"] or "")
            position -= len(rest)
            parts.append(_pointer(found, known, words))
        else:
            parts.append(_plain(found))
    return parts


def _literal(text: str) -> Conversion:
    return Conversion(text, 0, None, lambda _: text)


def _pointer_kind(letters: str) -> tuple[str, str]:
    if not letters:
        return "", ""
    # kptr_restrict is 0 but where somebody set it: %pK is %p. Before 5.x %pF was %pS.
    kinds = {"x": "x", "S": "S", "s": "s", "F": "S", "f": "s", "B": "S", "K": ""}
    if letters[0] not in kinds or letters[:2] in ("SR", "sr", "BR"):
        raise UnprintableError(f"conversion %p{letters}")
    return kinds[letters[0]], letters[1:]


def _plain(found: re.Match[str]) -> Conversion:
    flags, kind = found["flags"], found["kind"]
    size = _SIZES[found["length"] or ""]
    width, precision = found["width"], found["precision"]
    stars = (width == "*") + (precision == "*")

    def measures(values: list[Any]) -> tuple[int, int | None, bool]:
        taken = iter(values)
        wide = int(next(taken)) if width == "*" else int(width or 0)
        exact = int(next(taken)) if precision == "*" else None if precision is None else int(precision or 0)
        left = "-" in flags or wide < 0
        return min(abs(wide), _MOST_WIDTH), None if exact is None else max(0, min(exact, _MOST_WIDTH)), left

    if kind == "s":

        def text(values: list[Any]) -> str:
            wide, exact, left = measures(values)
            word = str(values[-1])[:exact]
            return word.ljust(wide) if left else word.rjust(wide)

        return Conversion(found[0], stars, "text", text)
    if kind == "c":

        def character(values: list[Any]) -> str:
            wide, _, left = measures(values)
            word = chr(int(values[-1]) & 0xFF)
            return word.ljust(wide) if left else word.rjust(wide)

        return Conversion(found[0], stars, "int", character)

    if not stars and not flags and not width and precision is None:
        return Conversion(found[0], 0, "int", _SIMPLE[kind](size))

    def number(values: list[Any]) -> str:
        wide, exact, left = measures(values)
        return _number(int(values[-1]), kind, size, flags, wide, exact, left)

    return Conversion(found[0], stars, "int", number)


def _decimal(size: int) -> Callable[[list[Any]], str]:
    return lambda values: str(wrapped(values[-1], size, True))


def _unsigned(size: int) -> Callable[[list[Any]], str]:
    mask = (1 << 8 * size) - 1
    return lambda values: str(values[-1] & mask)


def _hex(size: int) -> Callable[[list[Any]], str]:
    mask = (1 << 8 * size) - 1
    return lambda values: f"{values[-1] & mask:x}"


_SIMPLE: dict[str, Callable[[int], Callable[[list[Any]], str]]] = {
    "d": _decimal,
    "i": _decimal,
    "u": _unsigned,
    "x": _hex,
    "X": lambda size: lambda values: f"{values[-1] & ((1 << 8 * size) - 1):X}",
    "o": lambda size: lambda values: f"{values[-1] & ((1 << 8 * size) - 1):o}",
}


def _number(
    value: int, kind: str, size: int, flags: str, width: int, precision: int | None, left: bool
) -> str:
    """``number()`` of lib/vsprintf.c."""
    value = wrapped(value, size, kind in "di")
    digits = format(abs(value), {"d": "d", "i": "d", "u": "d", "x": "x", "X": "X", "o": "o"}[kind])
    sign = "-" if value < 0 else "+" if "+" in flags and kind in "di" else " " if " " in flags else ""
    if kind not in "di" and sign == " ":
        sign = ""
    prefix = ""
    if "#" in flags and kind in "xXo":
        # The kernel writes 0x before a zero, too.
        prefix = {"x": "0x", "X": "0X", "o": "0" if value else ""}[kind]
    if precision is not None:
        digits = digits.rjust(precision, "0")
    elif "0" in flags and not left:
        digits = digits.rjust(width - len(sign) - len(prefix), "0")
    text = sign + prefix + digits
    return text.ljust(width) if left else text.rjust(width)


def _pointer(found: re.Match[str], kind: str, words: PointerWords) -> Conversion:
    if found["width"] == "*" or found["precision"] is not None:
        raise UnprintableError(f"conversion {found[0]}")
    width = min(int(found["width"] or 0), _MOST_WIDTH)
    left = "-" in found["flags"]
    convert = {
        "": words.hashed,
        "x": lambda value: f"{value:016x}",
        "S": words.symbol,
        "s": words.name,
    }[kind]

    def text(values: list[Any]) -> str:
        word = convert(int(values[-1]) & 0xFFFFFFFFFFFFFFFF)
        return word.ljust(width) if left else word.rjust(width)

    return Conversion(found[0], 0, "pointer", text)
