"""Arrays of pages that the kernel keeps: of vmalloc areas, and of the rings of asynchronous I/O."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Object, TypeKind

from mmdump.holders import Case, Holder, Owner, State
from mmdump.kernel.layout import find_type, has_member
from mmdump_holders.areas import Areas

__all__ = ["find_aio_rings", "find_vmalloc"]

#: Contexts of asynchronous I/O of one process that are looked at, and pages of one.
_MAX_CONTEXTS = 1 << 12
_MAX_PAGES = 1 << 16


def find_vmalloc(case: Case) -> Iterator[Holder]:
    """Pages of vmalloc areas: kernel stacks, modules, tables. Each has one reference, its allocation's."""
    if not case.hits:
        return
    areas = Areas(case.kernel)
    for area in areas.rows:
        if not area.pages or not area.count:
            continue
        for hit in case.within(area.pages, 8 * area.count):
            index, inside = divmod(hit.address - area.pages, 8)
            if inside or hit.tag:
                continue
            task = case.tasks.by_stack.get(area.start)
            name = f"stack of {task.comm} {task.pid}" if task else ""
            caller = case.kernel.symbols.text(area.caller) if area.caller else ""
            what = f"page {index} of {area.count} at {area.start:#x}"
            owners = [Owner(task.pid, task.comm)] if task else []
            yield Holder(hit, "vmalloc", State.LIVE, what, name or caller, area.start, owners, 1)


def find_aio_rings(case: Case) -> Iterator[Holder]:
    """Rings of io_setup(2): pages of a file that nobody else has, held by their context too (fs/aio.c)."""
    if find_type(case.prog, "struct kioctx") is None or not case.hits:
        return
    seen = set()
    for task in case.tasks.rows:
        if not task.mm or task.mm in seen:
            continue
        seen.add(task.mm)
        try:
            yield from _of_process(case, task.mm, Owner(task.tgid, task.comm))
        except (FaultError, LookupError, AttributeError):
            continue


def _of_process(case: Case, mm: int, owner: Owner) -> Iterator[Holder]:
    space = Object(case.prog, "struct mm_struct *", mm)
    if not has_member(space.type_.type, "ioctx_table"):
        return
    table = space.ioctx_table.read_()
    for index in range(min(int(table.nr.value_()), _MAX_CONTEXTS) if table else 0):
        context = table.table[index].read_()
        if not context:
            continue
        # Folios since 6.9.
        name = "ring_folios" if has_member(context.type_.type, "ring_folios") else "ring_pages"
        pages, count = context.member_(name), min(int(context.nr_pages.value_()), _MAX_PAGES)
        kind = pages.type_.unaliased().kind
        start = pages.value_() if kind == TypeKind.POINTER else pages.address_of_().value_()
        for hit in case.within(start, 8 * count):
            number, inside = divmod(hit.address - start, 8)
            if not inside and not hit.tag:
                what = f"page {number} of {count} of the ring at user address {context.user_id.value_():#x}"
                yield Holder(hit, "aio", State.LIVE, what, "", context.value_(), [owner], 1)
