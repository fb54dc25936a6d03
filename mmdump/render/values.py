"""One value as a person reads it. Only text does this; every other format keeps plain values."""

from __future__ import annotations

from collections.abc import Sequence

from mmdump.amounts import bytes_text, nsec_text
from mmdump.render.escape import escape
from mmdump.result import Kind

__all__ = ["value_text"]


def value_text(value: object, kind: Kind) -> str:
    """The value, escaped; ``-`` when it is absent."""
    if value is None:
        return "-"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return ", ".join(value_text(each, kind) for each in value) if value else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _integer(value, kind)
    if isinstance(value, float):
        return f"{value:,.1f}"
    return escape(str(value))


def _integer(value: int, kind: Kind) -> str:
    if kind is Kind.BYTES:
        return bytes_text(value)
    if kind is Kind.NSEC:
        return nsec_text(value)
    if kind in (Kind.PFN, Kind.ADDRESS, Kind.BITS):
        return f"{value:#x}"
    if kind is Kind.COUNT:
        return f"{value:,}"
    if kind is Kind.BOOL:
        return "yes" if value else "no"
    return str(value)
