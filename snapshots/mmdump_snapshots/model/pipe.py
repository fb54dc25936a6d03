"""Holders of plain references: a pipe's buffers, a driver's array of pages (fs/splice.c, fs/pipe.c).

Such a reference looks like any other: nothing in ``struct page`` says whose it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .callchains import calls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .machine import Machine
    from .tasks import Task
    from .vma import Vma

__all__ = ["PIPE_DEF_BUFFERS", "Driver", "Pipe"]

PIPE_DEF_BUFFERS = 16

_SIZEOF_PIPE_BUFFER = 40


class Pipe:
    """``struct pipe_inode_info``: a ring of buffers, each of which holds a reference to a page.

    :param task: Whose it is; None for nobody that has it open.
    :ivar address: Physical address of the array of ``struct pipe_buffer``.
    :ivar buffers: PFN of each page in the pipe, first in first out.
    :ivar slots: What stands in each slot of the array: the PFN of the page that is or was there, 0 for none.
    :ivar tail: Buffers that were ever consumed; the first one in use is in this slot, modulo their number.
    """

    def __init__(self, machine: Machine, task: Task | None = None) -> None:
        self._machine = machine
        self.task = task
        self.address = machine.objects.alloc("pipe_buffer", PIPE_DEF_BUFFERS * _SIZEOF_PIPE_BUFFER)
        self.buffers: list[int] = []
        self.slots = [0] * PIPE_DEF_BUFFERS
        self.tail = 0
        machine.pipes.append(self)

    def _add(self, pfn: int) -> None:
        self.slots[(self.tail + len(self.buffers)) % PIPE_DEF_BUFFERS] = pfn
        self.buffers.append(pfn)

    def _take(self, count: int) -> list[int]:
        taken, self.buffers = self.buffers[:count], self.buffers[count:]
        self.tail += len(taken)
        return taken

    def vmsplice(self, vma: Vma, slot: int, count: int = 1) -> int:
        """``vmsplice()``: put a process's own pages into the pipe, not copies.

        :return: How many: the pipe may be full, or a slot not mapped.
        """
        done = 0
        for pfn in (vma.mapped(at) for at in range(slot, slot + count)):
            if not pfn or len(self.buffers) >= PIPE_DEF_BUFFERS:
                break
            self._machine.gup.get(pfn)
            self._add(pfn)
            done += 1
        return done

    def tee(self, other: Pipe) -> int:
        """``tee()``: the pages of one pipe in another as well (``link_pipe()``, ``pipe_buf_get()``).

        :return: How many.
        """
        room = self.buffers[: PIPE_DEF_BUFFERS - len(other.buffers)]
        for pfn in room:
            self._machine.gup.get(pfn)
            other._add(pfn)
        return len(room)

    def read(self, count: int = 1) -> None:
        """``pipe_read()``: the oldest buffers are consumed (``pipe_buf_release()``)."""
        taken = self._take(count)
        with calls(self._machine, "generic_pipe_buf_release", "pipe_read", "vfs_read", "ksys_read"):
            for pfn in taken:
                self._machine.gup.put(pfn)

    def release(self) -> None:
        """``free_pipe_info()``: both ends are closed."""
        taken = self._take(len(self.buffers))
        if self in self._machine.pipes:
            self._machine.pipes.remove(self)
        with calls(
            self._machine,
            "generic_pipe_buf_release",
            "free_pipe_info",
            "put_pipe_info",
            "pipe_release",
            "__fput",
        ):
            for pfn in taken:
                self._machine.gup.put(pfn)


class Driver:
    """A driver that keeps the user's pages in an array of its own, for DMA.

    :ivar pinned: Pages held with ``pin_user_pages()``.
    :ivar got: Pages held with ``get_user_pages()``: for DMA that is a bug, but a common one.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.pinned: list[int] = []
        self.got: list[int] = []

    def pin_user_pages(self, pfns: Iterable[int]) -> None:
        """``pin_user_pages()``."""
        for pfn in pfns:
            self._machine.gup.pin(pfn)
            self.pinned.append(pfn)

    def get_user_pages(self, pfns: Iterable[int]) -> None:
        """``get_user_pages()``."""
        for pfn in pfns:
            self._machine.gup.get(pfn)
            self.got.append(pfn)

    def put_user_pages(self, count: int = 1) -> None:
        """``put_user_page()`` of those it got first: Android 12's way to give them back."""
        taken, self.got = self.got[:count], self.got[count:]
        with calls(self._machine, "vb2_dc_put_userptr"):
            for pfn in taken:
                self._machine.gup.put_user(pfn)

    def release(self) -> None:
        """``unpin_user_pages()`` and ``put_page()`` of all."""
        pinned, self.pinned = self.pinned, []
        got, self.got = self.got, []
        for pfn in pinned:
            self._machine.gup.unpin(pfn)
        for pfn in got:
            self._machine.gup.put(pfn)
