"""Initramfs archives (cpio, "newc"), written directly: no root, no cpio, no device nodes on the host."""

import stat
from dataclasses import dataclass, field
from pathlib import Path

from .errors import GuestError


@dataclass
class Archive:
    """Files of an initramfs, by their path in the guest (without the leading slash)."""

    _members: dict[str, tuple[int, bytes, int]] = field(default_factory=dict)

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory and those above it."""
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            if name and name not in self._members:
                self._members[name] = (stat.S_IFDIR | mode, b"", 0)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file, or replace it."""
        self._add(path, stat.S_IFREG | mode, content)

    def copy(self, path: str, source: Path, mode: int = 0o755) -> None:
        """Add a file of the host. Raises GuestError if it cannot be read."""
        try:
            self.file(path, source.read_bytes(), mode)
        except OSError as error:
            raise GuestError(f"{source} cannot be put into the initramfs: {error.strerror}.") from error

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        """Add a device node."""
        self._add(path, stat.S_IFCHR | 0o600, b"", major << 8 | minor)

    def _add(self, path: str, mode: int, content: bytes, device: int = 0) -> None:
        name = path.strip("/")
        if "/" in name:
            self.directory(name.rsplit("/", 1)[0])
        self._members[name] = (mode, content, device)

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._members

    def cpio(self) -> bytes:
        """Return the archive: the same bytes for the same files."""
        parts = [
            _member(number, name, mode, content, device)
            for number, (name, (mode, content, device)) in enumerate(self._members.items(), 1)
        ]
        return b"".join(parts) + _member(0, "TRAILER!!!", 0, b"", 0)


def _member(number: int, name: str, mode: int, content: bytes, device: int) -> bytes:
    path = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, device >> 8, device & 255, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    return _padded(header + path) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
