"""What is known of single pages, for ``mmdump page``."""

from mmdump.pagenotes import Fact, Section
from mmdump.result import Kind
from mmdump_table_check.client import TABLE_CHECK, why_no_counts


def table_check_notes(kernel, asked):
    """The counts of each page that was asked about."""
    reason = why_no_counts(kernel)
    if reason is not None:
        return {}
    notes = {}
    for pages, rows in asked.ranges():
        counts = pages.ext[TABLE_CHECK.name].rows(rows)
        for row, count in zip(rows.tolist(), counts, strict=True):
            facts = [
                Fact("mapped as anonymous", int(count["anon"]), Kind.COUNT),
                Fact("mapped as anything else", int(count["file"]), Kind.COUNT),
            ]
            notes[pages.start + row] = [Section("table check", facts)]
    return notes
