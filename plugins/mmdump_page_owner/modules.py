"""Loaded modules: the addresses they take and their own symbols, for those without debug info."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import c_string

if TYPE_CHECKING:
    from drgn import Object, Program

__all__ = ["Modules"]

#: A machine has some hundreds; the list of a damaged dump may have no end.
_MAX_MODULES = 1 << 13
#: MOD_MEM_NUM_TYPES, or the two layouts before 6.4.
_MAX_REGIONS = 16
#: Symbols of a module and bytes of their names; the largest modules have some 10**4 symbols.
_MAX_SYMBOLS, _MAX_NAMES = 1 << 17, 1 << 24
#: KSYM_NAME_LEN since 6.1.
_MAX_NAME = 512

_ERRORS = (FaultError, LookupError, AttributeError, TypeError, ValueError, OverflowError)


@dataclass
class Modules:
    """The modules of a dump; nothing is read before an address is asked for."""

    prog: Program
    _symbols: dict[int, list[tuple[int, str]]] = field(default_factory=dict)

    def text(self, address: int) -> str | None:
        """``name+0xoffset/0xsize [module]`` as ``%pS`` prints it, or the address and the module.

        :return: None outside all modules.
        """
        row = bisect_right(self._regions, (address, 1 << 64, 0)) - 1
        if row < 0 or address >= self._regions[row][1]:
            return None
        start, end, index = self._regions[row]
        symbol = self._symbol(index, address, start, end)
        return f"{symbol or hex(address)} [{self._modules[index][0]}]"

    @cached_property
    def _modules(self) -> list[tuple[str, Object]]:
        from drgn.helpers.linux.module import for_each_module

        found: list[tuple[str, Object]] = []
        try:
            modules = islice(for_each_module(self.prog), _MAX_MODULES)
            found.extend((c_string(module.name), module) for module in modules)
        except _ERRORS:
            # A kernel without modules, or the list breaks off: those found so far are good.
            pass
        return found

    @cached_property
    def _regions(self) -> list[tuple[int, int, int]]:
        """Start, end and index of the module of each region, by start."""
        return sorted(
            (start, start + size, index)
            for index, (_, module) in enumerate(self._modules)
            for start, size in _regions_of(module)
        )

    def _symbol(self, index: int, address: int, start: int, end: int) -> str | None:
        """Mirrors ``find_kallsyms_symbol()``: a symbol reaches to the next, or to the end of its region."""
        if index not in self._symbols:
            self._symbols[index] = _symbols_of(self._modules[index][1])
        symbols = self._symbols[index]
        row = bisect_right(symbols, (address, chr(0x10FFFF))) - 1
        if row < 0 or symbols[row][0] < start:
            return None
        at, name = symbols[row]
        after = next((each for each, _ in symbols[row + 1 :] if each > at), end)
        return f"{name}+{address - at:#x}/{min(after, end) - at:#x}"


def _symbols_of(module: Object) -> list[tuple[int, str]]:
    """Addresses and names of a module's symbols, by address; none where they cannot be had."""
    from drgn.helpers.linux.kallsyms import module_kallsyms

    try:
        table = module.kallsyms
        count = table.num_symtab.value_()
        if not 0 < count <= _MAX_SYMBOLS:
            return []
        # module_kallsyms() reads all names up to the last symbol's, wherever that is.
        last = table.symtab[count - 1].st_name.value_()
        if last > _MAX_NAMES or len(c_string(table.strtab + last, _MAX_NAME)) == _MAX_NAME:
            return []
        return sorted((each.address, printable(each.name.encode())) for each in module_kallsyms(module))
    except _ERRORS:
        return []


def _regions_of(module: Object) -> Iterator[tuple[int, int]]:
    from drgn.helpers.linux.module import module_address_regions

    try:
        regions = islice(module_address_regions(module), _MAX_REGIONS)
        yield from ((start, size) for start, size in regions if size > 0)
    except _ERRORS:
        return
