"""Amounts in sentences and tables: sizes in their unit, things in their number, times in seconds."""

from __future__ import annotations

__all__ = ["agreeing", "bytes_text", "counted", "nsec_text"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def bytes_text(size: int) -> str:
    """A size in the largest unit that it fills: exact when that is a whole number, else to one decimal."""
    size = int(size)  # numpy's have no bit_length()
    if size < 0:
        return f"-{bytes_text(-size)}"
    power = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    unit = 1 << 10 * power
    if size % unit == 0:
        return f"{size // unit} {_UNITS[power]}"
    tenths = (size * 10 + unit // 2) // unit
    if tenths >= 10240 and power + 1 < len(_UNITS):
        return f"1.0 {_UNITS[power + 1]}"
    return f"{tenths // 10}.{tenths % 10} {_UNITS[power]}"


def agreeing(number: int, one: str, more: str) -> str:
    """The word that goes with so many of something: ``is`` or ``are``."""
    return one if number == 1 else more


def counted(number: int, one: str, more: str | None = None) -> str:
    """So many of something: ``1 page``, ``2 pages``.

    :param one: What one is called.
    :param more: What several are called, where that is not ``one`` with an s.
    """
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def nsec_text(nsec: int) -> str:
    """Nanoseconds as seconds, rounded to microseconds as the trace is (kernel/trace/trace.h, ns2usecs())."""
    sign = "-" if nsec < 0 else ""
    seconds, micro = divmod((abs(nsec) + 500) // 1000, 10**6)
    return f"{sign}{seconds}.{micro:06d} s"
