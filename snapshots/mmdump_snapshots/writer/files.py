"""Open files of processes, by descriptor, the pipes among them (fs/file.c, fs/pipe.c)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdump_snapshots.writer.arena import Struct
from mmdump_snapshots.writer.vfs import new_file, new_inode

if TYPE_CHECKING:
    from mmdump_snapshots.writer.arena import Arena
    from mmdump_snapshots.writer.state import PipeState, State

__all__ = ["write_files"]

#: Standard input, output and error come before.
_FIRST_FD = 3
#: S_IFIFO, and who may read and write.
_MODE = 0o010600
#: FMODE_READ, FMODE_WRITE.
_READ, _WRITE = 1, 2


def write_files(arena: Arena, state: State, others: Mapping[int, list[int]]) -> dict[int, int]:
    """Write what processes have open: of a pipe two descriptors, the reading end first.

    :param others: Addresses of files that are no pipes, by PID: their descriptors come first.
    :return: The address of the ``struct files_struct`` of each process that has one, by PID.
    """
    if not arena.has("pipefifo_fops"):
        return {}
    pipes: dict[int, list[PipeState]] = {}
    for pipe in state.pipes:
        pipes.setdefault(pipe.pid, []).append(pipe)
    number = 0
    tables = {}
    for pid in [*pipes, *(pid for pid in others if pid not in pipes)]:
        files = list(others.get(pid, ()))
        for pipe in pipes.get(pid, ()):
            number += 1
            inode = _inode(arena, pipe, number)
            files += [_file(arena, inode, mode, _pipe_of(inode)) for mode in (_READ, _WRITE)]
        tables[pid] = _table(arena, files)
    return tables


def _table(arena: Arena, files: list[int]) -> int:
    table = arena.struct("struct files_struct")
    table.set("count.counter", 1)
    table.set("fdt", table.at("fdtab"))
    table.set("fdtab.max_fds", 64)
    table.set("fdtab.fd", table.at("fd_array"))
    table.set("fdtab.open_fds", table.at("open_fds_init"))
    table.set("fdtab.close_on_exec", table.at("close_on_exec_init"))
    table.set("fdtab.full_fds_bits", table.at("full_fds_bits_init"))
    table.set("next_fd", _FIRST_FD + len(files))
    bits = 0
    for descriptor, file in enumerate(files, _FIRST_FD):
        table.set(f"fd_array[{descriptor}]", file)
        bits |= 1 << descriptor
    table.set("open_fds_init[0]", bits)
    return arena.finish(table)


def _file(arena: Arena, inode: Struct, mode: int, pipe: int) -> int:
    # Pipes without a name have operations of their own since 6.15.
    operations = "pipeanon_fops" if arena.has("pipeanon_fops") else "pipefifo_fops"
    file = new_file(arena, inode.address, operations, mode)
    file.set("private_data", pipe)
    return arena.finish(file)


def _inode(arena: Arena, pipe: PipeState, number: int) -> Struct:
    inode = new_inode(arena, _MODE)
    inode.set("i_ino", number)
    inode.set("i_pipe", _pipe(arena, pipe))
    arena.finish(inode)
    return inode


def _pipe_of(inode: Struct) -> int:
    at = inode.offset("i_pipe")
    return int.from_bytes(inode.data[at : at + 8], "little")


def _pipe(arena: Arena, pipe: PipeState) -> int:
    """``struct pipe_inode_info``, and the array of its buffers where the model put that."""
    size, count = arena.profile.types.sizeof("struct page"), len(pipe.slots)
    buffers = bytearray()
    for slot, pfn in enumerate(pipe.slots):
        buffer = Struct(arena.profile, "struct pipe_buffer")
        if pfn:
            # A consumed buffer keeps the page's address, and loses its operations.
            buffer.set("page", arena.addresses.page(pfn, size))
            buffer.set("len", arena.profile.page_size)
            if (slot - pipe.tail) % count < pipe.used:
                buffer.set("ops", arena.address("user_page_pipe_buf_ops"))
        buffers += buffer.data
    arena.memory.write(pipe.buffers, bytes(buffers))

    info = arena.struct("struct pipe_inode_info")
    if not info.maybe("ring_size", count):
        info.set("buffers", count)
        info.set("curbuf", pipe.tail % count)
        info.set("nrbufs", pipe.used)
    else:
        info.set("max_usage", count)
        info.set("tail", pipe.tail)
        info.set("head", pipe.tail + pipe.used)
    for name, value in (("readers", 1), ("writers", 1), ("files", 2), ("r_counter", 1), ("w_counter", 1)):
        info.set(name, value)
    info.set("bufs", arena.addresses.direct(pipe.buffers))
    return arena.finish(info)
