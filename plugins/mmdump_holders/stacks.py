"""Kernel stacks: whose an address is, and whether the part of the stack it lies in is alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.errors import MmdumpError
from mmdump.holders import Place, State
from mmdump.kernel.arrays import printable

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.tasks import Task

__all__ = ["Stacks"]

#: Frames of one stack that are looked at.
_MAX_FRAMES = 256


class Stacks:
    """The stacks of tasks; each is unwound once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._frames: dict[int, list[tuple[int, str]]] = {}

    def place(self, address: int) -> Place | None:
        """What an address is to the task whose kernel stack it lies in; None where it lies in none."""
        try:
            tasks = self._kernel.tasks
        except MmdumpError:
            return None
        task = tasks.on_stack(address)
        if task is None:
            return None
        frames = self._unwound(task)
        # A running task's saved stack pointer is old; the registers that the dump has noted are not.
        sp = frames[0][0] if frames else (0 if task.on_cpu else task.sp)
        name = f"{task.comm} {task.pid}"
        size = tasks.stack_size

        def place(state: State, why: str) -> Place:
            return Place("stack", name, task.stack, size, state, why, task)

        if not task.stack <= sp < task.stack + size:
            return place(State.POSSIBLE, "which part of the stack is in use is unknown")
        if address < sp:
            return place(State.STALE, "below the stack pointer")
        function = ""
        for start, frame in frames:
            if start > address:
                break
            function = frame
        return place(State.POSSIBLE, f"in the frame of {function}" if function else "in use")

    def _unwound(self, task: Task) -> list[tuple[int, str]]:
        """(stack pointer, function) of each frame, innermost first; none where it cannot be unwound."""
        found = self._frames.get(task.address)
        if found is not None:
            return found
        frames: list[tuple[int, str]] = []
        if not self._kernel.target.live or not task.on_cpu:
            from drgn import Object

            try:
                trace = self._kernel.target.prog.stack_trace(
                    Object(self._kernel.target.prog, "struct task_struct *", task.address)
                )
                frames = [
                    (int(frame.sp), printable((frame.name or "?").encode()))
                    for frame in list(trace)[:_MAX_FRAMES]
                ]
            except (FaultError, LookupError, ValueError, TypeError, OverflowError):
                pass
        # Frames of an interrupt's stack come first; those of the task's own are what counts here.
        own = [each for each in frames if task.stack <= each[0] < task.stack + self._kernel.tasks.stack_size]
        self._frames[task.address] = own
        return own
