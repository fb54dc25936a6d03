"""Per-CPU variables: one copy of the kernel's per-CPU section for each CPU, and what was allocated behind it.

Mirrors ``pcpu_setup_first_chunk()`` and ``setup_per_cpu_areas()``: the first chunk has a unit for each CPU,
side by side in the direct map; a per-CPU pointer is an address in the section that the linker made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdump_snapshots.writer.arena import Struct, type_name

if TYPE_CHECKING:
    from mmdump_snapshots.writer.arena import Arena

__all__ = ["PerCpu"]

_MASK = 0xFFFFFFFFFFFFFFFF
#: Bytes of each unit that are free to be allocated, PERCPU_DYNAMIC_RESERVE.
_DYNAMIC = 64 << 10
_PAGE = 16 << 10


class PerCpu:
    """The first chunk.

    :ivar offsets: ``__per_cpu_offset``: what to add to a per-CPU pointer for each CPU.
    """

    def __init__(self, arena: Arena, cpus: int) -> None:
        self.profile = arena.profile
        self.cpus = cpus
        self._arena = arena
        symbols = arena.vmlinux.symbols
        start, end = symbols["__per_cpu_start"].address, symbols["__per_cpu_end"].address
        self._static = end - start
        unit = -(-(self._static + _DYNAMIC) // _PAGE) * _PAGE
        self._phys = arena.allocate(unit * cpus, _PAGE)
        self._link = start
        # Up to 6.14 x86-64 linked the section at 0 and did not relocate it.
        self._start = start if start == 0 else arena.addresses.kernel(start)
        base = arena.addresses.direct(self._phys)
        self.offsets = [base + cpu * unit - self._start & _MASK for cpu in range(cpus)]
        self._used = self._static
        self._unit = unit
        self._base = base
        self._variables()

    def _variables(self) -> None:
        """What finds the copies, and the masks of CPUs: all are online."""
        arena = self._arena
        offsets = np.array([cpu * self._unit for cpu in range(self.cpus)], "<u8")
        arena.maybe("pcpu_base_addr", self._base)
        if arena.has("pcpu_unit_offsets"):
            arena.set("pcpu_unit_offsets", arena.place(offsets.tobytes()))
        arena.maybe("pcpu_nr_units", self.cpus)
        arena.maybe("pcpu_unit_size", self._unit)
        if arena.has("__per_cpu_offset"):
            arena.words("__per_cpu_offset", self.offsets)
        for name in ("__cpu_possible_mask", "__cpu_present_mask", "__cpu_online_mask", "__cpu_active_mask"):
            if arena.has(name):
                arena.words(name, [(1 << self.cpus) - 1])
        arena.maybe("nr_cpu_ids", self.cpus)
        if arena.has("__num_online_cpus"):
            arena.set("__num_online_cpus", self.cpus)

    def allocate(self, name: str, align: int = 64) -> tuple[int, list[Struct]]:
        """``alloc_percpu()`` of a structure.

        :return: The per-CPU pointer, and each CPU's own, empty; :meth:`finish` writes it.
        """
        size = self.profile.types.sizeof(name)
        at = -(-self._used // align) * align
        self._used = at + size
        if self._used > self._unit:
            raise MemoryError("the per-CPU areas are too small")
        return self._start + at & _MASK, [
            Struct(self.profile, name, self._base + cpu * self._unit + at) for cpu in range(self.cpus)
        ]

    def pointer(self, name: str, file: str | None = None) -> int:
        """The per-CPU pointer to a static variable, as the running kernel has it."""
        return self._start + self._arena.vmlinux.variable(name, file)[0] - self._link & _MASK

    def variable(self, name: str, cpu: int, file: str | None = None) -> Struct:
        """A CPU's copy of a static per-CPU variable, empty; :meth:`finish` writes it."""
        link, ctype = self._arena.vmlinux.variable(name, file)
        address = self._base + cpu * self._unit + link - self._link
        size = ctype.size
        if ctype.kind in ("struct", "union", "typedef"):
            return Struct(self.profile, type_name(ctype), address)
        return Struct(self.profile, name, address, bytearray(size))

    def finish(self, struct: Struct) -> None:
        """Write one CPU's structure."""
        self._arena.memory.write(self._arena.addresses.phys(struct.address), bytes(struct.data))
