"""Address spaces and the processes that run in them (include/linux/mm_types.h, include/linux/sched.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import FaultError, Object

from mmdump.kernel.layout import c_string, has_member

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drgn import Program

__all__ = ["AddressSpace", "AddressSpaces", "BrokenRingError", "each_leader", "read_address_spaces"]

#: PID_MAX_LIMIT: more tasks than this there cannot be.
_MAX_TASKS = 1 << 22
#: Threads of a dead leader that are asked for their address space.
_MAX_THREADS = 64
#: A kernel thread may borrow an address space; it is none of its own.
_PF_KTHREAD = 0x200000


@dataclass(frozen=True)
class AddressSpace:
    """One ``struct mm_struct`` that processes run in. Plain data.

    :param address: Of the ``struct mm_struct``.
    :param pgd: Address of its top page table.
    :param mm_id: ``mm->mm_id`` (6.15); 0 where there is none.
    :param processes: (PID, name) of each process in it: more than one after ``vfork()``.
    """

    address: int
    pgd: int
    mm_id: int
    processes: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class AddressSpaces:
    """All that tasks lead to.

    :param complete: Whether the list of tasks could be followed to its end.
    """

    spaces: tuple[AddressSpace, ...]
    complete: bool = True


def read_address_spaces(prog: Program) -> AddressSpaces:
    """The address spaces of all processes, by the ring of thread group leaders (``init_task.tasks``).

    In a damaged dump the ring may break off; what was found before that is returned.
    """
    found: dict[int, list[tuple[int, str]]] = {}
    complete = True
    try:
        for task in each_leader(prog):
            mm = _mm_of(task)
            if mm:
                found.setdefault(mm, []).append((task.tgid.value_(), c_string(task.comm, 16)))
    except (FaultError, LookupError, BrokenRingError):
        complete = False
    spaces = []
    for address, processes in found.items():
        mm = Object(prog, "struct mm_struct *", address)
        try:
            # 6.15, with CONFIG_MM_ID.
            mm_id = mm.mm_id.value_() if has_member(mm.type_.type, "mm_id") else 0
            spaces.append(AddressSpace(address, mm.pgd.value_(), mm_id, tuple(processes)))
        except (FaultError, LookupError, AttributeError):
            complete = False
    return AddressSpaces(tuple(spaces), complete)


class BrokenRingError(Exception):
    """A list leads in a circle that does not come back to where it began."""


def each_leader(prog: Program) -> Iterator[Object]:
    """The leaders of all processes but the idle one, by the ring that ``init_task`` is in.

    :raises BrokenRingError: The ring does not come back to where it began.
    :raises drgn.FaultError: A task is not in the dump.
    """
    from drgn import container_of

    init = prog["init_task"]
    end = init.tasks.address_of_().value_()
    seen = {end}
    link = init.tasks.next.read_()
    while link.value_() != end:
        if link.value_() in seen or len(seen) > _MAX_TASKS:
            raise BrokenRingError
        seen.add(link.value_())
        task = container_of(link, "struct task_struct", "tasks")
        yield task
        link = task.tasks.next.read_()


def _mm_of(task: Object) -> int:
    """The address of a process' mm_struct, 0 for none; where the leader is dead, that of another thread."""
    from drgn import container_of

    if task.flags.value_() & _PF_KTHREAD:
        return 0
    mm = int(task.mm.value_())
    signal = task.signal
    if mm or not signal or not has_member(signal.type_.type, "thread_head"):
        return mm
    head = signal.thread_head.address_of_().value_()
    link = signal.thread_head.next.read_()
    for _ in range(_MAX_THREADS):
        if link.value_() in (0, head):
            break
        thread = container_of(link, "struct task_struct", "thread_node")
        mm = int(thread.mm.value_())
        if mm:
            return mm
        link = thread.thread_node.next.read_()
    return 0
