"""``mmdump page-owner``: allocated (or freed) pages by call chain, task, module and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.amounts import bytes_text, counted
from mmdump.analysis import Analysis, Columns, Need, Parts, option, options
from mmdump.errors import UsageError
from mmdump.kernel.clock import now_nsec
from mmdump.result import Finding, Result, Table
from mmdump_page_owner.chains import BROKEN, Chains, ChainTest, read_chains
from mmdump_page_owner.codes import MEMBERS, Facts, Rows
from mmdump_page_owner.filters import page_tests, passing
from mmdump_page_owner.findings import broken_depot, garbage_records, unattributed, unreadable_chains
from mmdump_page_owner.frames import Frames
from mmdump_page_owner.groups import ANY_GROUPS, fold_sums, group_table, name_sums, sum_rows
from mmdump_page_owner.keys import KEYS, STACKTRACE, parse_keys
from mmdump_page_owner.kinds import KIND_ALIASES, KINDS
from mmdump_page_owner.leaks import (
    SUSPECTS,
    age_rows,
    candidates,
    fold_ages,
    fold_frees,
    free_rows,
    leak_finding,
    suspect_table,
    why_no_leaks,
)
from mmdump_page_owner.memcg import charged_to
from mmdump_page_owner.ranges import words
from mmdump_page_owner.record import (
    comms_of,
    groups_by_mobility,
    members_of,
    on_every_page,
    read_owners,
)
from mmdump_page_owner.stacks import STACKS
from mmdump_page_owner.state import State, check_members, check_memcg, why_missing

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["PageOwner", "State"]

#: Options that leave no allocated page out.
_NO_FILTERS = frozenset({"cull", "by", "free", "lines", "inline"})


@dataclass(frozen=True)
class PageOwner(Analysis):
    """Pages that are allocated, by the call chain that allocated them; with --free, that were freed.

    Values of one option are alternatives, several options must all be true; --stack alone narrows each time
    it is given. Lists are comma-separated, and options that take one can be given more than once.
    """

    name = "page-owner"
    summary = "allocated (or freed) pages by call chain"
    report_rank = 40
    tables = (ANY_GROUPS, SUSPECTS, STACKS)
    needs = (Need(why_missing),)
    page_ext = ("page_owner",)

    cull: tuple[str, ...] = option(
        "--cull", "group by page_owner_sort's keys: pid, tgid, name, stacktrace, allocator", default=(),
        metavar="KEYS", choices=("pid", "tgid", "name", "stacktrace", "allocator"),
    )  # fmt: skip
    by: tuple[str, ...] = option(
        "--by", f"group by: {', '.join(KEYS)}", default=(), metavar="KEYS", choices=tuple(KEYS)
    )
    free: bool = option("--free", "pages that lie free, by the call chain that freed them", default=False)
    pid: tuple[str, ...] = option(
        "--pid", "only pages that tasks of these PIDs allocated (with --free: freed)", default=(),
        metavar="PIDS",
    )  # fmt: skip
    tgid: tuple[str, ...] = option("--tgid", "the same by thread group", default=(), metavar="TGIDS")
    comm: tuple[str, ...] = option(
        "--comm", "only pages that tasks of such a name allocated", default=(), metavar="GLOBS"
    )
    order: tuple[str, ...] = option(
        "--order", "only allocations of these orders", default=(), metavar="ORDERS"
    )
    gfp: tuple[str, ...] = option(
        "--gfp", "only allocations with all of these gfp flags", default=(), metavar="NAMES"
    )
    migratetype: tuple[str, ...] = option(
        "--migratetype", "only allocations whose gfp flags ask for this migratetype", default=(),
        metavar="NAMES",
    )  # fmt: skip
    kind: tuple[str, ...] = option(
        "--kind", f"only pages used for: {', '.join(KINDS)}, page-cache, user", default=(), metavar="KINDS",
        choices=(*KINDS, *KIND_ALIASES),
    )  # fmt: skip
    zone: tuple[str, ...] = option("--zone", "only pages in these zones", default=(), metavar="ZONES")
    node: tuple[str, ...] = option("--node", "only pages on these NUMA nodes", default=(), metavar="NODES")
    cma: str | None = option(
        "--cma", "only pages in this CMA area (in any, when no NAME is given)", metavar="NAME",
        optional_value="*",
    )  # fmt: skip
    pfn: tuple[str, ...] = option(
        "--pfn", "only these pages: PFN or START-END, both included, 0x for hexadecimal", default=(),
        metavar="PFNS",
    )  # fmt: skip
    memcg: tuple[str, ...] = option(
        "--memcg", "only pages charged to a memory cgroup of such a name", default=(), metavar="GLOBS"
    )
    age: str | None = option(
        "--age", "only what was at least MIN old when the dump was taken, or MIN-MAX: 90, 10m, 2h-1d",
        metavar="MIN[-MAX]",
    )  # fmt: skip
    since: str | None = option(
        "--since",
        "only since so long before the dump, or since @SECONDS as dmesg counts them",
        metavar="TIME",
    )
    until: str | None = option(
        "--until", "only until so long before the dump, or until @SECONDS", metavar="TIME"
    )
    stack: tuple[str, ...] = option(
        "--stack", "only call chains through this function (a glob), or with a frame like this /regex/",
        default=(), metavar="NAME",
    )  # fmt: skip
    module: tuple[str, ...] = option(
        "--module", "only call chains through these modules", default=(), metavar="GLOBS"
    )
    lines: bool = option("--lines", "with the source line of each frame", default=False)
    inline: bool = option("--inline", "with inlined functions as frames of their own", default=False)

    @property
    def keys(self) -> Sequence[str]:
        """What to group by, of :data:`mmdump_page_owner.keys.KEYS`.

        :raises UsageError: There is no such key.
        """
        return parse_keys(self.cull, self.by)

    @property
    def filters(self) -> list[str]:
        """The options that leave pages out, as they were given."""
        given = []
        for name, _, default, described in options(type(self)):
            value = getattr(self, name)
            if name in _NO_FILTERS or value == default:
                continue
            several = value if isinstance(value, tuple) else (value,)
            given += [
                described.flag if each == described.optional_value else f"{described.flag} {each}"
                for each in several
            ]
        return given

    @property
    def of_all_pages(self) -> bool:
        """Whether all allocated pages are asked about, so that leaks are looked for."""
        return not self.free and not self.filters

    def start(self, kernel: Kernel) -> State:
        """Make codes and numbers of the options, and read what the records need.

        :raises UnsupportedError: They ask for what this kernel does not keep.
        """
        owners, members, keys = read_owners(kernel), members_of(kernel), self.keys
        assert owners is not None
        self._check(members, keys)
        ChainTest.parse(self.stack, self.module)
        if self.memcg or "memcg" in keys:
            check_memcg(kernel)
        now = now_nsec(kernel)
        tests = page_tests(
            kernel,
            now,
            pfn=self.pfn,
            cma=self.cma,
            age=self.age,
            since=self.since,
            until=self.until,
            pid=self.pid,
            tgid=self.tgid,
            order=self.order,
            gfp=self.gfp,
            migratetype=self.migratetype,
            zone=self.zone,
            node=self.node,
            kind=self.kind,
        )
        codes = dict.fromkeys(code for key in keys for code in KEYS[key].codes)
        if self.memcg:
            codes["memcg_data"] = None
        aged = self.of_all_pages and "ts_nsec" in members and on_every_page(members)
        types = kernel.pageblocks.names
        facts = Facts(
            self.free,
            groups_by_mobility(kernel),
            tuple((each.base_pfn, each.end_pfn - 1) for each in kernel.cma_areas) if "area" in codes else (),
            types.index("CMA") if "CMA" in types else -1,
        )
        return State(
            owners,
            facts,
            tests,
            tuple(words(self.comm)),
            tuple(codes),
            tuple(members),
            (now or 0) if aged else 0,
        )

    def _check(self, members: Sequence[str], keys: Sequence[str]) -> None:
        """See that what is asked for makes sense, and that the records have it."""
        senseless = [f"--{name}" for name in ("kind", "memcg") if getattr(self, name)]
        senseless += [f"--by {key}" for key in keys if key in ("kind", "memcg")]
        if self.free and senseless:
            raise UsageError(f"--free {senseless[0]}: what a freed page was used for is not kept.")
        asked = ["handle"] + [member for key in keys if (member := KEYS[key].member) is not None]
        asked += [name for name in ("pid", "tgid", "comm") if getattr(self, name)]
        if self.age is not None or self.since is not None or self.until is not None:
            asked.append("ts")
        check_members(members, [MEMBERS[name][self.free] for name in asked])

    def scan(self, pages: PageRange, state: State) -> Mapping[str, Columns]:
        """The pages that have a record and are wanted, as codes; and how old the kernel's own memory is."""
        if pages.ext is None:
            return {}
        owners = state.owners
        recorded = owners.freed(pages) if state.facts.free else owners.allocated(pages)
        garbage = owners.garbage(pages, recorded)
        rows = passing(Rows(pages, np.flatnonzero(recorded & ~garbage), state.facts), state.tests)
        first = owners.first_pages(pages, recorded)
        parts: dict[str, Columns] = {
            "sums": sum_rows(
                rows,
                state.codes,
                owners.pages_of_records(pages, rows.rows),
                first[rows.rows],
                owners.handle_mask,
            ),
            "garbage": {"pages": np.array([np.count_nonzero(garbage)])},
        }
        if state.leaks_until:
            begin = rows.only(first[rows.rows])
            parts["ages"] = age_rows(begin, owners.handle_mask, state.leaks_until)
            freed = Rows(pages, np.flatnonzero(owners.freed(pages)), state.facts)
            parts["frees"] = free_rows(freed, owners.handle_mask)
        return parts

    def batch(self, rows: Parts, state: State) -> Parts:
        """Sum, and leave only the tasks that are wanted."""
        parts = {name: self.fold(name, frame) for name, frame in rows.items()}
        if state.comms and "sums" in parts:
            names = comms_of(parts["sums"]).to_list()
            known = {each: any(fnmatchcase(each, glob) for glob in state.comms) for each in set(names)}
            parts["sums"] = parts["sums"].filter(pl.Series([known[each] for each in names], dtype=pl.Boolean))
        return parts

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum rows or sums."""
        if part == "garbage":
            return frame.sum()
        return {"sums": fold_sums, "ages": fold_ages, "frees": fold_frees}[part](frame)

    def finish(self, kernel: Kernel, state: State, parts: Parts) -> Result:
        """Name the sums, leave those whose chain is wanted, and put them together by the keys."""
        keys, page_size = self.keys, kernel.target.page_size
        sums = name_sums(
            parts["sums"],
            has_comm="comm" in state.members,
            has_ts=MEMBERS["ts"][self.free] in state.members,
        )
        frames = Frames(kernel, self.lines, self.inline)
        chains = read_chains(
            kernel, sums["stack_id"].drop_nulls(), frames, ChainTest.parse(self.stack, self.module)
        )
        notes = _notes(sums, chains, frames)
        filters = self.filters
        if self.of_all_pages and not state.leaks_until:
            notes.append(why_no_leaks(has_ts="ts_nsec" in state.members))
        status = chains.of(sums["stack_id"], "status")
        broken = sums.filter(status.is_in(BROKEN))
        sums = sums.filter(~status.is_in(BROKEN) | status.is_null())
        sums = self._wanted(kernel, sums, chains)

        if sums.is_empty() and filters:
            what = "freed page" if self.free else "allocated page"
            which = (
                f"this filter: {filters[0]}" if len(filters) == 1 else f"all filters: {', '.join(filters)}"
            )
            notes.append(f"No {what} with a record passes {which}.")

        groups = group_table(kernel, sums, chains, keys, free=self.free)
        tables = {groups.name: groups, "stacks": chains.table()}
        text_tables = [groups.name]
        findings: list[Finding] = []
        if state.leaks_until and "ages" in parts:
            found = candidates(parts["ages"], parts["frees"], page_size)
            suspects = suspect_table(found, chains)
            if suspects is not None:
                findings.append(leak_finding(suspects))
                tables[suspects.name] = suspects
                text_tables.insert(0, suspects.name)
        findings += garbage_records(int(parts["garbage"]["pages"].sum()))
        findings += broken_depot(broken, chains, page_size)
        findings += unattributed(sums, chains, page_size, by_chain=STACKTRACE in keys)
        return Result(
            self.name,
            summary=[self._headline(groups, sums, keys, page_size)],
            tables=tables,
            primary=groups.name,
            text_tables=text_tables,
            findings=findings,
            notes=notes,
            incomplete=list(unreadable_chains(sums, chains, page_size)),
        )

    def _wanted(self, kernel: Kernel, sums: pl.DataFrame, chains: Chains) -> pl.DataFrame:
        """The sums of the chains and memory cgroups that are wanted."""
        if self.stack or self.module:
            sums = sums.filter(chains.of(sums["stack_id"], "wanted").fill_null(False))
        if self.memcg:
            globs = tuple(words(self.memcg))
            charged = {word: charged_to(kernel, word) for word in sums["memcg_data"].unique().drop_nulls()}
            found = [
                word
                for word, name in charged.items()
                if name is not None and any(fnmatchcase(name, glob) for glob in globs)
            ]
            sums = sums.filter(pl.col("memcg_data").is_in(pl.Series(found, dtype=pl.UInt64).implode()))
        return sums

    def _headline(self, groups: Table, sums: pl.DataFrame, keys: Sequence[str], page_size: int) -> str:
        pages, allocations = int(sums["pages"].sum()), int(sums["allocations"].sum())
        count = len(groups.frame)
        by = f"{counted(count, 'group')} ({', '.join(keys)})"
        if keys == (STACKTRACE,):
            by = counted(count, "call chain")
        what = "freed" if self.free else "allocated"
        return (
            f"{counted(pages, f'{what} page')} ({bytes_text(pages * page_size)}) by {by}, "
            f"in {counted(allocations, 'allocation')}"
        )


def _notes(sums: pl.DataFrame, chains: Chains, frames: Frames) -> list[str]:
    notes = []
    lumped = int(sums.filter(pl.col("stack_id").is_null())["pages"].sum())
    if lumped:
        notes.append(
            f"There are too many groups: {lumped} pages of the smallest are one without a call chain."
        )
    if chains.left_out:
        notes.append(f"{chains.left_out} call chains are too many to decode and have no frames.")
    if (chains.frame["status"] == "no stack depot").any():
        notes.append("This kernel's stack depot was not found: call chains have no frames.")
    if (frames.lines or frames.inline) and not frames.any_line and chains.frame["wanted"].any():
        notes.append("The debug info has no source lines for these call chains.")
    return notes
