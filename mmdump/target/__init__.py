"""TARGET: a vmcore or the live kernel as a drgn Program, and what is really in it."""

from mmdump.target.coverage import PhysicalCoverage, PhysStatus
from mmdump.target.debuginfo import DebugInfo
from mmdump.target.dumpfile import DumpFile, inspect_dump
from mmdump.target.program import LIVE_KERNEL, Target, open_target
from mmdump.target.reader import Chunk, Reader, ReadStatus

__all__ = [
    "LIVE_KERNEL",
    "Chunk",
    "DebugInfo",
    "DumpFile",
    "PhysStatus",
    "PhysicalCoverage",
    "ReadStatus",
    "Reader",
    "Target",
    "inspect_dump",
    "open_target",
]
