"""Small things done with numpy columns: their types, runs of equal values, text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = [
    "I32",
    "I64",
    "U8",
    "U64",
    "Bools",
    "Bytes",
    "Struct",
    "blanked",
    "c_text",
    "counts",
    "decoded",
    "hex_text",
    "printable",
    "quotients",
    "runs",
]

Bools: TypeAlias = NDArray[np.bool_]
U8: TypeAlias = NDArray[np.uint8]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U64: TypeAlias = NDArray[np.uint64]
Bytes: TypeAlias = NDArray[np.bytes_]
#: A structured array (or one field of it, of whatever type the kernel has there).
Struct: TypeAlias = NDArray[Any]


def blanked(raw: U8, lost: Bools) -> U8:
    """The bytes of rows of equal size, with zeros in those that are lost: nobody shall believe half a row.

    :return: The array itself when no row is lost.
    """
    if not lost.any():
        return raw
    raw = raw.copy()
    raw.reshape(len(lost), -1)[lost] = 0
    return raw


def runs(values: NDArray[Any]) -> tuple[I64, I64]:
    """Runs of equal neighbours in a one-dimensional array.

    :return: Index of each run's first element, and each run's length (int64).
    """
    if not len(values):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    return starts, np.diff(np.append(starts, len(values)))


def counts(found: Bools, starts: I64) -> I64:
    """How many are true from each start to the next, and from the last one to the end (int64).

    :param starts: Ascending and distinct; the first is 0.
    """
    if not found.any():
        return np.zeros(len(starts), np.int64)
    if len(found) % 8 == 0 and not (starts & 7).any() and found.flags.c_contiguous:
        # Truth values are bytes of 0 and 1: eight at once.
        return np.add.reduceat(np.bitwise_count(found.view(np.uint64)), starts >> 3, dtype=np.int64)
    return np.add.reduceat(found, starts, dtype=np.int64)


def quotients(values: I64, divisor: int) -> tuple[I64, I64]:
    """``np.divmod()``, which takes ten times as long by the usual power of two."""
    if divisor & (divisor - 1):
        return np.divmod(values, divisor)
    return values >> (divisor.bit_length() - 1), values & (divisor - 1)


def printable(raw: bytes) -> str:
    """Text of a dump as text: UTF-8 where it is, and backslash escapes for all that is not printable."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def decoded(codes: pl.Series, decode: Callable[[Any], Any], dtype: pl.DataType) -> pl.Series:
    """A column made of another, ``decode`` being called once for each distinct value.

    :param dtype: The new column's type, such as ``pl.List(pl.String)``.
    """
    values = codes.unique()
    meanings = pl.Series([decode(value) for value in values.to_list()], dtype=dtype)
    table = pl.DataFrame({"code": values, "meaning": meanings})
    frame = pl.DataFrame({"code": codes})
    return frame.join(table, on="code", how="left", nulls_equal=True, maintain_order="left")["meaning"]


def hex_text(values: U64) -> pl.Series:
    """Numbers in lower-case hexadecimal without a prefix, as ``%lx`` prints them."""
    shifts = np.arange(60, -4, -4, dtype=np.uint64)
    digits = _DIGITS[((values[:, None] >> shifts) & np.uint64(15)).astype(np.uint8)]
    text = np.strings.lstrip(np.ascontiguousarray(digits).view("S16").reshape(-1), b"0")
    text[text == b""] = b"0"
    return pl.Series(text.tolist(), dtype=pl.Binary).cast(pl.String)


_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def c_text(*words: int | None) -> str | None:
    """The C string that lies in these little-endian 64-bit words, printable; None when one is None."""
    raw = bytearray()
    for word in words:
        if word is None:
            return None
        raw += word.to_bytes(8, "little")
    return printable(bytes(raw).split(b"\0", 1)[0])
