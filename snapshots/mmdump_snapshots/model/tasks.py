"""Tasks, and the functions they are in."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

__all__ = ["Calls", "Task"]


@dataclass(eq=False)
class Task:
    """``struct task_struct``, as far as memory remembers one.

    :ivar comm: Its name; the kernel keeps 15 bytes of it.
    :ivar address: Physical address of the structure; 0 where the model has none.
    """

    comm: str
    pid: int
    tgid: int
    address: int = 0


class Calls:
    """Functions on the stack for as long as a with statement lasts. See :meth:`.machine.Machine.calls`."""

    __slots__ = ("_frames", "_names")

    def __init__(self, frames: list[tuple[str, ...]], names: tuple[str, ...]) -> None:
        self._frames = frames
        self._names = names

    def __enter__(self) -> None:
        self._frames.append(self._names)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._frames.pop()
