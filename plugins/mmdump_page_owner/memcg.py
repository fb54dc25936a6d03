"""Which memory cgroup a page is charged to, and the line that says so (``print_page_owner_memcg()``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import FaultError, Object

from mmdump.kernel.layout import c_string, enumerators, find_object, find_type, has_member

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["charged_text", "charged_to"]


def _css_online(kernel: Kernel) -> int:
    found = find_object(kernel.target.prog, "CSS_ONLINE")
    return int(found.value_()) if found is not None else 1 << 1


def charged_text(kernel: Kernel, memcg_data: int) -> str:
    """The text for a value of ``page->memcg_data``; empty where nothing is charged, or it is garbage.

    Some stable kernels (6.12.117 is one) got the printing of 7.2, which takes every pointer for an
    obj_cgroup, without the change that makes it one: they print nothing for pages charged to the root, and
    crash on others. What is printed here is what the pages say.
    """
    if not memcg_data:
        return ""
    slab, kmem = _bits(kernel)
    if memcg_data & slab:
        return "Slab cache page\n"
    found = _charged(kernel, memcg_data)
    if found is None:
        return ""
    name, online = found
    by_objcg = "(via objcg) " if memcg_data & kmem else ""
    return f"Charged {by_objcg}to {'' if online else 'offline '}memcg {name}\n"


def charged_to(kernel: Kernel, memcg_data: int) -> str | None:
    """The name of the memory cgroup that is charged; None where none is, or it is garbage.

    A slab page is charged object by object, to several.
    """
    found = _charged(kernel, memcg_data) if memcg_data and not memcg_data & _bits(kernel)[0] else None
    return None if found is None else found[0]


def _bits(kernel: Kernel) -> tuple[int, int]:
    """The flags that make ``memcg_data`` a slab page's vector, and an obj_cgroup."""
    bits = enumerators(kernel.target.prog, "enum page_memcg_data_flags")
    # MEMCG_DATA_OBJEXTS since 6.10, MEMCG_DATA_OBJCGS before.
    return bits.get("MEMCG_DATA_OBJEXTS", bits.get("MEMCG_DATA_OBJCGS", 1)), bits.get("MEMCG_DATA_KMEM", 2)


def _charged(kernel: Kernel, memcg_data: int) -> tuple[str, bool] | None:
    """Name of the memory cgroup and whether it is online; None where there is none to be had.

    5.11 to 7.0: a ``struct mem_cgroup``, or with MEMCG_DATA_KMEM a ``struct obj_cgroup``. Since 7.1 always
    the latter, which then knows whether it is the root's.
    """
    prog = kernel.target.prog
    bits = enumerators(prog, "enum page_memcg_data_flags")
    # Below the pointer are flags: two up to 6.9, three since.
    pointer = memcg_data & ~(7 if "MEMCG_DATA_OBJEXTS" in bits else 3)
    always = has_member(find_type(prog, "struct obj_cgroup"), "is_root")
    try:
        if always or memcg_data & _bits(kernel)[1]:
            memcg = Object(prog, "struct obj_cgroup *", pointer).memcg.read_()
        else:
            memcg = Object(prog, "struct mem_cgroup *", pointer)
        if not memcg:
            return None
        online = memcg.css.flags.value_() & _css_online(kernel)
        node = memcg.css.cgroup.kn
        # kernfs_name(): the root has no name of its own. Its parent's member was renamed in 6.15.
        parent = node.member_("__parent" if has_member(node.type_.type, "__parent") else "parent")
        return c_string(node.name, 79) if parent else "/", bool(online)
    except (FaultError, LookupError, AttributeError):
        return None
