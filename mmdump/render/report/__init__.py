"""Reports as bytes: HTML to be opened, Markdown and text to be quoted, JSON to be read by programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

from mmdump.document import Report
from mmdump.errors import UsageError
from mmdump.render.report.json import write_json
from mmdump.render.report.markdown import write_markdown
from mmdump.render.report.plain import write_text

__all__ = ["REPORT_FORMATS", "ReportFormat", "report_format"]


@dataclass(frozen=True)
class ReportFormat:
    """A format of reports.

    :param write: Writes a report.
    :param suffixes: Of the file names that ask for it.
    """

    name: str
    write: Callable[[Report, BinaryIO], None]
    suffixes: tuple[str, ...]


def _html(report: Report, out: BinaryIO) -> None:
    # Templates cost time to import that the other formats need not pay.
    from mmdump.render.report.html import write_html

    write_html(report, out)


#: Every format by name.
REPORT_FORMATS = {
    each.name: each
    for each in (
        ReportFormat("html", _html, (".html", ".htm")),
        ReportFormat("md", write_markdown, (".md", ".markdown")),
        ReportFormat("txt", write_text, (".txt", ".text")),
        ReportFormat("json", write_json, (".json",)),
    )
}


def report_format(name: str | None, output: str | None) -> ReportFormat:
    """The format of that name, or that the output's suffix asks for; text where nothing does.

    :raises UsageError: There is no such format.
    """
    names = f"Formats: {', '.join(REPORT_FORMATS)}."
    if name is not None:
        found = REPORT_FORMATS.get({"markdown": "md", "text": "txt"}.get(name.lower(), name.lower()))
        if found is None:
            raise UsageError(f"there is no report format {name}", names)
        return found
    if output is None or output == "-":
        return REPORT_FORMATS["txt"]
    suffix = PurePath(output).suffix.lower()
    for each in REPORT_FORMATS.values():
        if suffix in each.suffixes:
            return each
    suffixes = ", ".join(each for known in REPORT_FORMATS.values() for each in known.suffixes)
    raise UsageError(
        f"{output}: no format of reports has the suffix {suffix}"
        if suffix
        else f"{output}: its name does not say in which format",
        f"Suffixes: {suffixes}; or name a format with -f. {names}",
    )
