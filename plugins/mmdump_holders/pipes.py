"""Pages in pipes: written, spliced or vmspliced, in the ring of buffers of a pipe (fs/pipe.c)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import FaultError, Object, offsetof, sizeof

from mmdump.holders import Case, Counted, Hit, Holder, Owner, State
from mmdump.kernel.layout import find_type, has_member

if TYPE_CHECKING:
    from mmdump.kernel.files import OpenFile

__all__ = ["find_lost_pipes", "find_pipes"]

#: Buffers of one pipe; the kernel's own limit is far below (pipe-max-size).
_MAX_BUFFERS = 1 << 20


@dataclass(frozen=True)
class _Ring:
    """The buffers of a pipe.

    :param bufs: Address of the array.
    :param size: Of the array, in buffers.
    :param tail: The first buffer in use, as it counts on.
    :param used: How many are.
    """

    bufs: int
    size: int
    tail: int
    used: int

    def turn(self, slot: int) -> int | None:
        """The how-manieth buffer in use a slot is, from 0; None for one that is not in use."""
        turn = (slot - self.tail) % self.size
        return turn if turn < self.used else None


def find_pipes(case: Case) -> Iterator[Holder]:
    """Buffers of all pipes that a task has open, and of those that tasks keep for ``sendfile()``."""
    if not _known(case):
        return
    owners: dict[int, list[OpenFile]] = {}
    inodes: dict[int, int] = {}
    # Pipes without a name have operations of their own since 6.15.
    for file in case.files.with_operations("pipefifo_fops", "pipeanon_fops"):
        try:
            inode = Object(case.prog, "struct inode *", file.inode)
            pipe = inode.i_pipe.value_()
            inodes[pipe] = inode.i_ino.value_()
        except FaultError:
            continue
        if pipe:
            owners.setdefault(pipe, []).append(file)
    for pipe, files in owners.items():
        who = [owner for file in files for owner in case.owners(file)]
        yield from _guarded(case, pipe, who, f"pipe:[{inodes[pipe]}]")
    for task in case.tasks.rows:
        if task.splice_pipe and task.splice_pipe not in owners:
            yield from _guarded(
                case, task.splice_pipe, [Owner(task.pid, task.comm)], "its own, for sendfile()"
            )


def _known(case: Case) -> bool:
    return all(find_type(case.prog, f"struct {name}") for name in ("pipe_buffer", "pipe_inode_info"))


def _guarded(case: Case, pipe: int, owners: list[Owner], name: str) -> list[Holder]:
    try:
        return list(_in_pipe(case, pipe, owners, name))
    except (FaultError, AttributeError, LookupError):
        return []


def _in_pipe(case: Case, address: int, owners: list[Owner], name: str) -> Iterator[Holder]:
    pipe = Object(case.prog, "struct pipe_inode_info *", address)
    ring = _ring(pipe)
    step = case.prog.type("struct pipe_buffer").size
    for hit in case.within(ring.bufs, ring.size * step):
        slot, inside = divmod(hit.address - ring.bufs, step)
        if inside:
            continue
        turn = ring.turn(slot)
        what = f"buffer {slot} of {ring.size}"
        if turn is None:
            yield Holder(hit, "pipe", State.STALE, f"{what}, not in use", name, address, owners)
        else:
            # ops is cleared when a buffer is released.
            buffer = Object(case.prog, "struct pipe_buffer *", hit.address)
            state = State.LIVE if buffer.ops else State.STALE
            yield Holder(hit, "pipe", state, what, name, address, owners, references=int(bool(buffer.ops)))
    # Pages kept for the next write: one up to 6.13, two since.
    struct = pipe.type_.type
    if has_member(struct, "tmp_page"):
        member = pipe.tmp_page
        for hit in case.within(member.address_of_().value_(), sizeof(member)):
            yield Holder(hit, "pipe", State.LIVE, "a spare page", name, address, owners, references=1)


def _ring(pipe: Object) -> _Ring:
    """Where its buffers are, and which of them are in use.

    :raises LookupError: It has more buffers than a pipe can have.
    """
    if has_member(pipe.type_.type, "ring_size"):
        # 5.5.
        size = int(pipe.ring_size.value_())
        tail = int(pipe.tail.value_())
        # head and tail are unsigned int, since 6.15 short ones: they wrap around.
        width = 8 * sizeof(pipe.tail)
        used = (int(pipe.head.value_()) - tail) % (1 << width)
    else:
        size, tail, used = (int(pipe.member_(name).value_()) for name in ("buffers", "curbuf", "nrbufs"))
    if not 0 < size <= _MAX_BUFFERS or used > size:
        raise LookupError("garbage in a pipe")
    return _Ring(int(pipe.bufs.value_()), size, tail % size, used)


def find_lost_pipes(case: Case) -> Iterator[Holder]:
    """Buffers of pipes that no task has open: in flight over a socket, or in the middle of a system call.

    A buffer is known by its operations; who points to the array that it is in may be a pipe.
    """
    if not _known(case):
        return
    step = case.prog.type("struct pipe_buffer").size or 40
    bufs = offsetof(case.prog.type("struct pipe_inode_info"), "bufs")
    for hit in case.hits:
        if (
            hit.form != "page"
            or hit.tag
            or hit.place.kind != "slab"
            or (hit.address - hit.place.start) % step
        ):
            continue
        if not _is_buffer(case, hit):
            continue
        found = False
        for at, _value in case.pointers(hit.place.start):
            for holder in _guarded(case, at - bufs, [], "no task has it open"):
                if holder.hit is hit:
                    found = True
                    yield holder
        if not found:
            yield Holder(
                hit, "pipe", State.POSSIBLE, "a buffer of a pipe that was not found", counted=Counted.NONE
            )


def _is_buffer(case: Case, hit: Hit) -> bool:
    """Whether what stands behind the page's address makes it a ``struct pipe_buffer`` in use."""
    try:
        ops = Object(case.prog, "struct pipe_buffer *", hit.address).ops.value_()
        return bool(ops) and case.prog.symbol(ops).name.endswith("pipe_buf_ops")
    except (FaultError, LookupError):
        return False
