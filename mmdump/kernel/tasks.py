"""All tasks, and where their stacks are (include/linux/sched.h)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, Object, container_of

from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import find_object, find_type, has_member, struct_dtype
from mmdump.kernel.mms import BrokenRingError, each_leader
from mmdump.kernel.percpu import each_cpu
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.target import Target

__all__ = ["Task", "Tasks", "read_tasks"]

#: Threads of one process that are followed.
_MAX_THREADS = 1 << 18


@dataclass(frozen=True)
class Task:
    """One thread. Plain data.

    :param address: Of its ``struct task_struct``.
    :param stack: Lowest address of its kernel stack; 0 where it has none any more.
    :param sp: Its saved stack pointer, that of its last switch; 0 where this architecture's is not known.
    :param on_cpu: Whether it ran when the kernel stopped: ``sp`` is old then.
    :param files: Address of its ``struct files_struct``; 0 for none.
    :param splice_pipe: Address of the pipe that it keeps for ``sendfile()``; 0 for none.
    """

    address: int
    pid: int
    tgid: int
    comm: str
    stack: int
    sp: int
    on_cpu: bool
    files: int
    mm: int
    splice_pipe: int


@dataclass(frozen=True)
class Tasks:
    """All tasks there are.

    :param stack_size: THREAD_SIZE.
    :param complete: Whether the lists could be followed to their ends.
    """

    rows: Sequence[Task]
    stack_size: int
    complete: bool = True

    @cached_property
    def by_stack(self) -> dict[int, Task]:
        """Tasks by the lowest address of their stack."""
        return {task.stack: task for task in self.rows if task.stack}

    @cached_property
    def by_address(self) -> dict[int, Task]:
        """Tasks by the address of their ``struct task_struct``."""
        return {task.address: task for task in self.rows}

    def on_stack(self, address: int) -> Task | None:
        """The task whose kernel stack an address lies in. Stacks are aligned to their size."""
        return self.by_stack.get(address - address % self.stack_size)


#: Column -> members of task_struct. thread.sp is x86's, the other arm64's.
_MEMBERS = {
    "pid": ("pid",),
    "tgid": ("tgid",),
    "comm": ("comm",),
    "stack": ("stack",),
    "sp": ("thread.sp", "thread.cpu_context.sp"),
    "on_cpu": ("on_cpu",),
    "files": ("files",),
    "mm": ("mm",),
    "splice_pipe": ("splice_pipe",),
}


def read_tasks(target: Target) -> Tasks:
    """All threads of all processes, by the rings of leaders and of each leader's threads.

    In a damaged dump a ring may break off; what was found before that is returned.
    """
    prog = target.prog
    struct = prog.type("struct task_struct")
    dtype = struct_dtype(prog, struct, _MEMBERS, optional=("sp", "on_cpu", "splice_pipe"))
    rows: list[Task] = []
    seen: set[int] = set()
    complete = True
    try:
        for leader in _idle_and_leaders(prog):
            try:
                for address in _threads(leader):
                    if address not in seen:
                        seen.add(address)
                        complete &= _take(target, dtype, address, rows)
            except FaultError:
                complete = False
    except (FaultError, BrokenRingError):
        complete = False
    return Tasks(tuple(rows), _stack_size(prog), complete)


def _take(target: Target, dtype: np.dtype[np.void], address: int, rows: list[Task]) -> bool:
    chunk = target.reader.read(address, dtype.itemsize)
    if len(chunk.status) and chunk.status.max() >= ReadStatus.UNREADABLE:
        return False
    row = chunk.data.view(dtype)[0]
    names = dtype.names or ()

    def number(name: str) -> int:
        return int(row[name]) if name in names else 0

    rows.append(
        Task(
            address,
            number("pid"),
            number("tgid"),
            printable(bytes(row["comm"]).split(b"\0", 1)[0]),
            number("stack"),
            number("sp"),
            bool(number("on_cpu")),
            number("files"),
            number("mm"),
            number("splice_pipe"),
        )
    )
    return True


def _idle_and_leaders(prog: Program) -> Iterator[Object]:
    """The idle task of each CPU, which are in no ring, and all leaders."""
    yield prog["init_task"].address_of_().read_()
    idle = find_object(prog, "idle_threads")
    for pointer in each_cpu(prog, idle) if idle is not None else ():
        if pointer:
            yield pointer.read_()
    yield from each_leader(prog)


def _threads(leader: Object) -> Iterator[int]:
    """Addresses of a leader's threads and its own, by ``signal->thread_head`` (3.13)."""
    yield leader.value_()
    signal = leader.signal.read_()
    if not signal or not has_member(signal.type_.type, "thread_head"):
        return
    ends = {0, signal.thread_head.address_of_().value_()}
    link = signal.thread_head.next.read_()
    for _ in range(_MAX_THREADS):
        # Also where the ring leads into a circle.
        if link.value_() in ends:
            return
        ends.add(link.value_())
        thread = container_of(link, "struct task_struct", "thread_node")
        yield thread.value_()
        link = thread.thread_node.next.read_()


def _stack_size(prog: Program) -> int:
    """THREAD_SIZE, by ``union thread_union`` that the first task's stack is part of."""
    union = find_type(prog, "union thread_union")
    size = union.size if union is not None else None
    return size if size else 16384
