"""What a run knows: the kernel's own files before and after the dump, and the workload's lines."""

import re
from dataclasses import dataclass
from pathlib import Path

_VALUE = re.compile(r"(\w[\w ]*?)=(\S+)")


@dataclass(frozen=True)
class TruthLine:
    """One line of truth.txt: "SITUATION [WORD...] key=value key=value ...", or "absent: SITUATION: why"."""

    kind: str
    """The situation, or "absent" or "failed"."""
    values: dict[str, str]
    """Keys may have spaces ("head pfn"). For "absent" and "failed": situation and why."""
    text: str
    """The line as it stands."""

    def number(self, key: str) -> int:
        """Return a value as an integer; 0x is hexadecimal. Raises KeyError if the line lacks it."""
        return int(self.values[key], 0)


def parse_truth(text: str) -> list[TruthLine]:
    """Return the lines of a truth file; those of a form unknown here have a kind and no values."""
    lines = []
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] in {"absent:", "failed:"}:
            kind, situation, why = (*(part.strip() for part in line.split(":", 2)), "")[:3]
            lines.append(TruthLine(kind, {"situation": situation, "why": why}, line))
            continue
        # Words before the first key belong to the kind ("thp parent pid=62"), but not to the key.
        rest = line[len(words[0]) :].strip()
        values = {}
        for key, value in _VALUE.findall(rest):
            values[_key(key)] = value
        lines.append(TruthLine(words[0].rstrip(":"), values, line))
    return lines


def _key(words: str) -> str:
    """Return the key of "parent pid" (pid) and of "head pfn" (head pfn): a PFN says which it is."""
    parts = words.split()
    if parts[-1] != "pfn":
        return parts[-1]
    named = [part for part in parts[:-1] if part in {"head", "first", "last", "pinned"}]
    return " ".join([*named, "pfn"]) if named != ["pinned"] else "pfn"


def absent(lines: list[TruthLine]) -> dict[str, str]:
    """Return what this kernel could not do, and why."""
    return {line.values["situation"]: line.values["why"] for line in lines if line.kind == "absent"}


def failed(lines: list[TruthLine]) -> dict[str, str]:
    """Return the situations that should be there and are not, and why."""
    return {line.values["situation"]: line.values["why"] for line in lines if line.kind == "failed"}


@dataclass(frozen=True)
class Bracket:
    """One of the kernel's files, read before and after the dump."""

    path: str
    """In the guest: /proc/kpageflags."""
    before: int
    """Bytes."""
    after: int | None
    """Bytes; None for a file that was read once."""
    equal: bool | None
    """Whether every byte is equal; None for a file that was read once."""


def brackets(directory: Path) -> list[Bracket]:
    """Compare truth/before with truth/after, file by file, by the guest's path."""
    before, after = directory / "before", directory / "after"
    found = []
    for path in sorted(before.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(before))
        other = after / name
        first = path.read_bytes()
        second = other.read_bytes() if other.exists() else None
        found.append(
            Bracket(
                f"/{name}" if "/" in name else name,
                len(first),
                None if second is None else len(second),
                None if second is None else first == second,
            )
        )
    return found


_SYSLOG_LEVEL = re.compile(r"^<\d+>", re.MULTILINE)


def plain_dmesg(text: str) -> str:
    """Return the kernel log as dmesg prints it: without the level in front of each line."""
    return _SYSLOG_LEVEL.sub("", text)
