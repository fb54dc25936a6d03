"""Per-CPU variables, wherever the kernel was loaded (kernel: mm/percpu.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from drgn import FaultError, Object

from mmdump.kernel.layout import find_object

if TYPE_CHECKING:
    from drgn import Program

__all__ = ["each_cpu"]


def each_cpu(prog: Program, variable: Object) -> Iterator[Object]:
    """The instance of a static per-CPU variable on each possible CPU; CPUs that cannot be read raise later.

    Not :func:`drgn.helpers.linux.percpu.per_cpu`: x86-64 kernels up to 6.14 link their per-CPU section at
    address 0 and do not relocate it with the rest of the image, while drgn 0.3 does, so that its result is
    off by KERNELOFFSET. The distance to the start of the section is right either way, and
    ``pcpu_setup_first_chunk()`` records where each CPU's copy of the section begins.
    """
    from drgn.helpers.linux.cpumask import for_each_possible_cpu
    from drgn.helpers.linux.percpu import per_cpu

    base, units = find_object(prog, "pcpu_base_addr"), find_object(prog, "pcpu_unit_offsets")
    try:
        start = prog.symbol("__per_cpu_start").address
        size = prog.symbol("__per_cpu_end").address - start
    except LookupError:
        start = size = 0
    distance = (variable.address_ or 0) - start
    for cpu in for_each_possible_cpu(prog):
        if base is None or units is None or not 0 <= distance < size:
            yield per_cpu(variable, cpu)
            continue
        try:
            address = base.value_() + units[cpu].value_() + distance
        except FaultError:
            continue
        yield Object(prog, variable.type_, address=address)
