"""From a page to the areas that map it, from an inode to its name: bounded (mm/rmap.c, fs/dcache.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from drgn import FaultError, Object, container_of

from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import has_member
from mmdump.kernel.mms import read_address_spaces
from mmdump.pagenotes import Fact
from mmdump.result import Kind
from mmdump.target.faults import fault_words

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["mapped_at", "path_in_filesystem"]

#: Areas of one file or anon_vma that are looked at: libc is mapped by every process.
_MAX_AREAS = 512
#: Of those that map the page, so many are named.
_MAX_NAMED = 32
#: No path has more names (PATH_MAX / 2).
_MAX_DEPTH = 256
#: Names of one inode that are tried.
_MAX_NAMES = 16


def mapped_at(kernel: Kernel, tree: Object, index: int, pfn: int, *, anon: bool) -> list[Fact]:
    """Where a page is mapped: address and process, by the interval tree of areas that may map it.

    Whether they do is asked of their page tables, ``page_vma_mapped_walk()``.

    :param tree: ``address_space.i_mmap`` of struct vm_area_struct, or ``anon_vma.rb_root`` of
        struct anon_vma_chain.
    :param index: The page's place in the file or anonymous mapping, in pages.
    """
    places: list[str] = []
    looked = unknown = 0
    cut = False
    shift = kernel.target.page_shift
    names = _Names(kernel)
    try:
        for area in _areas(kernel, tree, anon=anon):
            if looked >= _MAX_AREAS or len(places) >= _MAX_NAMED:
                cut = True
                break
            looked += 1
            start, end, first = area.vm_start.value_(), area.vm_end.value_(), area.vm_pgoff.value_()
            address = start + ((index - first) << shift)
            if not start <= address < end:
                continue
            mm = area.vm_mm.read_()
            at = _mapped(mm, address, shift)
            if at is None:
                unknown += 1
            elif at == pfn:
                places.append(f"{address:#x} of {names.of(mm.value_())}")
    except (FaultError, _CycleError) as error:
        places.append(f"and perhaps elsewhere: {fault_words(error)}")
    facts = [Fact("areas looked at", looked, Kind.COUNT)]
    facts.append(Fact("mapped at", places) if places else Fact("mapped at", "no address"))
    if cut:
        facts.append(Fact("and", "more areas that were not looked at"))
    if unknown:
        facts.append(Fact("page tables not in the dump", unknown, Kind.COUNT))
    return facts


class _CycleError(Exception):
    """A tree that has no end."""


def _areas(kernel: Kernel, tree: Object, *, anon: bool) -> Iterator[Object]:
    """The areas of an interval tree, in no order; ``struct rb_root`` up to 4.13, with its leftmost since."""
    prog = kernel.target.prog
    node = (tree.rb_root if has_member(tree.type_, "rb_root") else tree).rb_node.value_()
    waiting, seen = [node] if node else [], set()
    while waiting:
        address = waiting.pop()
        if address in seen:
            raise _CycleError("the tree of areas is a circle")
        seen.add(address)
        link = Object(prog, "struct rb_node *", address)
        if anon:
            yield container_of(link, "struct anon_vma_chain", "rb").vma.read_()
        else:
            yield container_of(link, "struct vm_area_struct", "shared.rb")
        if len(seen) <= 2 * _MAX_AREAS:
            children = link.rb_left.value_(), link.rb_right.value_()
            waiting += [child for child in children if child]


def _mapped(mm: Object, address: int, shift: int) -> int | None:
    """The PFN mapped at a user address: -1 for none, None where the tables cannot be read."""
    from drgn.helpers.linux.mm import follow_phys

    try:
        return int(follow_phys(mm, address).value_()) >> shift
    except FaultError as error:
        return -1 if error.address == address else None
    except (LookupError, ValueError, NotImplementedError):
        return None


class _Names:
    """Processes by the address of their mm_struct; the tasks are gone through once, when first needed."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._processes: dict[int, str] | None = None

    def of(self, mm: int) -> str:
        """Names and PIDs."""
        if self._processes is None:
            spaces = read_address_spaces(self._kernel.target.prog).spaces
            self._processes = {
                each.address: ", ".join(f"{comm} {pid}" for pid, comm in each.processes[:4])
                for each in spaces
            }
        return self._processes.get(mm, f"an address space of no process (mm_struct {mm:#x})")


def path_in_filesystem(inode: Object) -> str | None:
    """A path of an inode from the root of its filesystem, by its first dentry that has one; None for none.

    Where that filesystem is mounted is another question.

    :raises drgn.FaultError: A dentry is not in the dump.
    """
    prog = inode.prog_
    entry = prog.type("struct dentry")
    # The list's link shares a union with others, called d_u up to 7.0 or so.
    member = "d_u.d_alias" if has_member(entry, "d_u.d_alias") else "d_alias"
    link = inode.i_dentry.first.read_()
    for _ in range(_MAX_NAMES):
        if not link:
            return None
        path = _path(container_of(link, entry, member))
        if path is not None:
            return path
        link = link.next.read_()
    return None


def _path(dentry: Object) -> str | None:
    """``dentry_path()``; None where the way up has no end."""
    names: list[str] = []
    for _ in range(_MAX_DEPTH):
        parent = dentry.d_parent.read_()
        if not parent or parent.value_() == dentry.value_():
            return "/" + "/".join(reversed(names))
        raw = dentry.prog_.read_c_string(dentry.d_name.name.value_(), max_size=255)
        names.append(printable(raw))
        dentry = parent
    return None
