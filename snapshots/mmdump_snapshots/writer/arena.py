"""Where the kernel keeps its own things: variables of its image, and memory that it took at boot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.writer.memory import Bump

if TYPE_CHECKING:
    from mmdump_snapshots.kernels import CType, Profile
    from mmdump_snapshots.writer.addresses import AddressSpace
    from mmdump_snapshots.writer.memory import PhysicalMemory
    from mmdump_snapshots.writer.vmlinux import Vmlinux

__all__ = ["Arena", "Struct", "type_name"]

_MASK = 0xFFFFFFFFFFFFFFFF


def type_name(ctype: CType) -> str:
    """The name by which :class:`Types` knows a named type, looking through arrays and typedefs."""
    while ctype.kind in ("array", "typedef"):
        assert ctype.target is not None
        ctype = ctype.target
    return str(ctype)


class Struct:
    """The bytes of a structure, filled member by member; :meth:`maybe` leaves out what a kernel lacks.

    :param name: As in ``struct zone``.
    :param address: Virtual address where it will be.
    """

    def __init__(self, profile: Profile, name: str, address: int = 0, data: bytearray | None = None) -> None:
        self._types = profile.types
        self.name = name
        self.address = address
        self.data = bytearray(self._types.sizeof(name)) if data is None else data

    def set(self, path: str, value: int | bytes) -> None:
        """Set a member.

        :param path: As in ``free_area[3].nr_free``.
        :param value: An integer, modulo the member's size, or bytes that fit.
        """
        member = self._types.member(self.name, path)
        if isinstance(value, bytes):
            assert len(value) <= member.type.size, (self.name, path)
            self.data[member.offset : member.offset + len(value)] = value
            return
        if member.bit_size:
            self._types.pack(self.name, {path: value}, self.data)
            return
        size = member.type.size
        self.data[member.offset : member.offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(
            size, "little"
        )

    def maybe(self, path: str, value: int | bytes) -> bool:
        """Set a member if this kernel has it.

        :return: Whether it has.
        """
        if not self._types.has(self.name, path):
            return False
        self.set(path, value)
        return True

    def first(self, paths: Iterable[str], value: int | bytes) -> None:
        """Set the first of these members that this kernel has.

        :raises LookupError: It has none.
        """
        names = list(paths)
        if not any(self.maybe(path, value) for path in names):
            raise LookupError(f"{self.name} has none of {', '.join(names)}")

    def offset(self, path: str) -> int:
        """Byte offset of a member."""
        return self._types.member(self.name, path).offset

    def at(self, path: str) -> int:
        """Virtual address of a member."""
        return self.address + self.offset(path)

    def array(self, path: str, dtype: str, count: int) -> NDArray[np.generic]:
        """A writable view of an array member."""
        return np.frombuffer(self.data, dtype, count, self.offset(path))


class Arena:
    """Memory that is the kernel's from the start: the variables of its image, and a stretch to allocate from.

    :param free: Physical addresses [start, end) where it may allocate.
    """

    def __init__(
        self,
        profile: Profile,
        vmlinux: Vmlinux,
        addresses: AddressSpace,
        memory: PhysicalMemory,
        free: Iterable[tuple[int, int]],
    ) -> None:
        self.profile = profile
        self.vmlinux = vmlinux
        self.addresses = addresses
        self.memory = memory
        self._free = [Bump(start, end) for start, end in free if start < end]
        self._strings: dict[bytes, int] = {}

    # Memory

    def allocate(self, size: int, align: int = 64) -> int:
        """A piece of the reserved memory, never given back.

        :return: Its physical address.
        :raises MemoryError: The machine reserved too little.
        """
        for bump in self._free:
            try:
                return bump(size, align)
            except MemoryError:
                continue
        raise MemoryError(f"the kernel's own {size} bytes do not fit into the memory reserved for it")

    def place(self, data: bytes | bytearray, align: int = 64) -> int:
        """Allocate and write.

        :return: Virtual address.
        """
        at = self.allocate(len(data), align)
        self.memory.write(at, bytes(data))
        return self.addresses.direct(at)

    def string(self, text: str | bytes) -> int:
        """The virtual address of a C string; one for all that are equal."""
        raw = (text.encode() if isinstance(text, str) else text) + b"\0"
        found = self._strings.get(raw)
        if found is None:
            found = self._strings[raw] = self.place(raw, 1)
        return found

    def struct(self, name: str, align: int = 64) -> Struct:
        """An empty structure with an address; :meth:`finish` writes it."""
        size = self.profile.types.sizeof(name)
        return Struct(self.profile, name, self.addresses.direct(self.allocate(size, align)))

    def finish(self, struct: Struct) -> int:
        """Write a structure that :meth:`struct` made.

        :return: Its address.
        """
        self.memory.write(self.addresses.phys(struct.address), bytes(struct.data))
        return struct.address

    # Variables

    def has(self, name: str, file: str | None = None) -> bool:
        """Whether this kernel has the variable."""
        try:
            self.vmlinux.variable(name, file)
        except KeyError:
            return False
        return True

    def type(self, name: str, file: str | None = None) -> CType:
        """The type of a variable."""
        return self.vmlinux.variable(name, file)[1]

    def address(self, name: str, file: str | None = None) -> int:
        """Virtual address of a variable."""
        return self.addresses.kernel(self.vmlinux.variable(name, file)[0])

    def write(self, name: str, data: bytes, file: str | None = None, offset: int = 0) -> None:
        """Write bytes into a variable."""
        link, ctype = self.vmlinux.variable(name, file)
        assert offset + len(data) <= max(ctype.size, 0), (name, offset, len(data), ctype.size)
        self.memory.write(self.addresses.kernel_phys(link) + offset, data)

    def set(self, name: str, value: int, file: str | None = None) -> None:
        """Set a scalar variable.

        :raises KeyError: This kernel has no such variable.
        """
        size = self.type(name, file).size
        self.write(name, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"), file)

    def maybe(self, name: str, value: int, file: str | None = None) -> bool:
        """Set a scalar variable if this kernel has it."""
        if not self.has(name, file):
            return False
        self.set(name, value, file)
        return True

    def read_word(self, name: str, file: str | None = None) -> int:
        """What a variable of 64 bits holds."""
        link, _ = self.vmlinux.variable(name, file)
        return int.from_bytes(self.memory.read(self.addresses.kernel_phys(link), 8), "little")

    def variable(self, name: str, file: str | None = None, index: int | None = None) -> Struct:
        """A variable that is a structure, or an element of an array of them; :meth:`store` writes it."""
        link, ctype = self.vmlinux.variable(name, file)
        tag = type_name(ctype)
        struct = Struct(self.profile, tag, self.addresses.kernel(link))
        struct.address += (index or 0) * len(struct.data)
        return struct

    def store(self, struct: Struct) -> None:
        """Write a structure that :meth:`variable` made."""
        link = struct.address - self.addresses.kernel_offset
        self.memory.write(self.addresses.kernel_phys(link), bytes(struct.data))

    def words(self, name: str, words: Iterable[int], file: str | None = None) -> None:
        """Write 64-bit words into a variable."""
        self.write(name, np.array([word & _MASK for word in words], "<u8").tobytes(), file)
