"""Per-CPU variables, wherever the kernel was loaded (kernel: mm/percpu.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from drgn import FaultError, Object

from mmdump.kernel.layout import find_object

if TYPE_CHECKING:
    from drgn import Program

__all__ = ["at_each_cpu", "cpu_offsets", "each_cpu", "possible_cpus"]


def each_cpu(prog: Program, variable: Object) -> Iterator[Object]:
    """The instance of a static per-CPU variable on each possible CPU.

    Not :func:`drgn.helpers.linux.percpu.per_cpu`: x86-64 kernels up to 6.14 link their per-CPU section at
    address 0 and do not relocate it with the rest of the image, while drgn 0.3 does, so that its result is
    off by KERNELOFFSET. The distance to the start of the section is right either way, and
    ``pcpu_setup_first_chunk()`` records where each CPU's copy of the section begins.

    :raises drgn.FaultError: Where the copies are is not in the dump.
    """
    from drgn.helpers.linux.percpu import per_cpu

    base, units = find_object(prog, "pcpu_base_addr"), find_object(prog, "pcpu_unit_offsets")
    try:
        start = prog.symbol("__per_cpu_start").address
        size = prog.symbol("__per_cpu_end").address - start
    except LookupError:
        start = size = 0
    distance = (variable.address_ or 0) - start
    for cpu in possible_cpus(prog):
        if base is None or units is None or not 0 <= distance < size:
            yield per_cpu(variable, cpu)
            continue
        address = base.value_() + units[cpu].value_() + distance
        yield Object(prog, variable.type_, address=address & 0xFFFFFFFFFFFFFFFF)


def at_each_cpu(prog: Program, pointer: Object) -> Iterator[tuple[int, Object]]:
    """What a pointer of ``alloc_percpu()`` points to on each possible CPU: the CPU, and the object there.

    Such a pointer is the running kernel's own, so that ``__per_cpu_offset`` is right for it.

    :raises drgn.FaultError: The pointer, or where the copies are, is not in the dump; or it is NULL.
    """
    target, start = pointer.type_.unaliased().type, pointer.value_()
    if not start:
        # No CPU's copy is there: with an offset added it would be the beginning of the per-CPU section.
        raise FaultError("a per-CPU pointer is NULL", 0)
    for cpu, offset in cpu_offsets(prog):
        yield cpu, Object(prog, target, address=(start + offset) & 0xFFFFFFFFFFFFFFFF)


def cpu_offsets(prog: Program) -> list[tuple[int, int]]:
    """What each possible CPU adds to a per-CPU pointer of the running kernel: the CPU, and its offset.

    :raises drgn.FaultError: It is not in the dump.
    """
    # Without CONFIG_SMP there is one copy, where the pointer says.
    offsets = find_object(prog, "__per_cpu_offset")
    if offsets is None:
        return [(cpu, 0) for cpu in possible_cpus(prog)]
    most = offsets.type_.length or 0
    return [(cpu, offsets[cpu].value_()) for cpu in possible_cpus(prog) if cpu < most]


def possible_cpus(prog: Program) -> list[int]:
    """The CPUs there may be, by the mask itself, which has an end in a damaged dump too.

    :raises drgn.FaultError: It is not in the dump.
    """
    # cpu_possible_mask is a macro of this since 4.5.
    words = prog["__cpu_possible_mask"].bits.value_()
    return [64 * index + bit for index, word in enumerate(words) for bit in range(64) if word >> bit & 1]
