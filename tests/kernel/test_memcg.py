"""Memory cgroups of pages: what the word of a page means, by its flags and by what there is of the kernel."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from drgn import Object, TypeMember

from mmdump.kernel.memcg import Charge, MemoryCgroups
from tests.kernel.builders import Kernelish

BASE = 0xFFFF888000010000
#: Objects in memory: two cgroups (each struct mem_cgroup, cgroup, kernfs_node), and one objcg.
ROOT, CHILD, OBJCG, LOOP = BASE, BASE + 0x1000, BASE + 0x2000, BASE + 0x3000
ONLINE = 2


def cgroup(at: int, *, parent: int, online: bool, inode: int, name: bytes, above: int) -> dict[int, bytes]:
    """A mem_cgroup at an address, with its cgroup at +0x100, kernfs node at +0x200 and name at +0x300."""
    block = bytearray(0x400)
    struct.pack_into("<QQQ", block, 0, at + 0x100, parent, ONLINE * online)
    struct.pack_into("<Q", block, 0x100, at + 0x200)
    struct.pack_into("<QQQ", block, 0x200, above + 0x200 if above else 0, at + 0x300, inode)
    block[0x300 : 0x300 + len(name)] = name
    return {at: bytes(block)}


def machine(*, objexts: bool = True, always: bool = False, flags: bool = True) -> MemoryCgroups:
    memory = (
        cgroup(ROOT, parent=0, online=True, inode=1, name=b"", above=0)
        | cgroup(CHILD, parent=ROOT, online=False, inode=77, name=b"job.slice", above=ROOT)
        | cgroup(LOOP, parent=LOOP, online=False, inode=5, name=b"loop", above=LOOP)
        | {OBJCG: struct.pack("<QQ", CHILD, 0)}
    )
    made = Kernelish(memory)
    prog = made.prog
    u64 = made.integer(8)
    char = prog.pointer_type(made.integer(1))
    node = prog.struct_type("kernfs_node", 24, node_members(prog, char, u64))
    made.types["struct kernfs_node"] = node
    group = made.struct("cgroup", 8, {"kn": (prog.pointer_type(node), 0)})
    css = made.struct(
        "cgroup_subsys_state",
        24,
        {"cgroup": (prog.pointer_type(group), 0), "parent": (u64, 8), "flags": (u64, 16)},
    )
    memcg = made.struct("mem_cgroup", 24, {"css": (css, 0)})
    members = {"memcg": (prog.pointer_type(memcg), 0)} | ({"is_root": (u64, 8)} if always else {})
    made.struct("obj_cgroup", 16, members)
    made.struct("page", 64, {"memcg_data": (u64, 56)})
    if flags:
        name = "MEMCG_DATA_OBJEXTS" if objexts else "MEMCG_DATA_OBJCGS"
        made.enum("page_memcg_data_flags", {name: 1, "MEMCG_DATA_KMEM": 2})
    made.objects["CSS_ONLINE"] = Object(prog, made.integer(4), value=ONLINE)
    return MemoryCgroups(prog)


def node_members(prog, char, u64):
    def pointer():
        return prog.pointer_type(prog.type("struct kernfs_node"))

    return [TypeMember(pointer, "parent", 0), TypeMember(char, "name", 64), TypeMember(u64, "id", 128)]


def test_a_page_is_charged_to_a_cgroup_directly_or_through_an_objcg() -> None:
    cgroups = machine()
    assert cgroups.charge(ROOT) == Charge(ROOT, path="/", ino=1)
    child = Charge(CHILD, objcg=True, online=False, path="/job.slice", ino=1)
    assert cgroups.charge(OBJCG | 2) == child
    assert cgroups.charge(0) == Charge()
    assert cgroups.charge(ROOT | 1) == Charge(slab=True)


def test_since_7_1_every_charge_goes_through_an_objcg() -> None:
    assert machine(always=True).charge(OBJCG).memcg == CHILD


def test_before_5_11_the_word_is_a_pointer_with_one_flag() -> None:
    cgroups = machine(flags=False)
    assert cgroups.charge(CHILD).memcg == CHILD
    assert cgroups.charge(CHILD | 1).slab


@pytest.mark.parametrize("word", [8, 0xDEAD000000000000, (1 << 64) - 8, BASE + 0x100000])
def test_garbage_is_charged_to_nobody(word: int) -> None:
    assert machine().charge(word).ino == 0


def test_a_hierarchy_without_an_end_is_no_hang() -> None:
    assert machine().charge(LOOP) == Charge(LOOP, online=False, path=None, ino=0)


def test_inodes_of_many_pages_are_looked_up_once_each() -> None:
    words = np.array([0, ROOT, OBJCG | 2, ROOT, ROOT | 1], np.uint64)
    assert machine().inodes(words).tolist() == [0, 1, 1, 1, 0]
