"""What a scan for page-owner needs, and whether a kernel's records can answer what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump_page_owner.codes import Facts
from mmdump_page_owner.filters import CodeTest
from mmdump_page_owner.record import PAGE_OWNER, Owners, why_no_owner

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["State", "check_members", "check_memcg", "why_missing"]

#: Members that are younger than page_owner -> what they are, and since when.
_SINCE = {
    "free_handle": ("who freed a page", "5.4"),
    "ts_nsec": ("when a page was allocated", "5.11"),
    "free_ts_nsec": ("when a page was freed", "5.13"),
    "pid": ("the PID of the task that allocated a page", "5.11"),
    "tgid": ("the thread group of the task that allocated a page", "5.18"),
    "comm": ("the name of the task that allocated a page", "5.18"),
    "free_pid": ("the PID of the task that freed a page", "6.8"),
    "free_tgid": ("the thread group of the task that freed a page", "6.8"),
}


def why_missing(kernel: Kernel) -> str | None:
    """Why there is nothing to group.

    :raises IncompleteError: The kernel has it, and the dump has not.
    """
    reason = why_no_owner(kernel)
    state = kernel.page_ext.client(PAGE_OWNER.name)
    if reason is not None and (kernel.page_ext.garbage or (state is not None and state.unreadable)):
        raise IncompleteError(reason, "The dump may be truncated, filtered or damaged.")
    return reason


@dataclass(frozen=True)
class State:
    """What the scan needs. Plain data.

    :param tests: Which pages are wanted.
    :param comms: Globs of which one must match the task's name; empty for any.
    :param codes: What sums tell apart besides chain, order, migratetype and task.
    :param members: Those of this kernel's record.
    :param leaks_until: When the dump was taken, if leaks are looked for; 0 otherwise.
    """

    owners: Owners
    facts: Facts
    tests: tuple[CodeTest, ...] = ()
    comms: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    leaks_until: int = 0


def check_members(members: Sequence[str], asked: Sequence[str]) -> None:
    """See that the records have what is asked for.

    :param members: Those that this kernel's record has.
    :raises UnsupportedError: One is not among them.
    """
    for member in asked:
        if member not in members:
            what, release = _SINCE[member]
            raise UnsupportedError(
                f"page-owner: this kernel does not record {what}", f"Linux {release} and newer do."
            )


def check_memcg(kernel: Kernel) -> None:
    """See that pages say which memory cgroup is charged.

    :raises UnsupportedError: They do not.
    """
    if "memcg_data" not in (kernel.page_layout.dtype.names or ()):
        raise UnsupportedError(
            "page-owner: pages of this kernel do not say which memory cgroup is charged",
            "Linux 5.11 and newer do, with CONFIG_MEMCG.",
        )
