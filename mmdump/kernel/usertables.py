"""The page tables of processes, table by table in bulk: what is mapped where, by a PTE or by a larger leaf.

Mirrors ``arch/x86/include/asm/pgtable*.h`` and ``arch/arm64/include/asm/pgtable*.h``. User space's tables
have a fixed depth and every table is a page of memory, so a walk has an end in a damaged dump too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from drgn import Architecture

from mmdump.kernel.arrays import I64, U64, Bools

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["Leaves", "TableFormat", "UserTables", "read_table_format"]

#: Entries of last-level tables that are looked at together.
_BATCH_ENTRIES = 1 << 16


@dataclass(frozen=True)
class TableFormat:
    """What an architecture's page table entries mean. Plain data.

    :param shifts: Address bits below an entry of each level, from the top level down.
    :param top_entries: Entries of the top level that belong to user space.
    :param arm64: Whether entries are arm64's; x86-64's otherwise.
    :param pfn_mask: The bits of an entry that hold the physical address.
    :param invalid_present: arm64: the bit that keeps an invalid entry present (``pte_present_invalid()``).
    :param high_bits: arm64 with 64 KiB pages: address bits 48 to 51 are in bits 12 to 15 of the entry.
    """

    page_shift: int
    shifts: tuple[int, ...]
    top_entries: int
    arm64: bool
    pfn_mask: int
    invalid_present: int = 0
    high_bits: bool = False

    @property
    def entries(self) -> int:
        """Entries of a table below the top level."""
        return 1 << (self.page_shift - 3)

    def decode(self, words: U64, level: int) -> tuple[Bools, Bools, I64]:
        """What entries of one level are.

        :return: Which are leaves, which lead to a table, and the PFN in each (int64).
        """
        last = level == len(self.shifts) - 1
        # A leaf two levels above the last is the largest there is: 1 GiB on x86-64.
        may_be_leaf = last or len(self.shifts) - 1 - level <= 2
        bits = words & np.uint64(0xFFF)
        if self.arm64:
            leaf, table = self._arm64(words, bits, last)
            address = words & np.uint64(self.pfn_mask)
            if self.high_bits:
                address |= (words >> np.uint64(12) & np.uint64(15)) << np.uint64(48)
        else:
            leaf, table = self._x86(bits, last)
            # L1TF: an entry that is not present for the CPU holds its address inverted (protnone_mask()).
            inverted = np.where(bits & np.uint64(1) == 0, ~words, words)
            address = inverted & np.uint64(self.pfn_mask)
        pfn = (address >> np.uint64(self.page_shift)).astype(np.int64)
        pfn = np.where(leaf, pfn & ~((1 << (self.shifts[level] - self.page_shift)) - 1), pfn)
        return (leaf if may_be_leaf else np.zeros(len(words), bool)), table, pfn

    @staticmethod
    def _x86(bits: U64, last: bool) -> tuple[Bools, Bools]:
        # _PAGE_PRESENT, _PAGE_PSE, _PAGE_PROTNONE. pmd_present() believes in PSE alone: while a huge page is
        # split, its entry is neither of the others.
        present, huge = bits & np.uint64(1) != 0, bits & np.uint64(0x80) != 0
        if last:
            return bits & np.uint64(0x101) != 0, np.zeros(len(bits), bool)
        return huge, present & ~huge

    def _arm64(self, words: U64, bits: U64, last: bool) -> tuple[Bools, Bools]:
        kind = bits & np.uint64(3)
        invalid = (kind & np.uint64(1) == 0) & (words & np.uint64(self.invalid_present) != 0)
        if last:
            return (kind == 3) | invalid, np.zeros(len(bits), bool)
        return (kind == 1) | invalid, kind == 3


def read_table_format(kernel: Kernel) -> TableFormat | None:
    """The format of this kernel's user page tables; None for architectures that mmdump cannot walk."""
    platform, info = kernel.target.prog.platform, kernel.target.vmcoreinfo
    shift = kernel.target.page_shift
    if platform is None:
        return None
    if platform.arch == Architecture.X86_64:
        levels = 5 if info.get("NUMBER(pgtable_l5_enabled)") == "1" else 4
        encryption = _number(info.get("NUMBER(sme_mask)"), 0)
        return TableFormat(
            page_shift=12,
            shifts=tuple(12 + 9 * level for level in reversed(range(levels))),
            top_entries=256,  # the other half is the kernel's
            arm64=False,
            pfn_mask=((1 << 52) - (1 << 12)) & ~encryption,
        )
    if platform.arch == Architecture.AARCH64:
        # What the CPU really has; a kernel built for 52 bits may have to do with 48.
        size = _number(info.get("NUMBER(TCR_EL1_T1SZ)"), 0)
        bits = 64 - size if 12 <= size <= 39 else _number(info.get("NUMBER(VA_BITS)"), 48)
        step = shift - 3
        levels = min(max(-(-(bits - shift) // step), 1), 5)
        shifts = tuple(shift + step * level for level in reversed(range(levels)))
        return TableFormat(
            page_shift=shift,
            shifts=shifts,
            top_entries=1 << min(max(bits - shifts[0], 0), step),
            arm64=True,
            pfn_mask=(1 << 48) - (1 << shift),
            # PTE_PROT_NONE (bit 58) up to 6.10, with PMD_PRESENT_INVALID (bit 59) from 5.9 on; 6.11 made both
            # PTE_PRESENT_INVALID, the bit of PTE_NG (11). They are macros: page types changed in 6.11, too.
            invalid_present=(3 << 58) if kernel.page_layout.types_base == 0xF0000000 else 1 << 11,
            high_bits=shift == 16,
        )
    return None


def _number(text: str | None, default: int) -> int:
    try:
        return int(text, 0) if text is not None else default
    except ValueError:
        return default


@dataclass(frozen=True)
class Leaves:
    """Mapped pages of one address space: arrays of equal length.

    :param address: User addresses, int64.
    :param pfn: The first page mapped there, int64.
    :param order: Of the leaf: 0 for a PTE, more for a PMD or PUD.
    """

    address: I64
    pfn: I64
    order: int


@dataclass
class UserTables:
    """Walks page tables, with one budget for all of them.

    :ivar lost: Tables that could not be read, or lie where no memory is.
    :ivar budget: Tables that may still be read: more than half of memory cannot be page tables.
    """

    kernel: Kernel
    format: TableFormat
    lost: int = 0
    budget: int = field(default=-1)

    def __post_init__(self) -> None:
        if self.budget < 0:
            self.budget = self.kernel.memmap.pages // 2 + 1024

    def walk(self, pgd: int) -> Iterator[Leaves]:
        """All leaves of an address space's user half, level by level.

        :param pgd: Address of the top table, ``mm->pgd``.
        """
        form, reader = self.format, self.kernel.target.reader
        chunk = reader.read(pgd, form.top_entries * 8)
        if not chunk.complete or self.budget <= 0:
            self.lost += 1
            return
        words, base = chunk.data.view("<u8").astype(np.uint64), np.zeros(1, np.int64)
        tables = np.empty(0, np.int64)
        leaves, tables, base = self._level(words, base, 0)
        yield from leaves
        for level in range(1, len(form.shifts)):
            below: list[tuple[I64, I64]] = []
            step = max(_BATCH_ENTRIES // form.entries, 1)
            for at in range(0, len(tables), step):
                words, good = self._read(tables[at : at + step])
                leaves, next_tables, next_base = self._level(words, base[at : at + step][good], level)
                yield from leaves
                below.append((next_tables, next_base))
            tables = np.concatenate([np.empty(0, np.int64), *(pair[0] for pair in below)])
            base = np.concatenate([np.empty(0, np.int64), *(pair[1] for pair in below)])

    def _level(self, words: U64, base: I64, level: int) -> tuple[list[Leaves], I64, I64]:
        """The leaves of some tables of a level, and the tables below with the addresses they begin at."""
        form = self.format
        shift = form.shifts[level]
        entries = len(words) // max(len(base), 1)
        used = np.flatnonzero(words)
        leaf, table, pfn = form.decode(words[used], level)
        address = base[used // entries] + ((used % entries) << shift) if len(base) else used
        valid = self.kernel.memmap.valid(pfn)
        mapped = leaf & valid
        leaves = [Leaves(address[mapped], pfn[mapped], shift - form.page_shift)] if mapped.any() else []
        self.lost += int((table & ~valid).sum())
        next_tables, next_base = pfn[table & valid], address[table & valid]
        # No table is in a tree twice, except in a damaged one.
        _, first = np.unique(next_tables, return_index=True)
        first.sort()
        return leaves, next_tables[first], next_base[first]

    def _read(self, tables: I64) -> tuple[U64, Bools]:
        """The entries of some tables one after the other, and which tables could be read."""
        size, reader = 1 << self.format.page_shift, self.kernel.target.reader
        good = np.zeros(len(tables), bool)
        found = []
        for index, pfn in enumerate(tables.tolist()):
            if self.budget <= 0:
                break
            self.budget -= 1
            chunk = reader.read_physical(pfn * size, size)
            if chunk.complete:
                good[index] = True
                found.append(chunk.data)
        self.lost += int((~good).sum())
        words = np.concatenate(found).view("<u8") if found else np.empty(0, "<u8")
        return words.astype(np.uint64, copy=False), good
