"""Names of tasks as the tracer remembers them (kernel/trace/trace_sched_switch.c; up to 6.8 in trace.c).

What a task was called is kept for a few tasks only, by PID, when one of them is switched to while tracing: a
name that was overwritten is ``<...>``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, Object, TypeKind, offsetof

from mmdump.kernel.layout import byteorder, find_object, find_type

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel.arrays import I64, U8
    from mmdump.target import Target

__all__ = ["UNKNOWN", "SavedComms", "read_saved_comms"]

UNKNOWN = "<...>"
#: ``saved_cmdlines_size`` may be up to PID_MAX_LIMIT.
_MOST = 1 << 22
_COMM = 16


@dataclass(frozen=True)
class SavedComms:
    """``savedcmd``. Plain data.

    :param by_pid: Index of the name of each PID, modulo its length less one; int64.
    :param pids: Whose name each is.
    :param names: The names, 16 bytes each.
    :param tgids: Thread groups by PID (option record-tgid); empty where they were not recorded.
    :param complete: Whether all of it could be read.
    """

    by_pid: I64
    pids: I64
    names: U8
    tgids: I64
    complete: bool = True
    _known: dict[int, str] = field(default_factory=dict, repr=False, compare=False)

    def comm(self, pid: int) -> str:
        """The name of a task: ``trace_find_cmdline()``. Each character is a byte of it."""
        found = self._known.get(pid)
        if found is None:
            found = self._known[pid] = self._find(pid)
        return found

    def _find(self, pid: int) -> str:
        if pid == 0:
            return "<idle>"
        if pid < 0:
            return "<XXX>"
        # 5.13 and its stable contemporaries map every PID, modulo PID_MAX_DEFAULT. Before, a larger PID had
        # no name: then it is not the one that is recorded either.
        slot = pid & (len(self.by_pid) - 2) if len(self.by_pid) > 1 else 0
        index = int(self.by_pid[slot]) if slot < len(self.by_pid) else -1
        if not 0 <= index < len(self.pids) or int(self.pids[index]) != pid:
            return UNKNOWN
        raw = self.names[index * _COMM : (index + 1) * _COMM].tobytes()
        return raw.split(b"\0", 1)[0][: _COMM - 1].decode("latin-1")

    def tgid(self, pid: int) -> int:
        """The thread group of a task; 0 where it was not recorded."""
        return int(self.tgids[pid]) if 0 <= pid < len(self.tgids) else 0


_EMPTY = np.empty(0, np.int64)


def read_saved_comms(target: Target) -> SavedComms:
    """Read what the tracer remembers. Does not raise: what is missing is said by ``complete``."""
    prog = target.prog
    tgids = _tgids(target)
    try:
        saved = find_object(prog, "savedcmd")
        kind = find_type(prog, "struct saved_cmdlines_buffer")
        if saved is None or kind is None or not saved.value_():
            return SavedComms(_EMPTY, _EMPTY, np.empty(0, np.uint8), tgids, saved is not None)
        buffer = Object(prog, kind, address=saved.value_())
        slots = int(buffer.map_pid_to_cmdline.type_.length or 0)
        count = int(buffer.cmdline_num.value_())
        names = buffer.saved_cmdlines
        # 6.8 put the names behind the structure.
        pointer = names.type_.unaliased().kind == TypeKind.POINTER
        at = names.value_() if pointer else saved.value_() + offsetof(kind, "saved_cmdlines")
        map_at = saved.value_() + offsetof(kind, "map_pid_to_cmdline")
        pids_at = buffer.map_cmdline_to_pid.value_()
    except (FaultError, LookupError, AttributeError, TypeError):
        return SavedComms(_EMPTY, _EMPTY, np.empty(0, np.uint8), tgids, False)
    if not 0 < count <= _MOST or not 0 < slots <= _MOST:
        return SavedComms(_EMPTY, _EMPTY, np.empty(0, np.uint8), tgids, False)
    order = byteorder(prog)
    by_pid, pids, text = (
        target.reader.read(map_at, 4 * slots),
        target.reader.read(pids_at, 4 * count),
        target.reader.read(at, _COMM * count),
    )
    return SavedComms(
        by_pid.data.view(order + "u4").astype(np.int64),
        pids.data.view(order + "i4").astype(np.int64),
        text.data,
        tgids,
        by_pid.complete and pids.complete and text.complete,
    )


def _tgids(target: Target) -> I64:
    """``tgid_map``, which is allocated when the option is first set."""
    prog: Program = target.prog
    table, most = find_object(prog, "tgid_map"), find_object(prog, "tgid_map_max")
    try:
        if table is None or not table.value_():
            return _EMPTY
        # Up to 5.12 it had PID_MAX_DEFAULT + 1 elements.
        count = int(most.value_()) + 1 if most is not None else 0x8001
        if not 0 < count <= _MOST + 1:
            return _EMPTY
        chunk = target.reader.read(table.value_(), 4 * count)
        return chunk.data.view(byteorder(prog) + "i4").astype(np.int64)
    except FaultError:
        return _EMPTY
