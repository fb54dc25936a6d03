"""The page pinner's events from a saved text: ``trace`` as the kernel prints it, or ``trace-cmd report``.

For kernels whose dump has no buffers any more. The text may be anything: lines that are no events are passed
over.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import polars as pl

from mmdump.errors import UsageError
from mmdump.kernel.arrays import printable
from mmdump_page_pinner.calls import function_names
from mmdump_page_pinner.witnesses import EVENTS, WITNESS_TYPES, Witnesses, kind_of_page_ref

__all__ = ["read_saved_trace"]

#: Of a line that is looked at.
_MOST_LINE = 4096
#: Events that are kept.
_MOST_EVENTS = 1 << 20
_MOST_FRAMES = 256
#: ``          <...>-498     [006] .... 33306.301621: page_pinner_failure: pfn=0x9f0bb0 ...``; with trace-cmd
#: the flags may be missing, and a thread group may stand behind the PID.
_EVENT = re.compile(
    r"^\s*(?P<comm>\S.{0,31}?)-(?P<pid>\d{1,10})\s+(?:\(\s*[\d-]+\)\s+)?\[(?P<cpu>\d{1,5})\]\s+(?:\S{3,8}\s+)?"
    r"(?P<seconds>\d{1,12})\.(?P<fraction>\d{1,9}):\s+(?P<event>\w+(?=:)|<stack trace>):?\s*(?P<rest>.*)$"
)
#: `` => pipe_read``, `` => pipe_read+0x10/0x20 <ffffffff81234567>``, ``=> pipe_read (ffffffff81234567)``.
_FRAME = re.compile(r"^\s*=> (?P<frame>[\w.\[\]$+/]+(?: TRAMPOLINE\])?)")
_FIELD = re.compile(r"\b(\w{1,32})=(\S{1,512})")
_STACKS = ("<stack trace>", "kernel_stack")


def read_saved_trace(path: Path) -> Witnesses:
    """Read a file.

    :raises UsageError: It cannot be read, or has no event of the page pinner.
    """
    try:
        with path.open("rb") as file:
            reader = _Reader()
            reader.read(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not reader.rows:
        raise UsageError(
            f"{path} has no event of the page pinner",
            "It should be what the kernel's trace file says, or trace-cmd report.",
        )
    return reader.witnesses(path)


class _Reader:
    def __init__(self) -> None:
        self.rows: list[list[object]] = []
        self._chains: dict[tuple[str, ...], int] = {}
        self._left_out = 0
        self._lost = 0
        self._odd = 0
        self._digits = 9

    def read(self, file: BinaryIO) -> None:
        """Read all lines: an event of interest, then the stack that belongs to it."""
        # The last event of each task on each CPU, while its stack may follow.
        waiting: dict[tuple[str, str], list[object]] = {}
        owner: list[object] | None = None
        frames: list[str] = []
        while raw := file.readline(_MOST_LINE):
            if b"=> " in raw and owner is not None:
                found = _FRAME.match(raw.decode("utf-8", "backslashreplace"))
                if found is not None:
                    if len(frames) < _MOST_FRAMES:
                        frames.append(found["frame"])
                    continue
            if b": " not in raw and b"LOST" not in raw:
                continue
            self._stack(owner, frames)
            owner, frames = None, []
            if b"EVENTS]" in raw:
                self._lost += 1
                continue
            line = raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
            match = _EVENT.match(line)
            if match is None:
                continue
            task = match["pid"], match["cpu"]
            if match["event"] in _STACKS:
                owner = waiting.pop(task, None)
                continue
            row = self._row(match)
            if row is None:
                waiting.pop(task, None)
            else:
                waiting[task] = row
        self._stack(owner, frames)

    def _stack(self, owner: list[object] | None, frames: list[str]) -> None:
        if owner is not None and frames:
            owner[-1] = self._chains.setdefault(tuple(frames), len(self._chains))

    def _row(self, match: re.Match[str]) -> list[object] | None:
        """The row of an event that is of interest, kept."""
        name = match["event"]
        if name not in EVENTS and not name.startswith("page_ref_"):
            return None
        fields = dict(_FIELD.findall(match["rest"]))
        pfn = _number(fields.get("pfn"))
        if pfn is None:
            self._odd += 1
            return None
        if len(self.rows) >= _MOST_EVENTS:
            self._left_out += 1
            return None
        kind = EVENTS.get(name) or kind_of_page_ref(
            name, _number(fields.get("val")), _number(fields.get("ret"))
        )
        reason = [printable(fields["reason"].encode())] if "reason" in fields else []
        reason += [f"error {_number(fields['err'])}"] if "err" in fields else []
        comm = printable(match["comm"].strip().encode())
        self._digits = min(self._digits, len(match["fraction"]))
        row: list[object] = [
            pfn,
            int(match["seconds"]) * 10**9 + int(match["fraction"].ljust(9, "0")),
            kind,
            name,
            int(match["pid"]),
            None if comm == "<...>" else comm,
            _number(fields.get("count")),
            ", ".join(reason) or None,
            None,
        ]
        self.rows.append(row)
        return row

    def witnesses(self, path: Path) -> Witnesses:
        """What was read."""
        chains = list(self._chains)
        name = printable(path.name.encode("utf-8", "surrogateescape"))
        notes = []
        if self._left_out:
            notes.append(f"{self._left_out} events of {name} are left out: {_MOST_EVENTS} are read at most.")
        if self._lost:
            notes.append(f"{name} says in {self._lost} places that events were lost.")
        if self._odd:
            notes.append(f"{self._odd} events of the page pinner in {name} name no page.")
        frame = pl.DataFrame(self.rows, schema=WITNESS_TYPES, orient="row")
        return Witnesses(
            frame.sort("time", maintain_order=True),
            chains,
            [function_names(chain) for chain in chains],
            source=name,
            overrun=self._lost,
            notes=notes,
            resolution=10 ** max(9 - self._digits, 0),
        )


def _number(text: str | None) -> int | None:
    """A number of the trace: decimal, or hexadecimal with 0x."""
    if text is None:
        return None
    try:
        number = int(text.rstrip(",;"), 0)
    except ValueError:
        return None
    return number if -(1 << 62) < number < 1 << 62 else None
