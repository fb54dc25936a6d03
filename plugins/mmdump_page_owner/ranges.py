"""Numbers, times and PFNs as options give them: lists and ranges, each an inclusive pair."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mmdump.errors import UsageError

__all__ = ["MOST", "Range", "ages", "moment", "numbers", "pfn_ranges", "words"]

#: First and last value.
Range = tuple[int, int]
#: The largest value of a column of 64 bits.
MOST = (1 << 64) - 1

_UNITS = {"": 1, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "m": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(|s|ms|us|ns|m|h|d)", re.ASCII)


def words(given: Iterable[str]) -> Iterator[str]:
    """The words of comma-separated lists."""
    for each in given:
        yield from (word.strip() for word in each.split(","))


def numbers(flag: str, given: Iterable[str]) -> tuple[Range, ...]:
    """Whole numbers, comma-separated, decimal or 0x, such as PIDs or orders."""
    return tuple((value, value) for value in (_number(flag, word) for word in words(given)))


def pfn_ranges(flag: str, given: Iterable[str]) -> tuple[Range, ...]:
    """PFNs and ranges ``START-END`` of them, both ends included."""
    found = []
    for word in words(given):
        first, dash, last = word.partition("-")
        low = _number(flag, first)
        high = _number(flag, last) if dash else low
        if high < low:
            raise UsageError(f"{flag} {word}: the range ends before it begins.")
        found.append((low, high))
    return tuple(found)


def ages(flag: str, text: str, now: int) -> Range:
    """Timestamps of what is as old as ``MIN`` at least, or from ``MIN`` to ``MAX`` (``MIN-MAX``).

    :param now: The time ages are counted from, nanoseconds.
    """
    least, dash, most = text.partition("-")
    newest = now - _nsec(flag, least) if least else MOST
    oldest = now - _nsec(flag, most) if dash and most else min(newest, 0)
    if newest < oldest:
        raise UsageError(f"{flag} {text}: the range ends before it begins.")
    if newest < 0:
        # Nothing is older than the machine's uptime: a range that holds nothing.
        return 1, 0
    return max(oldest, 0), newest


def moment(flag: str, text: str, now: int) -> int:
    """A point in time: so long before the dump, or ``@SECONDS`` of the kernel's clock as dmesg prints it."""
    if text.startswith("@"):
        return _nsec(flag, text[1:])
    return now - _nsec(flag, text)


def _number(flag: str, word: str) -> int:
    try:
        value = int(word, 16 if word[:2] in ("0x", "0X") else 10)
    except ValueError:
        value = -1
    if not 0 <= value <= MOST or not word.isascii() or "_" in word:
        raise UsageError(f"{flag} {word or repr(word)}: this is no number.")
    return value


def _nsec(flag: str, text: str) -> int:
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{flag} {text or repr(text)}: this is no time.", "Such as 90, 1.5h, 10m or 2d.")
    return min(round(float(found[1]) * _UNITS[found[2]] * 1e9), MOST)
