"""The kernel's files as mmdump prints them: page_owner's records; the words of kpageflags and kpagecount."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.kernels.gfp import mask
from mmdump_snapshots.model.folio import MAPPING_ANON, MAPPING_KSM
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.model.pages import PageFlag, PageType
from mmdump_snapshots.model.truth_mapcount import page_table_mappings

from .decoded import MIGRATETYPE_NAMES, Decoded, equal, same_frames

__all__ = ["check_kpage", "check_page_owner_file"]


def _record(version: tuple[int, int]) -> re.Pattern[str]:
    """A record of /sys/kernel/debug/page_owner of a release (kernel: print_page_owner())."""
    first = r"Page allocated via order (?P<order>\d+), mask (?P<mask>0x[0-9a-f]+|0)\((?P<gfp>[^)]*)\)"
    if version >= (5, 11):
        first += r", pid (?P<pid>-?\d+)"
    if version >= (5, 18):
        first += r", tgid (?P<tgid>-?\d+) \((?P<comm>.*?)\)"
    if version >= (5, 11):
        first += r", ts (?P<ts>\d+) ns"
    if (5, 13) <= version < (6, 7):
        first += r", free_ts (?P<free_ts>\d+) ns"
    pfn = r"PFN 0x(?P<pfn>[0-9a-f]+)" if version >= (6, 5) else r"PFN (?P<pfn>\d+)"
    flags = r"(?P<flags>0x[0-9a-f]+)\((?P<names>[^)]*)\)"
    return re.compile(
        rf"{first}\n{pfn} type (?P<type>\w+) Block (?P<block>\d+) type (?P<block_type>\w+) Flags {flags}\n"
        r"(?P<stack>(?: .+\n)*)(?:Page has been migrated, last migrate reason: (?P<reason>\w+)\n)?"
        r"(?P<slab>Slab cache page\n)?(?P<memcg>Charged .*\n)?\n"
    )


def check_page_owner_file(decoded: Decoded) -> None:
    """Every allocation once, in the text of the kernel's release."""
    version, truth = decoded.profile.version, decoded.truth.owners
    if not truth.enabled:
        return
    text = decoded.file("page_owner").decode()
    records = truth.allocated
    rows = np.flatnonzero(records.first)
    found = []
    end = 0
    for match in _record(version).finditer(text):
        assert match.start() == end, text[end : match.start() + 200]
        end = match.end()
        found.append(match)
    assert end == len(text), text[end : end + 400]
    assert len(found) == len(rows)
    pfns = records.pfn[rows]
    masks = decoded.gfp(records["gfp"][rows])
    blocks = decoded.migratetype(pfns)
    words: dict[int, int] = {}
    for part in decoded.parts:
        words |= dict(zip(part.pfn.tolist(), part.pages.flags[part.rows].tolist(), strict=True))
    everything = (1 << decoded.profile.types.enumerators("enum pageflags")["__NR_PAGEFLAGS"]) - 1
    stacks: dict[str, tuple[str, ...]] = {}
    for row, pfn, gfp, block, match in zip(rows, pfns.tolist(), masks.tolist(), blocks, found, strict=True):
        record = {name: records[name][row] for name in records.members}
        assert int(match["pfn"], 16 if version >= (6, 5) else 10) == pfn
        assert int(match["order"]) == record["order"]
        assert int(match["mask"], 16) == gfp
        assert mask(version, match["gfp"].split("|")) == gfp
        for name in ("pid", "tgid", "ts", "free_ts"):
            if name in match.re.groupindex:
                assert int(match[name]) == record[name], name
        if "comm" in match.re.groupindex:
            assert match["comm"] == truth.comms[int(record["comm"])]
        assert match["type"] == _gfp_type(int(record["gfp"]))
        assert (int(match["block"]), match["block_type"]) == (pfn >> decoded.era.pageblock_order, block)
        # Since 5.16 the whole word, zone and node in it; what is in it is tested with the columns.
        assert int(match["flags"], 16) & everything == words[pfn] & everything
        assert _same_reason(match["reason"], int(record["migrate_reason"]))
        assert match["memcg"] is None
        # A slab whose objects have extensions, as each has that is made while memory is profiled.
        if match["slab"] is not None:
            assert decoded.machine.alloc_tags is not None
            assert decoded.machine.pages.type[pfn] == PageType.SLAB
        frames = truth.stacks[int(record["handle"])]
        if stacks.setdefault(match["stack"], frames) is not frames:
            assert stacks[match["stack"]] == frames
    for printed, frames in stacks.items():
        assert same_frames([line[1:] for line in printed.splitlines()], frames)


def _gfp_type(value: int) -> str:
    for flag in (Gfp.MOVABLE, Gfp.RECLAIMABLE):
        if value & flag:
            return {"MOVABLE": "Movable", "RECLAIMABLE": "Reclaimable"}[str(flag.name)]
    return MIGRATETYPE_NAMES[0]  # type: ignore[index]


#: ``enum migrate_reason`` as page_owner prints it; the sixth was "cma" before 5.15.
_REASONS = (
    *({"compaction"}, {"memory_failure"}, {"memory_hotplug"}, {"syscall_or_cpuset"}, {"mempolicy_mbind"}),
    *({"numa_misplaced"}, {"cma", "contig_range"}, {"longterm_pin"}, {"demotion"}, {"damon"}),
)


def _same_reason(printed: str | None, stored: int) -> bool:
    return printed is None if stored == 0 else printed in _REASONS[stored - 1]


# /proc/kpageflags, /proc/kpagecount

#: Bits of user space -> flags of the model (include/uapi/linux/kernel-page-flags.h).
_COPIED = {
    0: PageFlag.LOCKED,
    2: PageFlag.REFERENCED,
    3: PageFlag.UPTODATE | PageFlag.REPORTED,
    4: PageFlag.DIRTY,
    5: PageFlag.LRU,
    6: PageFlag.ACTIVE,
    8: PageFlag.WRITEBACK,
    9: PageFlag.RECLAIM,
    14: PageFlag.SWAPBACKED,
    18: PageFlag.UNEVICTABLE,
    32: PageFlag.RESERVED,
    33: PageFlag.MLOCKED,
    35: PageFlag.PRIVATE,
}
_SLAB, _BUDDY, _MMAP, _ANON, _SWAPCACHE, _HEAD, _TAIL, _THP, _KSM = 7, 10, 11, 12, 13, 15, 16, 22, 21
_OFFLINE, _PGTABLE = 23, 26
_OWN = (_SLAB, _BUDDY, _MMAP, _ANON, _SWAPCACHE, _HEAD, _TAIL, _THP, _KSM, _OFFLINE, _PGTABLE)
_CHECKED = sum(1 << bit for bit in (*_COPIED, *_OWN))


def check_kpage(decoded: Decoded) -> None:
    """Both files: a word for every PFN from 0 on."""
    machine = decoded.machine
    pages = machine.pages
    flags = np.frombuffer(decoded.file("kpageflags"), "<u8")
    counts = np.frombuffer(decoded.file("kpagecount"), "<u8")
    assert len(flags) == len(counts) == pages.count
    present = np.zeros(pages.count, bool)
    for part in decoded.parts:
        present[part.pages.start : part.pages.end] = True
    assert (flags[~present] == 1 << 20).all()
    pfn = np.concatenate([part.pfn for part in decoded.parts])
    head = pfn - pages.tail[pfn].astype(np.int64)
    mappings = page_table_mappings(machine)
    own, whole = np.zeros(pages.count, np.int64), np.zeros(pages.count, np.int64)
    own[mappings.pte_pfns] = mappings.pte_counts
    for folio, pmds in mappings.pmds.items():
        whole[folio] = pmds
    equal("kpagecount", counts[pfn], (own[pfn] + whole[head]).astype(np.uint64), pfn)
    assert not counts[~np.isin(np.arange(len(counts)), pfn)].any()

    expected = _kpageflags(decoded, pfn, head, own, whole)
    checked = np.full(len(pfn), _CHECKED, np.uint64)
    if decoded.profile.version < (6, 10):
        # Flags of a first tail are its folio's second word of flags.
        checked[pages.tail[pfn] == 1] &= np.uint64(~sum(1 << bit for bit in _COPIED) & ((1 << 64) - 1))
    equal("kpageflags", flags[pfn] & checked, expected & checked, pfn)


def _kpageflags(
    decoded: Decoded,
    pfn: NDArray[np.int64],
    head: NDArray[np.int64],
    own: NDArray[np.int64],
    whole: NDArray[np.int64],
) -> NDArray[np.uint64]:
    """``stable_page_flags()``: since 6.10 a tail has its folio's flags."""
    pages, version = decoded.machine.pages, decoded.profile.version
    found = np.zeros(len(pfn), np.uint64)

    def put(bit: int, where: NDArray[np.bool_]) -> None:
        found[where] |= np.uint64(1 << bit)

    flags = pages.flags[head] if version >= (6, 10) else pages.flags[pfn]
    for bit, flag in _COPIED.items():
        if flag & PageFlag.REPORTED and version < (5, 7):
            flag = PageFlag.UPTODATE  # noqa: PLW2901
        put(bit, flags & np.uint32(flag) != 0)
    kind, mapping = pages.type[pfn], pages.mapping[head]
    mapped = whole.copy()
    np.add.at(mapped, head, own[pfn])
    put(_MMAP, mapped[head] > 0)
    anon = mapping & np.uint64(MAPPING_ANON) != 0
    put(_ANON, anon)
    # From 6.10 until it looked at a snapshot of the page (6.17) it took all anonymous pages for KSM.
    ksm = mapping & np.uint64(3) == MAPPING_KSM
    put(_KSM, anon if (6, 10) <= version < (6, 17) else ksm)
    of_head = pages.flags[head]
    put(_SWAPCACHE, _has(of_head, PageFlag.SWAPCACHE) & _has(of_head, PageFlag.SWAPBACKED))
    large = _has(of_head, PageFlag.HEAD)
    put(_HEAD, large & (head == pfn))
    put(_TAIL, large & (head != pfn))
    user = (mapping != 0) | _has(of_head, PageFlag.LRU)
    put(_THP, large & user & (pages.type[head] != PageType.HUGETLB))
    put(_SLAB, pages.type[head] == PageType.SLAB)
    put(_OFFLINE, (kind == PageType.OFFLINE) & ("offline" in decoded.kernel.page_layout.types))
    put(_PGTABLE, kind == PageType.TABLE)
    free = np.zeros(pages.count, bool)
    for (_, _, order, _), heads in decoded.truth.free.free.items():
        for first in heads.tolist():
            free[first : first + (1 << order)] = True
    put(_BUDDY, free[pfn])
    return found


def _has(flags: NDArray[np.uint32], flag: PageFlag) -> NDArray[np.bool_]:
    return flags & np.uint32(flag) != 0
