"""VMCOREINFO: what a kernel says about itself for dump tools (kernel/vmcore_info.c)."""

from __future__ import annotations

import struct

__all__ = ["MAX_SIZE", "find_note", "notes", "parse_vmcoreinfo"]

#: The kernel has one page for it (VMCOREINFO_BYTES); firmware and future kernels get some room.
MAX_SIZE = 1 << 20


def parse_vmcoreinfo(raw: bytes) -> dict[str, str]:
    """The ``KEY=VALUE`` lines as a dict; lines without "=" are ignored, the first of two equal keys stays."""
    entries: dict[str, str] = {}
    for line in raw.rstrip(b"\0").decode("utf-8", "backslashreplace").split("\n"):
        key, separator, value = line.partition("=")
        if separator and key:
            entries.setdefault(key, value)
    return entries


def notes(raw: bytes, byteorder: str) -> list[tuple[bytes, int, bytes]]:
    """ELF notes as (name, type, description); a damaged tail is ignored.

    :param byteorder: "<" or ">", as in struct formats.
    """
    header = struct.Struct(byteorder + "III")
    found = []
    position = 0
    while position + header.size <= len(raw):
        name_size, size, kind = header.unpack_from(raw, position)
        name_start = position + header.size
        start = name_start + (name_size + 3 & ~3)
        if start + size > len(raw):
            break
        found.append(
            (raw[name_start : name_start + name_size].rstrip(b"\0"), kind, raw[start : start + size])
        )
        position = start + (size + 3 & ~3)
    return found


def find_note(raw: bytes, byteorder: str, name: bytes) -> bytes | None:
    """The description of the first note of that name."""
    return next((description for note, _, description in notes(raw, byteorder) if note == name), None)
