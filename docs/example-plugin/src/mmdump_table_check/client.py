"""Where the counts are, and why they may not be there."""

from mmdump.kernel.page_ext import PageExtClient

TABLE_CHECK = PageExtClient(
    "page_table_check",
    ops="page_table_check_ops",
    struct="struct page_table_check",
    disabled="page_table_check_disabled",  # a static key that is on while nothing is counted
    members={"anon": ("anon_map_count",), "file": ("file_map_count",)},
)


def why_no_counts(kernel):
    """Why this kernel has no counts, in one sentence; None when it has."""
    state = kernel.page_ext.client(TABLE_CHECK.name)
    if state is None or not state.built:
        return "this kernel was built without CONFIG_PAGE_TABLE_CHECK"
    if state.unreadable:
        return "whether page_table_check is on could not be read"
    if not kernel.page_ext.enabled(TABLE_CHECK.name):
        return "page_table_check was built in but is off: boot with page_table_check=on"
    return None
