"""What all open files have: ``struct inode`` and ``struct file`` (include/linux/fs.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmdump_snapshots.writer.arena import Arena, Struct

__all__ = ["new_file", "new_inode"]


def new_inode(arena: Arena, mode: int) -> Struct:
    """An inode that somebody has, to be finished.

    :param mode: Its ``umode_t``.
    """
    inode = arena.struct("struct inode")
    inode.set("i_mode", mode)
    inode.set("i_nlink", 1)
    inode.set("i_count.counter", 1)
    inode.set("i_mapping", inode.at("i_data"))
    inode.set("i_data.host", inode.address)
    return inode


def new_file(arena: Arena, inode: int, operations: str, mode: int) -> Struct:
    """An open file of an inode, to be finished.

    :param inode: Its address.
    :param operations: The name of its ``struct file_operations``.
    :param mode: Its ``fmode_t``.
    """
    file = arena.struct("struct file")
    file.set("f_inode", inode)
    file.maybe("f_mapping", inode + arena.profile.types.member("struct inode", "i_data").offset)
    file.set("f_op", arena.address(operations))
    file.set("f_mode", mode)
    file.maybe("f_count.counter", 1)
    return file
