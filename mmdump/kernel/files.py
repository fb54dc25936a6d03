"""All open files, and who has them by which descriptor (include/linux/fs.h, include/linux/fdtable.h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, Object

from mmdump.kernel.arrays import I64, U64
from mmdump.kernel.layout import byteorder, find_object, struct_dtype
from mmdump.target.reader import MAX_READ, ReadStatus

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel.tasks import Task, Tasks
    from mmdump.target import Target

__all__ = ["OpenFile", "OpenFiles", "read_open_files"]

#: More files than these are garbage in descriptor tables.
_MAX_FILES = 1 << 21


@dataclass(frozen=True)
class OpenFile:
    """One ``struct file``. Plain data.

    :param address: Of it.
    :param operations: ``f_op``.
    :param private_data: ``private_data``.
    :param inode: Address of its ``struct inode``.
    :param dentry: Address of its ``struct dentry``.
    """

    address: int
    operations: int
    private_data: int
    inode: int
    dentry: int


@dataclass(frozen=True)
class OpenFiles:
    """All files that processes have open by a descriptor.

    :param rows: Distinct files, in order of address.
    :param holder: Of each open descriptor, the row of the file: int64, ascending.
    :param task: Of the same, the index into ``tasks``.
    :param fd: Of the same, the descriptor.
    :param tasks: For each ``struct files_struct``, the first task that uses it: its process' leader.
    :param complete: Whether all tables and files could be read.
    """

    prog: Program = field(repr=False)
    rows: Sequence[OpenFile]
    holder: I64
    task: I64
    fd: I64
    tasks: Sequence[Task]
    complete: bool = True

    @cached_property
    def by_address(self) -> dict[int, int]:
        """Rows by the address of ``struct file``."""
        return {file.address: row for row, file in enumerate(self.rows)}

    def with_operations(self, *names: str) -> list[OpenFile]:
        """The files whose ``f_op`` is one of these variables of the kernel (or of a loaded module)."""
        wanted = set()
        for name in names:
            found = find_object(self.prog, name)
            if found is not None:
                wanted.add(found.address_)
        return [file for file in self.rows if file.operations in wanted]

    def holders(self, address: int) -> list[tuple[Task, int]]:
        """Who has a ``struct file`` open: the task, and its descriptor."""
        row = self.by_address.get(address)
        if row is None:
            return []
        low, high = np.searchsorted(self.holder, [row, row + 1]).tolist()
        return [(self.tasks[int(self.task[at])], int(self.fd[at])) for at in range(low, high)]


def read_open_files(target: Target, tasks: Tasks) -> OpenFiles:
    """Read the descriptor tables of all tasks, and the files in them, each once."""
    prog, reader = target.prog, target.reader
    # The leader of a process stands for the threads that share its table.
    users: dict[int, Task] = {}
    for task in tasks.rows:
        if task.files:
            users.setdefault(task.files, task)
    complete = tasks.complete
    addresses, owner, descriptors = [], [], []
    for index, table in enumerate(users):
        try:
            found = _descriptors(target, table)
        except (FaultError, LookupError, AttributeError):
            found = None
        if found is None:
            complete = False
            continue
        fd = np.flatnonzero(found)
        addresses.append(found[fd])
        descriptors.append(fd)
        owner.append(np.full(len(fd), index))
    distinct, holder = np.unique(np.concatenate([np.empty(0, np.uint64), *addresses]), return_inverse=True)
    if len(distinct) > _MAX_FILES:
        # The lowest addresses stand first, and so do the rows of the descriptors that lead to them.
        distinct, complete = distinct[:_MAX_FILES], False
    order = np.argsort(holder, kind="stable")

    struct = prog.type("struct file")
    dtype = struct_dtype(
        prog,
        struct,
        {
            "f_op": ("f_op",),
            "private_data": ("private_data",),
            "f_inode": ("f_inode",),
            "dentry": ("f_path.dentry",),
        },
    )
    rows = []
    for address in distinct.tolist():
        chunk = reader.read(address, dtype.itemsize)
        if not chunk.complete and chunk.status.max() >= ReadStatus.UNREADABLE:
            complete = False
            rows.append(OpenFile(address, 0, 0, 0, 0))
            continue
        row = chunk.data.view(dtype)[0]
        rows.append(OpenFile(address, *(int(row[name]) for name in dtype.names or ())))
    return OpenFiles(
        prog,
        tuple(rows),
        holder[order].astype(np.int64),
        _joined(owner)[order],
        _joined(descriptors)[order],
        tuple(users.values()),
        complete,
    )


def _joined(parts: list[I64]) -> I64:
    return np.concatenate([np.empty(0, np.int64), *parts])


def _descriptors(target: Target, address: int) -> U64 | None:
    """``files_struct.fdt->fd``: addresses of files by descriptor, 0 for none; None where it is garbage."""
    table = Object(target.prog, "struct files_struct *", address).fdt.read_()
    count, start = table.max_fds.value_(), table.fd.value_()
    size = target.prog.type("void *").size
    if count > MAX_READ // size:
        return None
    chunk = target.reader.read(start, count * size)
    if len(chunk.status) and chunk.status.max() >= ReadStatus.UNREADABLE:
        return None
    return chunk.data.view(byteorder(target.prog) + f"u{size}").astype(np.uint64)
