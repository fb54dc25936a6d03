"""Addresses as the kernel prints them (``%pS``): from its own kallsyms table in the dump.

The kernel prints ``name+offset/size`` from kallsyms, where a symbol ends at the next one. The ELF symbol
table of its debug info gives other sizes, and picks other names among aliases; it is the fallback.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import I64, U8, U64, printable
from mmdump.kernel.layout import byteorder
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.target import Reader, Target

__all__ = ["Kallsyms", "Symbols", "read_kallsyms"]

#: A kernel has some 10**5 symbols; more than this many are garbage.
_MAX_SYMBOLS = 1 << 23
#: What the upper bits of a kernel address may be, with 48 and with 52 or 57 bits of address.
_CANONICAL = range((1 << 17) - (1 << 10), 1 << 17)
#: KSYM_NAME_LEN, 512 since 6.1.
_MAX_NAME = 512
#: One marker for each 256 names.
_MARKER_STEP = 256


@dataclass(frozen=True)
class Kallsyms:
    """The kernel's symbol table (kernel/kallsyms.c). Plain data, but for the reader of names.

    :param addresses: Addresses of all symbols, ascending, uint64.
    :param stext: ``_stext``: what lies below is not the kernel's, whatever stands in the table (per-CPU
        symbols, as offsets); 0 where it is not known.
    """

    addresses: U64
    markers: U64
    names: int
    tokens: tuple[bytes, ...]
    reader: Reader
    stext: int = 0
    _known: dict[int, str | None] = field(default_factory=dict, repr=False, compare=False)

    def lookup(self, address: int) -> tuple[str, int, int] | None:
        """Name, offset and size of the symbol an address lies in; None outside the kernel image.

        Mirrors ``is_ksym_addr()`` and ``get_symbol_pos()``: of several symbols at one address the first is
        taken, and a symbol's size reaches to the next higher address.
        """
        return None if address < self.stext else self._symbol(address)

    def per_cpu(self, offset: int) -> tuple[str, int, int] | None:
        """The same for an offset into the per-CPU section, where that is linked at address 0 (to 6.14)."""
        return self._symbol(offset) if 0 <= offset < self.stext else None

    def _symbol(self, address: int) -> tuple[str, int, int] | None:
        row = int(np.searchsorted(self.addresses, np.uint64(address), side="right")) - 1
        if row < 0:
            return None
        start = int(self.addresses[row])
        after = int(np.searchsorted(self.addresses, np.uint64(start), side="right"))
        if after == len(self.addresses):
            # Past the last symbol, which is the end of the image: a module, or garbage.
            return None
        end = int(self.addresses[after])
        first = int(np.searchsorted(self.addresses, np.uint64(start), side="left"))
        # A damaged dump may have stacks of nothing but addresses never seen before.
        if first not in self._known:
            self._known[first] = self.name(first)
        name = self._known[first]
        return None if name is None else (name, address - start, end - start)

    def name(self, row: int) -> str | None:
        """The name of a symbol, expanded as ``kallsyms_expand_symbol()`` does; None where unreadable."""
        offset = int(self.markers[row // _MARKER_STEP])
        # From a marker at most 256 names of at most 2 + 255 token bytes lie ahead.
        skip = row % _MARKER_STEP
        data = self._bytes(self.names + offset, (skip + 1) * 96)
        position = 0
        for _ in range(skip + 1):
            if position + 2 > len(data):
                data = self._bytes(self.names + offset, _MARKER_STEP * (_MAX_NAME + 2))
                if position + 2 > len(data):
                    return None
            length = data[position]
            position += 1
            if length & 0x80:
                # "Big" symbols, 6.1 and newer, take two bytes for their length.
                length = (length & 0x7F) | data[position] << 7
                position += 1
            start, position = position, position + length
        if position > len(data):
            data = self._bytes(self.names + offset, position)
            if position > len(data):
                return None
        # The first character is the symbol's type.
        text = b"".join(self.tokens[each] for each in data[start:position][: _MAX_NAME + 1])[1:]
        return printable(text[:_MAX_NAME])

    def _bytes(self, address: int, size: int) -> bytes:
        chunk = self.reader.read(address, size)
        readable = np.flatnonzero(chunk.status == ReadStatus.UNREADABLE)
        if len(readable):
            page = chunk.page_size
            size = max(0, int(readable[0]) * page - address % page)
        return chunk.data[:size].tobytes()


def read_kallsyms(target: Target) -> Kallsyms | None:
    """Read the kernel's own symbol table; None where it has none, or none that mmdump understands."""
    find = _Finder(target)
    count_at, names = find("kallsyms_num_syms"), find("kallsyms_names")
    offsets_at, base_at = find("kallsyms_offsets"), find("kallsyms_relative_base")
    markers_at, index_at, table_at = (
        find("kallsyms_markers"),
        find("kallsyms_token_index"),
        find("kallsyms_token_table"),
    )
    if None in (count_at, names, offsets_at, markers_at, index_at, table_at):
        return None
    order = byteorder(target.prog)
    count = int(_column(target.reader, count_at, 1, order + "u4")[0])
    if not 0 < count <= _MAX_SYMBOLS:
        return None
    base = int(_column(target.reader, base_at, 1, order + "u8")[0]) if base_at else None
    offsets = _column(target.reader, offsets_at, count, order + "i4").astype(np.int64)
    markers = _column(target.reader, markers_at, -(-count // _MARKER_STEP), order + "u4").astype(np.uint64)
    index = _column(target.reader, index_at, 256, order + "u2").astype(np.int64)
    table = target.reader.read(table_at or 0, int(index[-1]) + 64).data
    tokens = tuple(_token(table, start) for start in index.tolist())
    known = _address(target.vmcoreinfo.get("SYMBOL(_stext)"))
    for addresses in _address_forms(offsets, base, offsets_at or 0):
        if not bool((addresses[1:] >= addresses[:-1]).all()):
            continue
        table_form = Kallsyms(addresses, markers, names or 0, tokens, target.reader, known or 0)
        if known is None:
            return table_form
        found = table_form.lookup(known)
        # Which form this kernel has is a macro; the table must know the one address that VMCOREINFO names.
        if found is not None and found[1] == 0:
            return table_form
    return None


def _address_forms(offsets: I64, base: int | None, offsets_at: int) -> list[U64]:
    """The meanings that ``kallsyms_sym_address()`` gave the offsets."""
    if base is None:
        # 7.1 or so did without kallsyms_relative_base: each counts from where it stands itself.
        own = np.uint64(offsets_at) + np.arange(0, 4 * len(offsets), 4, dtype=np.uint64)
        return [own + offsets.astype(np.uint64)]
    relative = (offsets & 0xFFFFFFFF).astype(np.uint64) + np.uint64(base)
    # CONFIG_KALLSYMS_ABSOLUTE_PERCPU (x86 up to 6.14): negative ones count down from the base, and the
    # others are absolute, per-CPU offsets.
    percpu = np.where(
        offsets >= 0, offsets.astype(np.uint64), np.uint64(base) + (-1 - offsets).astype(np.uint64)
    )
    return [percpu, relative]


def _token(table: U8, start: int) -> bytes:
    return table[start : start + _MAX_NAME].tobytes().split(b"\0", 1)[0]


def _address(text: str | None) -> int | None:
    """An address in VMCOREINFO; None where there is none, or garbage."""
    try:
        address = int(text, 16) if text else None
    except ValueError:
        return None
    return address if address is not None and 0 <= address < 1 << 64 else None


def _column(reader: Reader, address: int | None, count: int, dtype: str) -> np.ndarray:
    return reader.read(address or 0, count * np.dtype(dtype).itemsize).data.view(dtype)


class _Finder:
    """Addresses of kallsyms' own variables: VMCOREINFO names most, the ELF symbol table the rest."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __call__(self, name: str) -> int | None:
        known = _address(self._target.vmcoreinfo.get(f"SYMBOL({name})"))
        try:
            return self._target.prog.symbol(name).address if known is None else known
        except LookupError:
            return None


class Symbols:
    """Addresses to text, each looked up once."""

    def __init__(self, prog: Program, kallsyms: Kallsyms | None) -> None:
        self._prog = prog
        self._kallsyms = kallsyms
        self._texts: dict[int, str] = {}

    def per_cpu(self, offset: int) -> tuple[str, int] | None:
        """The per-CPU variable at an offset into the section linked at 0, and the offset into it."""
        found = self._kallsyms.per_cpu(offset) if self._kallsyms is not None else None
        return None if found is None else found[:2]

    def text(self, address: int) -> str:
        """``name+0xoffset/0xsize`` as ``%pS`` prints it, with ``[module]``; a bare address if unknown."""
        found = self._texts.get(address)
        if found is None:
            found = self._texts[address] = self._lookup(address)
        return found

    def _lookup(self, address: int) -> str:
        if self._kallsyms is not None:
            found = self._kallsyms.lookup(address)
            if found is not None:
                name, offset, size = found
                return f"{name}+{offset:#x}/{size:#x}"
        if address >> 47 not in _CANONICAL:
            return f"{address:#x}"
        module = ""
        try:
            owner = self._prog.module(address)
            other = owner != self._prog.main_module()
        except LookupError:
            other = False
        if other:
            module = f" [{printable(owner.name.encode())}]"
        elif self._kallsyms is not None:
            # Not the kernel's, as its own table says; and drgn would search for a millisecond.
            return f"{address:#x}"
        try:
            symbol = self._prog.symbol(address)
        except LookupError:
            return f"{address:#x}"
        name = printable(symbol.name.encode("utf-8", "surrogateescape"))
        return f"{name}+{address - symbol.address:#x}/{symbol.size:#x}{module}"
