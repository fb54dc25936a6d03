"""Events by their raw fields, as option ``fields`` prints them (trace_output.c: print_fields)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmdump_trace.formats import EventFormat, Field
from mmdump_trace.printf import PointerWords

__all__ = ["raw_fields"]

_OVERFLOW = "<OVERFLOW>"
#: 5.x and older had three sorts of strings, and these numbers, which the debug info gives where it can.
_DEFAULTS = {"FILTER_OTHER": 0, "FILTER_STATIC_STRING": 1, "FILTER_DYN_STRING": 2}


def raw_fields(
    event: EventFormat,
    data: bytes,
    filters: Mapping[str, int],
    words: PointerWords,
    string_at: Callable[[int], str | None],
    little: bool,
) -> str:
    """`` pfn=0x1be11 (114193) ...``, from the blank on; without a newline."""
    names = {number: name for name, number in (_DEFAULTS | dict(filters)).items()}
    if not event.fields:
        return "No fields found"
    return "".join(
        f" {each.name}={_value(each, data, names.get(each.filter_type, '?'), words, string_at, little)}"
        for each in event.fields
    )


def _value(
    field: Field,
    data: bytes,
    kind: str,
    words: PointerWords,
    string_at: Callable[[int], str | None],
    little: bool,
) -> str:
    order: Any = "little" if little else "big"
    raw = data[field.offset : field.offset + field.size]
    if len(raw) < field.size:
        return _OVERFLOW
    number = int.from_bytes(raw, order)
    if kind in ("FILTER_COMM", "FILTER_STATIC_STRING"):
        return _text(raw)
    if kind in ("FILTER_DYN_STRING", "FILTER_RDYN_STRING"):
        found = _located(field, data, number)
        return _OVERFLOW if found is None else _text(found)
    if kind == "FILTER_PTR_STRING":
        text = string_at(number)
        return f"(0x{number:016x})" if text is None else f"(0x{number:016x}:{text})"
    if kind == "FILTER_TRACE_FN":
        return words.symbol(number)
    if field.size == 1:
        seen = f"'{chr(number)}'" if 32 <= number < 127 else ""
        return f"{seen}({number})"
    if field.size == 4 and field.dynamic:
        found = _located(field, data, number)
        return _OVERFLOW if found is None else ",".join(f"{byte:02x}" for byte in found)
    if field.size in (2, 4, 8):
        # %d of an unsigned int, and %lld.
        signed = int.from_bytes(raw, order, signed=field.size > 2)
        return f"{number:#x} ({signed})"
    return "<INVALID-SIZE>"


def _located(field: Field, data: bytes, where: int) -> bytes | None:
    offset, length = where & 0xFFFF, where >> 16 & 0xFFFF
    if field.type.startswith("__rel_loc"):
        offset += field.offset + 4
    return data[offset : offset + length] if offset + length <= len(data) else None


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("latin-1")
