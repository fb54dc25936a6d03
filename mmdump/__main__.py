"""``python -m mmdump``."""

from mmdump.cli import entry

entry()
