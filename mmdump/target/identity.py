"""Whether debug info is the dumped kernel's, where VMCOREINFO has no build ID to tell (before 5.9)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import drgn

__all__ = ["contradiction"]

SHT_PROGBITS = 1
SHF_ALLOC = 2
#: A vmlinux has some 100 sections, or 10^5 if each function has its own.
MAX_SECTIONS = 1 << 20
#: ``linux_banner`` begins so (init/version.c).
BANNER = re.compile(rb"Linux version (\S{1,64}) ")
BANNER_SIZE = 128
#: Variables whose own addresses VMCOREINFO has (of others it has the value), from whose distances to
#: ``_stext`` a build is known: KASLR moves all alike.
VARIABLES = (
    *("init_uts_ns", "swapper_pg_dir", "init_top_pgt", "node_data", "vmap_area_list"),
    *("log_buf", "log_buf_len", "log_first_idx", "log_next_idx", "clear_idx", "prb", "clear_seq"),
)
#: Structures that VMCOREINFO has sizes and offsets of.
STRUCTURES = ("page", "pglist_data", "zone", "free_area")
ENTRY = re.compile(r"(?:SIZE\((\w+)|OFFSET\((\w+)\.(\w+))\)")


def contradiction(prog: drgn.Program, path: Path, vmcoreinfo: Mapping[str, str]) -> str | None:
    """What a vmlinux says that is not so of the kernel in the dump, in words, or ``None``.

    Four things are held against each other, as far as they are there: the release in the file's own
    ``linux_banner`` and VMCOREINFO's OSRELEASE; how far from ``_stext`` variables are, in both; what the dump
    has where the file's ``linux_banner`` should be; and sizes and offsets in structures of memory management.
    Files that only have debug info have no contents: for them the last three decide. Does not raise.

    :param prog: The dump; needs no debug info yet.
    :param path: An ELF file, decompressed.
    """
    release = vmcoreinfo.get("OSRELEASE", "")
    file = _opened(path)
    addresses = {name: _addresses(file, name) for name in ("linux_banner", "_stext", *VARIABLES)}
    banner = min(addresses["linux_banner"], default=None)
    if banner is not None and release:
        own = BANNER.match(_contents(path, banner, BANNER_SIZE))
        if own and own[1] != release.encode():
            return f"it is of Linux {own[1].decode('ascii', 'backslashreplace')}"
    if why := _misplaced(prog, addresses, vmcoreinfo):
        return f"it has {why} at another place"
    return next(_other_layout(file, vmcoreinfo), None)


def _misplaced(
    prog: drgn.Program, addresses: Mapping[str, set[int]], vmcoreinfo: Mapping[str, str]
) -> str | None:
    """The first variable that is at another place in the dump than a vmlinux has it."""
    start = _recorded(vmcoreinfo, "_stext")
    if start is None or not addresses["_stext"]:
        return None
    bias = start - min(addresses["_stext"])
    for name in VARIABLES:
        address = _recorded(vmcoreinfo, name)
        # Static ones may have namesakes.
        if address is not None and addresses[name] and address - bias not in addresses[name]:
            return name
    release = vmcoreinfo.get("OSRELEASE", "")
    if addresses["linux_banner"] and release:
        with suppress(Exception):  # not in the dump: then that says nothing
            raw = prog.read(min(addresses["linux_banner"]) + bias, BANNER_SIZE)
            if any(raw) and not raw.startswith(b"Linux version " + release.encode() + b" "):
                return "linux_banner"
    return None


def _other_layout(file: drgn.Program, vmcoreinfo: Mapping[str, str]) -> Iterator[str]:
    """In what structures of a vmlinux are not those of the dump."""
    for key, text in vmcoreinfo.items():
        entry = ENTRY.fullmatch(key)
        if entry is None or (entry[1] or entry[2]) not in STRUCTURES or not text.isdecimal():
            continue
        with suppress(LookupError, TypeError, ValueError):  # not described: that says nothing
            structure = file.type(f"struct {entry[1] or entry[2]}")
            size = structure.size if entry[1] else drgn.offsetof(structure, entry[3])
            if size != int(text):
                what = structure.tag if entry[1] else f"{structure.tag}.{entry[3]}"
                yield f"its {'size' if entry[1] else 'offset'} of {what} is {size}, not {text}"


def _recorded(vmcoreinfo: Mapping[str, str], name: str) -> int | None:
    try:
        return int(vmcoreinfo[f"SYMBOL({name})"], 16)
    except (KeyError, ValueError):
        return None


def _opened(path: Path) -> drgn.Program:
    """A Program of a vmlinux alone, at its link addresses; empty where drgn cannot read it."""
    prog = drgn.Program()
    with suppress(Exception):  # what elfutils says as several types
        module = prog.extra_module(str(path), create=True)
        module.try_file(path)
        # Symbols are looked for in modules that are somewhere.
        module.address_range = (0, (1 << 64) - 1)
    return prog


def _addresses(file: drgn.Program, name: str) -> set[int]:
    """Where the linker put what has a name."""
    try:
        return {symbol.address for symbol in file.symbols(name)}
    except Exception:
        return set()


def _contents(path: Path, address: int, size: int) -> bytes:
    """The file's bytes at a link address; none where the file has no contents there."""
    with suppress(OSError, struct.error), path.open("rb") as file:
        ident = file.read(16)
        order = ">" if ident[5] == 2 else "<"
        wide = ident[4] == 2
        word = "Q" if wide else "I"
        # e_shoff, and after three fields of 2 bytes e_shentsize, e_shnum (elf(5)).
        file.seek(40 if wide else 32)
        (table,) = struct.unpack(order + word, file.read(8 if wide else 4))
        file.seek(58 if wide else 46)
        entry, count = struct.unpack(order + "HH", file.read(4))
        # sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size.
        header = struct.Struct(f"{order}II4{word}")
        if entry < header.size:
            return b""
        for number in range(min(count, MAX_SECTIONS)):
            file.seek(table + number * entry)
            _, kind, flags, start, offset, length = header.unpack(file.read(header.size))
            if kind == SHT_PROGBITS and flags & SHF_ALLOC and start <= address < start + length:
                file.seek(offset + address - start)
                return file.read(min(size, start + length - address))
    return b""
