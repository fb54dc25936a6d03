"""Small things done with numpy columns: their types, runs of equal values, text."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["I32", "I64", "U8", "U64", "Bools", "Bytes", "Struct", "printable", "runs", "text_series"]

Bools: TypeAlias = NDArray[np.bool_]
U8: TypeAlias = NDArray[np.uint8]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U64: TypeAlias = NDArray[np.uint64]
Bytes: TypeAlias = NDArray[np.bytes_]
#: A structured array (or one field of it, of whatever type the kernel has there).
Struct: TypeAlias = NDArray[Any]


def runs(values: NDArray[Any]) -> tuple[I64, I64]:
    """Runs of equal neighbours in a one-dimensional array.

    :return: Index of each run's first element, and each run's length (int64).
    """
    if not len(values):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    return starts, np.diff(np.append(starts, len(values)))


def printable(raw: bytes) -> str:
    """Text of a dump as text: UTF-8 where it is, and backslash escapes for all that is not printable."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def text_series(raw: Bytes) -> pl.Series:
    """Fixed-size C strings (dtype ``S``) as a column of printable text, each distinct value decoded once.

    Neighbouring pages mostly have the same owner, so runs are condensed before values are compared.
    """
    starts, lengths = runs(raw)
    values, inverse = np.unique(raw[starts], return_inverse=True)
    texts = pl.Series([printable(bytes(value).split(b"\0", 1)[0]) for value in values], dtype=pl.String)
    return texts.gather(np.repeat(inverse, lengths))
