"""page_table_check: how often page tables map each page (kernel: mm/page_table_check.c, since 5.17).

Booted with ``page_table_check=on`` the kernel counts, for every page, the page table entries that map it as
anonymous memory, and those that map it as anything else. It stops at once when a page becomes both, or is
freed while it is mapped: what a dump shows beside that is damage done by someone who went around it.
"""

from mmdump import hookimpl
from mmdump.pagenotes import PageNotes
from mmdump_snapshots.scenario import Scenario
from mmdump_table_check.analysis import TableCheck
from mmdump_table_check.client import TABLE_CHECK
from mmdump_table_check.notes import table_check_notes
from mmdump_table_check.scenario import count_mappings, map_pages


@hookimpl
def mmdump_page_ext_clients():
    return [TABLE_CHECK]


@hookimpl
def mmdump_analyses():
    return [TableCheck]


@hookimpl
def mmdump_page_notes():
    return [PageNotes("page_table_check", table_check_notes)]


@hookimpl
def mmdump_scenarios():
    return [
        Scenario(
            "mapped-while-free",
            "a page was freed, and a page table still maps it",
            map_pages,
            memory=64 << 20,
            boot={"page_table_check": True},
            since=(5, 17),
            spoil=count_mappings,
        )
    ]
