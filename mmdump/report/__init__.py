"""``mmdump report``: all that mmdump has to say of a dump, as one document to attach to a bug."""

from __future__ import annotations

from mmdump.report.gather import Choice, make_report

__all__ = ["Choice", "make_report"]
