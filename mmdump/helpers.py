"""
Page Extensions
---------------

The ``mmdump.helpers`` module provides helpers for single pages in the style of :mod:`drgn.helpers.linux`:
they take and return drgn objects, and need drgn alone. They read one page at a time, from
:linux:`include/linux/page_ext.h` and what is kept there by :linux:`mm/page_owner.c` and by the page pinner.

To look at many pages use mmdump's commands, which read whole columns at once.
"""

from __future__ import annotations

from drgn import NULL, Object, ObjectNotFoundError, Program, cast, sizeof
from drgn.helpers.linux.mm import page_to_pfn
from drgn.helpers.linux.mmzone import pfn_to_section

__all__ = (
    "page_ext",
    "page_ext_data",
    "page_owner",
    "page_owner_allocated",
    "page_pinner",
)


def page_ext(page: Object) -> Object:
    """
    Get the page extension of a page.

    This only supports SPARSEMEM.

    :param page: ``struct page *``
    :return: ``struct page_ext *``. ``NULL`` if the kernel has no page extensions, or if there is none for
        the page.
    """
    prog = page.prog_
    null = _null(prog, "struct page_ext")
    size = _page_ext_size(prog)
    if not size:
        return null
    pfn = page_to_pfn(page)
    section = pfn_to_section(pfn)
    if not section:
        return null
    base = section.page_ext
    # Since "mm: fix use-after free of page_ext after race with memory-offline" (in v6.1), the lowest bit
    # (PAGE_EXT_INVALID, a macro) marks the extensions of a section that goes offline.
    if not base or base.value_() & 0x1:
        return null
    # The base is biased so that it is indexed by the absolute PFN. The sum may wrap around, as in C.
    return cast(base.type_, cast("unsigned long", base) + pfn * size)


def page_ext_data(page_ext: Object, ops: Object) -> Object:
    """
    Get the data that one user of page extensions keeps for a page.

    >>> ops = prog["page_owner_ops"]
    >>> cast("struct page_owner *", page_ext_data(page_ext(page), ops))

    :param page_ext: ``struct page_ext *``
    :param ops: ``struct page_ext_operations``
    :return: ``void *``. ``NULL`` if *page_ext* is.
    """
    if not page_ext:
        return NULL(page_ext.prog_, "void *")
    return cast("void *", cast("unsigned long", page_ext) + ops.offset)


def page_owner(page: Object) -> Object:
    """
    Get the record of the last allocation of a page, kept by ``CONFIG_PAGE_OWNER``.

    A page that was freed keeps its record; see :func:`page_owner_allocated()`. Its stack traces can be looked
    up with :func:`drgn.helpers.linux.stackdepot.stack_depot_fetch()`:

    >>> stack_depot_fetch(page_owner(page).handle)

    Before Linux 5.4, only the first page of an allocation has a record.

    :param page: ``struct page *``
    :return: ``struct page_owner *``. ``NULL`` if the kernel was not booted with ``page_owner=on``, or if the
        page was not allocated since.
    """
    prog = page.prog_
    ext = _enabled_page_ext(page, "page_owner")
    if not ext or not _test_flag(ext, "PAGE_EXT_OWNER"):
        return _null(prog, "struct page_owner")
    return cast("struct page_owner *", page_ext_data(ext, prog["page_owner_ops"]))


def page_owner_allocated(page: Object) -> bool:
    """
    Return whether a page is allocated according to ``CONFIG_PAGE_OWNER``.

    A page on a per-CPU list of free pages is not.

    :param page: ``struct page *``
    """
    ext = _enabled_page_ext(page, "page_owner")
    # "mm, page_owner: keep owner info when freeing the page" (in v5.4) added the second flag: before, freeing
    # a page cleared the first.
    flag = "PAGE_EXT_OWNER_ALLOCATED" if "PAGE_EXT_OWNER_ALLOCATED" in page.prog_ else "PAGE_EXT_OWNER"
    return bool(ext) and _test_flag(ext, flag)


def page_pinner(page: Object) -> bool:
    """
    Return whether the page pinner marked a page.

    This means that the page stood in the way of a contiguous allocation, or could not be migrated. The page
    pinner is not in mainline Linux: it was `proposed <https://lore.kernel.org/all/
    20211206184730.858850-1-minchan@kernel.org/>`_ in two forms, and Android has another.

    :param page: ``struct page *``
    """
    for name, flag in (
        ("page_pinner", "PAGE_EXT_PINNER"),
        ("page_pin_owner", "PAGE_EXT_PIN_OWNER"),
        ("page_pinner", "PAGE_EXT_PINNER_MIGRATION_FAILED"),
    ):
        ext = _enabled_page_ext(page, name)
        if ext and _test_flag(ext, flag):
            return True
    return False


def _null(prog: Program, type_name: str) -> Object:
    """A null pointer to that type, or to void if the kernel does not have it."""
    try:
        return NULL(prog, prog.pointer_type(prog.type(type_name)))
    except LookupError:
        return NULL(prog, "void *")


def _page_ext_size(prog: Program) -> int:
    """Size of a page extension with all its data, 0 if there are none."""
    try:
        size: int = prog["page_ext_size"].value_()
        return size
    except ObjectNotFoundError:
        # Before "mm, page_owner: fix off-by-one error in __set_page_owner_handle()" (in v5.4), it was static,
        # and counted without struct page_ext itself.
        try:
            size = prog.object("extra_mem", filename="page_ext.c").value_()
            size += sizeof(prog.type("struct page_ext"))
            return size
        except LookupError:
            return 0


def _enabled_page_ext(page: Object, name: str) -> Object:
    """The page extension of a page if the user of page extensions of that name is switched on."""
    prog = page.prog_
    try:
        enabled = prog[f"{name}_inited"].key.enabled.counter > 0
    except ObjectNotFoundError:
        enabled = False
    return page_ext(page) if enabled else NULL(prog, "void *")


def _test_flag(page_ext: Object, name: str) -> bool:
    try:
        bit = page_ext.prog_.constant(name)
    except LookupError:
        return False
    return bool(page_ext.flags & (1 << bit.value_()))
