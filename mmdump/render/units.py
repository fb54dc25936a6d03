"""Numbers with a unit in conditions: columns hold bytes and nanoseconds, people think in MiB and seconds."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

from mmdump.result import Kind

__all__ = ["UNITS", "UNITS_HINT", "with_unit"]

_SECOND = 10**9
#: What one of each is: bytes, or nanoseconds.
UNITS = {
    "B": (1, Kind.BYTES),
    **{f"{prefix}iB": (1 << 10 * power, Kind.BYTES) for power, prefix in enumerate("KMGT", 1)},
    "ns": (1, Kind.NSEC),
    "us": (10**3, Kind.NSEC),
    "ms": (10**6, Kind.NSEC),
    "s": (_SECOND, Kind.NSEC),
    "m": (60 * _SECOND, Kind.NSEC),
    "h": (3600 * _SECOND, Kind.NSEC),
    "d": (86400 * _SECOND, Kind.NSEC),
}
UNITS_HINT = f"Units of numbers: {', '.join(UNITS)}."
_WITH_UNIT = re.compile(rf"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)({'|'.join(UNITS)})", re.ASCII)


class Measured(NamedTuple):
    """So many bytes or nanoseconds.

    :param value: 2**64 for whatever is more.
    """

    value: int
    kind: Kind


def with_unit(word: str) -> Measured | None:
    """What a decimal number with one of :data:`UNITS` right behind it says, rounded; None if it is none."""
    found = _WITH_UNIT.fullmatch(word)
    if found is None:
        return None
    number, (one, kind) = found[1], UNITS[found[2]]
    if float(number) * one >= 2**64:
        return Measured(2**64, kind)
    # Decimals are exact, but their exponents have bounds of their own.
    exact = "e" not in number.lower() and len(number) <= 40
    return Measured(round(Decimal(number) * one if exact else float(number) * one), kind)
