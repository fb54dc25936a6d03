"""The kernel's page tables, in memory, as the processor and every dump tool walk them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.memory import PhysicalMemory

__all__ = ["PageTables"]

#: Present, writable, accessed, dirty: _KERNPG_TABLE.
X86_TABLE = 0x063
#: And global, not executable: __PAGE_KERNEL.
X86_LEAF = 0x163 | 1 << 63
X86_PSE = 0x80
#: Bits that hold an address.
X86_ADDRESS = ((1 << 52) - 1) & ~0xFFF
#: Valid, and a table or (at the last level) a page.
ARM64_TABLE = 0b11
ARM64_BLOCK = 0b01
#: Access flag, inner shareable, dirty, not executable by users nor by the kernel.
ARM64_LEAF = 1 << 10 | 3 << 8 | 1 << 51 | 1 << 53 | 1 << 54


class PageTables:
    """Tables from ``swapper_pg_dir`` down; each takes a page.

    :param allocate: Gives the physical address of ``size`` bytes with an alignment, as
        :class:`~mmdump_snapshots.writer.memory.Bump` does. They must be zero.
    :param root: The physical address of the top table, of one page; allocated when not given.
    :ivar root: That address.
    :ivar tables: Physical addresses of all tables.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        space: AddressSpace,
        allocate: Callable[[int, int], int],
        root: int | None = None,
    ) -> None:
        self._memory = memory
        self._arm = space.arch == "aarch64"
        self._page = space.page_size
        self._allocate = allocate
        width = space.page_shift - 3
        #: log2 of what an entry covers, from the top level down.
        self._shifts = [
            space.page_shift + width * (space.levels - 1 - level) for level in range(space.levels)
        ]
        # A top table may use only some of its entries: 2 with pages of 16 KiB.
        self._counts = [1 << min(width, space.va_bits - shift) for shift in self._shifts]
        leaves = {"x86_64": (30, 21, 12), "aarch64": (30, 21, 12) if space.page_shift == 12 else (25, 14)}
        self._leaves = frozenset(leaves[space.arch])
        self.tables: list[int] = []
        self.root = self._table() if root is None else root
        if root is not None:
            self.tables.append(root)

    def map(self, virt: int, phys: int, size: int) -> None:
        """Map a range with the largest pages that its addresses allow. Replaces what was mapped there.

        :raises ValueError: not whole pages
        """
        if (virt | phys | size) & (self._page - 1):
            raise ValueError(f"{virt:#x}, {phys:#x} and {size:#x} are not whole pages")
        self._map(self.root, 0, virt, phys, size)

    def translate(self, virt: int) -> int | None:
        """The physical address of a virtual one, by walking the tables; ``None`` when it is not mapped."""
        table = self.root
        for level, shift in enumerate(self._shifts):
            entry = self._entry(table + 8 * self._index(level, virt))
            if not entry & 1:
                return None
            if self._is_leaf(entry, level):
                return (self._address(entry) & -(1 << shift)) | (virt & ((1 << shift) - 1))
            table = self._address(entry)
        return None

    def _map(self, table: int, level: int, virt: int, phys: int, size: int) -> None:
        shift = self._shifts[level]
        span = 1 << shift
        while size:
            index = self._index(level, virt)
            if shift in self._leaves and not (virt | phys) & (span - 1) and size >= span:
                count = min(size // span, self._counts[level] - index)
                self._fill(table, index, level, phys, count)
                done = count * span
            else:
                done = min(size, span - (virt & (span - 1)))
                self._map(self._child(table + 8 * index, level), level + 1, virt, phys, done)
            virt, phys, size = virt + done, phys + done, size - done

    def _fill(self, table: int, index: int, level: int, phys: int, count: int) -> None:
        """Make ``count`` entries of a table map memory from ``phys`` on."""
        entries = np.arange(count, dtype=np.uint64) << np.uint64(self._shifts[level])
        entries += np.uint64(phys)
        self._memory.write(table + 8 * index, entries | np.uint64(self._leaf_bits(level)))

    def _child(self, where: int, level: int) -> int:
        """The table that an entry leads to, made when there is none; a large page is split."""
        entry = self._entry(where)
        if entry & 1 and not self._is_leaf(entry, level):
            return self._address(entry)
        table = self._table()
        if entry & 1:
            self._fill(
                table, 0, level + 1, self._address(entry) & -(1 << self._shifts[level]), self._page // 8
            )
        link = table | (ARM64_TABLE if self._arm else X86_TABLE)
        self._memory.write(where, link.to_bytes(8, "little"))
        return table

    def _table(self) -> int:
        table = self._allocate(self._page, self._page)
        self.tables.append(table)
        return table

    def _entry(self, where: int) -> int:
        return int.from_bytes(self._memory.read(where, 8), "little")

    def _index(self, level: int, virt: int) -> int:
        return (virt >> self._shifts[level]) & (self._counts[level] - 1)

    def _is_leaf(self, entry: int, level: int) -> bool:
        if level == len(self._shifts) - 1:
            return True
        return entry & 3 == ARM64_BLOCK if self._arm else bool(entry & X86_PSE)

    def _leaf_bits(self, level: int) -> int:
        last = level == len(self._shifts) - 1
        if self._arm:
            return ARM64_LEAF | (ARM64_TABLE if last else ARM64_BLOCK)
        return X86_LEAF | (0 if last else X86_PSE)

    def _address(self, entry: int) -> int:
        return entry & (((1 << 48) - 1) & -self._page if self._arm else X86_ADDRESS)
