"""Names of memory cgroups, by what page->memcg_data holds in several kernels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mmdump_page_owner.memcg import charged_text, charged_to
from tests.kernel.builders import Kernelish

MEMCG, OBJCG, CGROUP, NODE, PARENT, NAME = (0xFFFF888000010000 + 0x1000 * each for each in range(6))


def kernel(*, objexts: bool = False, is_root: bool = False, parent: int = PARENT, flags: int = 2) -> Any:
    """A kernel with one memory cgroup, "web", and an obj_cgroup of it."""
    words = {
        MEMCG: (CGROUP, flags),
        OBJCG: (MEMCG, 0),
        CGROUP: (NODE, 0),
        NODE: (NAME, parent),
    }
    machine = Kernelish(
        {at: b"".join(word.to_bytes(8, "little") for word in row) for at, row in words.items()}
    )
    machine.add(NAME, b"web\x1b\0".ljust(128, b"\0"))
    prog = machine.prog
    long, text = machine.integer(8), prog.pointer_type(machine.integer(1))
    node = machine.struct("kernfs_node", 16, {"name": (text, 0), "parent": (long, 8)})
    cgroup = machine.struct("cgroup", 16, {"kn": (prog.pointer_type(node), 0)})
    css = machine.struct("css", 16, {"cgroup": (prog.pointer_type(cgroup), 0), "flags": (long, 8)})
    memcg = machine.struct("mem_cgroup", 16, {"css": (css, 0)})
    members = {"memcg": (prog.pointer_type(memcg), 0)} | ({"is_root": (long, 8)} if is_root else {})
    machine.struct("obj_cgroup", 16, members)
    slab = "MEMCG_DATA_OBJEXTS" if objexts else "MEMCG_DATA_OBJCGS"
    machine.enum("page_memcg_data_flags", {slab: 1, "MEMCG_DATA_KMEM": 2})
    return SimpleNamespace(target=machine.target)


@pytest.mark.parametrize(
    ("of", "data", "name", "text"),
    [
        (kernel(), 0, None, ""),
        (kernel(), MEMCG, "web\\x1b", "Charged to memcg web\\x1b\n"),
        (kernel(flags=0), MEMCG, "web\\x1b", "Charged to offline memcg web\\x1b\n"),
        (kernel(parent=0), MEMCG, "/", "Charged to memcg /\n"),
        (kernel(), OBJCG | 2, "web\\x1b", "Charged (via objcg) to memcg web\\x1b\n"),
        (kernel(objexts=True), OBJCG | 2, "web\\x1b", "Charged (via objcg) to memcg web\\x1b\n"),
        (kernel(), OBJCG | 1, None, "Slab cache page\n"),
        # Since 7.1 every page is charged to an obj_cgroup.
        (kernel(objexts=True, is_root=True), OBJCG, "web\\x1b", "Charged to memcg web\\x1b\n"),
        (
            kernel(objexts=True, is_root=True),
            OBJCG | 2,
            "web\\x1b",
            "Charged (via objcg) to memcg web\\x1b\n",
        ),
        (kernel(), 0xFFFF888000FF0000, None, ""),
        (kernel(), (1 << 64) - 8, None, ""),
    ],
)
def test_a_page_is_charged_to_the_cgroup_that_its_word_leads_to(of, data: int, name, text: str) -> None:
    assert charged_to(of, data) == name
    assert charged_text(of, data) == text
