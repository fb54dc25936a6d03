"""What a kernel's read-only data says: tables of names, and the format strings that page_owner prints with.

The tables are variables, declared in ``include/variables/tables.h``; :func:`tables` has what they hold.
The strings have no name: a reader finds them by what they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mmdump_snapshots.kernels import gfp
from mmdump_snapshots.model.era import Pinner

if TYPE_CHECKING:
    from mmdump_snapshots.kernels.profiles import Profile

__all__ = [
    "Element",
    "Reference",
    "page_owner_formats",
    "page_pinner_print_fmt",
    "pinner_formats",
    "strings",
    "tables",
]


@dataclass(frozen=True)
class Reference:
    """The address of a variable."""

    variable: str


#: An element of a table, by its members (``""`` where it is no structure): a number, a string that it points
#: to, None for a null pointer, or the address of a variable.
Element: TypeAlias = Mapping[str, "int | str | Reference | None"]

#: ``__def_pageflag_names`` (include/trace/events/mmflags.h); a kernel has those of its ``enum pageflags``.
_PAGE_FLAGS = (
    "locked waiters error referenced uptodate dirty lru active workingset slab owner_priv_1 owner_2 arch_1 "
    "reserved private private_2 writeback head mappedtodisk reclaim swapbacked unevictable dropbehind "
    "mlocked uncached hwpoison"
)


def _page_flag_names(profile: Profile) -> list[tuple[int, str | None]]:
    """``pageflag_names``: (mask, name), with the end mark ``(0, None)``."""
    flags = profile.types.enumerators("enum pageflags")
    names = _PAGE_FLAGS.split()
    if profile.version >= (6, 12):
        # 6.12 gave these bits away: what was mappedtodisk is an alias of owner_2.
        names = [name for name in names if name not in {"error", "slab", "mappedtodisk", "uncached"}]
    # 6.6 named idle before young.
    names += ["idle", "young"] if profile.version >= (6, 6) else ["young", "idle"]
    names += ["arch_2", "arch_3", "skip_kasan_poison"]
    found: list[tuple[int, str | None]] = [
        (1 << flags[f"PG_{name}"], name) for name in names if f"PG_{name}" in flags
    ]
    return [*found, (0, None)]


def _migratetypes(profile: Profile) -> list[str]:
    """``migratetype_names``, by the numbers of ``enum migratetype``."""
    texts = {
        "MIGRATE_UNMOVABLE": "Unmovable",
        "MIGRATE_MOVABLE": "Movable",
        "MIGRATE_RECLAIMABLE": "Reclaimable",
        "MIGRATE_HIGHATOMIC": "HighAtomic",
        "MIGRATE_CMA": "CMA",
        "MIGRATE_ISOLATE": "Isolate",
    }
    numbers = profile.types.enumerators("enum migratetype")
    named = {numbers[name]: text for name, text in texts.items() if name in numbers}
    return [named[number] for number in range(numbers["MIGRATE_TYPES"])]


def _migrate_reasons(profile: Profile) -> list[str]:
    """``migrate_reason_names`` (mm/debug.c)."""
    texts = [
        "compaction",
        "memory_failure",
        "memory_hotplug",
        "syscall_or_cpuset",
        "mempolicy_mbind",
        "numa_misplaced",
        "contig_range" if profile.version >= (5, 15) else "cma",
        "longterm_pin",
        "demotion",
        "damon",
    ]
    return texts[: profile.types.enumerators("enum migrate_reason")["MR_TYPES"]]


def _fields(profile: Profile) -> list[Element]:
    """``pff`` (lib/vsprintf.c): the numbers in page->flags, from the top down.

    Mirrors ``include/linux/page-flags-layout.h`` for SPARSEMEM_VMEMMAP: no section; node, zone, and with
    CONFIG_NUMA_BALANCING the CPU and the low bits of the PID that touched a page last.
    """
    zones = (profile.types.constant("__MAX_NR_ZONES") - 1).bit_length()
    nodes = profile.number("CONFIG_NODES_SHIFT") if profile.has("CONFIG_NUMA") else 0
    last = 0
    if profile.has("CONFIG_NUMA_BALANCING"):
        last = 8 + (profile.number("CONFIG_NR_CPUS") - 1).bit_length()
    found: list[Element] = []
    shift = 64
    for name, width in (
        ("section", 0),
        ("node", nodes),
        ("zone", zones),
        ("lastcpupid", last),
        ("kasantag", 0),
    ):
        shift -= width
        spec = "default_flag_spec" if name in {"lastcpupid", "kasantag"} else "default_dec_spec"
        found.append(
            {
                "width": width,
                # Where there is nothing, its shift is 0.
                "shift": shift if width else 0,
                "mask": (1 << width) - 1,
                "spec": Reference(spec),
                "name": name,
            }
        )
    return found


#: ``task_state_array`` (fs/proc/array.c).
_TASK_STATES = (
    "R (running)",
    "S (sleeping)",
    "D (disk sleep)",
    "T (stopped)",
    "t (tracing stop)",
    "X (dead)",
    "Z (zombie)",
    "P (parked)",
    "I (idle)",
)


def _trace_clocks(profile: Profile) -> list[Element]:
    """``trace_clocks`` (kernel/trace/trace.c)."""
    names = ["local", "global", "counter", "uptime", "perf", "mono", "mono_raw", "boot"]
    names += ["tai"] if profile.version >= (5, 19) else []
    names += ["x86-tsc"] if profile.arch == "x86_64" else []
    return [{"name": name, "in_ns": int(name not in ("counter", "uptime", "x86-tsc"))} for name in names]


def page_pinner_print_fmt(profile: Profile, *, reason: bool = False) -> str:
    """``print_fmt`` of the page pinner's events (include/trace/events/page_pinner.h).

    :param reason: Of the event that tells why a page was to be migrated (the RFC's second version).
    """
    names = ", ".join(
        f'{{ 1UL << PG_{name}, "{name}" }}' for _, name in _page_flag_names(profile) if name is not None
    )
    mask = f"((1UL << {profile.types.enumerators('enum pageflags')['__NR_PAGEFLAGS']}) - 1)"
    words, more = (" reason=%s err=%d", ", REC->reason, REC->err") if reason else ("", "")
    return (
        f'"pfn=0x%lx flags=%s count=%d mapcount=%d mapping=%p mt=%d{words}", REC->pfn, '
        f'(REC->flags & {mask}) ? __print_flags(REC->flags & {mask}, "|", {names}) : "none", '
        f"REC->count, REC->mapcount, REC->mapping, REC->mt{more}"
    )


def _trace_heading(version: tuple[int, int]) -> list[str]:
    """Formats of the first lines of ``trace`` (``print_func_help_header_irq()``)."""
    precision = "%.*s" if version >= (5, 3) else "%s"
    indent = f"#                            {precision}"
    rows = ["irqs-off/BH-disabled" if version >= (6, 0) else "irqs-off", "need-resched", "hardirq/softirq"]
    rows += ["preempt-depth", *(["migrate-disable"] if version >= (5, 14) else [])]
    count = len(rows)
    found = [
        f"{indent}{'|' * max(index - 1, 0)}{' /' if index else '  '} _{'-' * (count - index)}=> {row}\n"
        if index
        else f"{indent}  _{'-' * count}=> {row}\n"
        for index, row in enumerate(rows)
    ]
    bars = "|" * count
    found.append(f"{indent}{'|' * (count - 1)} /     delay\n")
    found += [
        f"#           TASK-PID  {precision} CPU#  {bars}  TIMESTAMP  FUNCTION\n",
        f"#              | |    {precision}   |   {bars}     |         |\n",
        "#           TASK-PID    %s CPU#     TIMESTAMP  FUNCTION\n",
        "#              | |      %s   |         |         |\n",
        "%16s-%-7d " if version >= (5, 9) else "%16s-%-5d ",
    ]
    return found


def tables(profile: Profile) -> dict[str, list[Element]]:
    """What the tables hold, by the name of the variable; as many elements as it is long."""

    def pairs(names: list[tuple[int, str | None]]) -> list[Element]:
        return [{"mask": mask, "name": name} for mask, name in names]

    def pointers(names: list[str] | tuple[str, ...]) -> list[Element]:
        return [{"": name} for name in names]

    found = {
        "gfpflag_names": pairs(gfp.flag_names(profile.version)),
        "pageflag_names": pairs(_page_flag_names(profile)),
        "migratetype_names": pointers(_migratetypes(profile)),
        "migrate_reason_names": pointers(_migrate_reasons(profile)),
        "task_state_array": pointers(_TASK_STATES),
    }
    if profile.has("CONFIG_TRACING"):
        found["trace_clocks"] = _trace_clocks(profile)
    if profile.version >= (5, 13):
        found["pff"] = _fields(profile)
    return found


def page_owner_formats(version: tuple[int, int]) -> tuple[str, str]:
    """The formats of a record's first two lines in /sys/kernel/debug/page_owner (``print_page_owner()``)."""
    first = "Page allocated via order %u, mask %#x(%pGg)"
    if version >= (5, 18):
        first += ", pid %d, tgid %d (%s), ts %llu ns"
    elif version >= (5, 11):
        first += ", pid %d, ts %llu ns"
    if (5, 13) <= version < (6, 7):
        first += ", free_ts %llu ns"
    # 6.5 prints the PFN in hex. %pGp brings the word itself since 5.16.
    pfn = "PFN 0x%lx" if version >= (6, 5) else "PFN %lu"
    flags = "%pGp" if version >= (5, 16) else "%#lx(%pGp)"
    return f"{first}\n", f"{pfn} type %s Block %lu type %s Flags {flags}\n"


def pinner_formats(pinner: Pinner) -> list[str]:
    """The formats of Android's files in /sys/kernel/debug/page_pinner (``print_page_pinner()``)."""
    if pinner < Pinner.A0:
        return []
    if pinner < Pinner.A2:
        return [
            "Page pinned ts %lld us count %d\n",
            "PFN %lu Block %lu type %s Flags %#lx(%pGp)\n",
        ]
    found = ["PFN 0x%lx Block %lu count %d mapcount %d mapping %pS Flags %#lx(%pGp)\n"]
    if pinner < Pinner.B0:
        return ["Page pinned for %lld us\n", "Page pinned ts [%5lu.%06lu]\n", *found]
    unsigned = "u" if pinner >= Pinner.B2 else "d"
    long = f"At least, pinned for %ll{unsigned} us\n"
    return [long, "%s [%5lu.%06lu]\n", "Freed at", "Failure detected at", *found]


def strings(profile: Profile) -> list[str]:
    """Strings without a name that readers look for; each stands between NULs."""
    found = [*page_owner_formats(profile.version), "Page has been migrated, last migrate reason: %s\n"]
    if profile.has("CONFIG_TRACING"):
        found += _trace_heading(profile.version)
    if profile.version >= (5, 18) and profile.has("CONFIG_MEMCG"):
        found += ["Slab cache page\n", "Charged %sto %smemcg %s\n"]
    found += pinner_formats(profile.pinner)
    # __dump_page() at KERN_WARNING: %pGp brings the word itself since 5.16.
    found.append("\x014%sflags: %pGp%s\n" if profile.version >= (5, 16) else "\x014%sflags: %#lx(%pGp)%s\n")
    if profile.version >= (6, 9):
        # 7.1 prints the empty line apart.
        found.append("nr_base_pages: %d\n" if profile.version >= (7, 1) else "nr_base_pages: %d\n\n")
    if profile.version >= (6, 10) and profile.has("CONFIG_MEM_ALLOC_PROFILING"):
        inaccurate = profile.version >= (6, 18)
        found += [f"allocinfo - version: {2 if inaccurate else 1}.0\n", "#     <size>  <calls> <tag info>\n"]
        found += [" accurate:no"] if inaccurate else []
    return found
