"""Frames as other programs read them: addresses as hexadecimal text, lists as one field. Vectorised."""

from __future__ import annotations

from functools import cache

import polars as pl

from mmdump.result import Kind, Schema

__all__ = ["hex_addresses", "joined_lists"]


def hex_addresses(schema: Schema, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the columns of addresses as ``0x...`` text.

    As numbers they exceed 2**53, up to which every JSON reader is exact.
    """
    columns = []
    for column in schema.columns:
        dtype = frame.schema[column.name]
        if column.kind is not Kind.ADDRESS:
            continue
        if isinstance(dtype, pl.List):
            columns.append(pl.col(column.name).list.eval(_hex(pl.element())))
        elif dtype.is_integer():
            columns.append(_hex(pl.col(column.name)).alias(column.name))
    return frame.with_columns(columns) if columns else frame


def joined_lists(frame: pl.DataFrame) -> pl.DataFrame:
    r"""The frame with lists joined by ``|``; within an element ``|`` is written ``\|`` and ``\`` is ``\\``.

    An absent list stays absent and one without elements becomes the empty text.
    """
    columns = []
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.List):
            element = pl.element().cast(pl.String).str.replace_all(r"([\\|])", r"\$1")
            columns.append(pl.col(name).list.eval(element.fill_null("")).list.join("|").alias(name))
    return frame.with_columns(columns) if columns else frame


def _hex(number: pl.Expr) -> pl.Expr:
    """``0x...`` without leading zeros. polars has no such conversion: look up 16 bits at a time."""
    bits = number.cast(pl.UInt64)
    words = [pl.lit(_words()).gather(bits // 2**shift % 2**16) for shift in (48, 32, 16, 0)]
    digits = pl.concat_str(words).str.strip_chars_start("0")
    return pl.when(bits.is_not_null()).then(
        pl.concat_str([pl.lit("0x"), pl.when(digits == "").then(pl.lit("0")).otherwise(digits)])
    )


@cache
def _words() -> pl.Series:
    return pl.Series([f"{word:04x}" for word in range(2**16)], dtype=pl.String)
