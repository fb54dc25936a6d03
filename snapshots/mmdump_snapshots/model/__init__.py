"""The kernel's mm in Python: machines that allocate, map, pin, move and free pages as a given release would.

Mechanisms are a file each, by the names of the kernel's own files where those fit; what releases do
differently is in :mod:`.era`. Nothing here knows of structures and addresses: see
:mod:`mmdump_snapshots.writer`.
"""

from .era import Era
from .gfp import Gfp
from .machine import Boot, Machine
from .tasks import Task
from .zone import Migratetype

__all__ = ["Boot", "Era", "Gfp", "Machine", "Migratetype", "Task"]
