"""page_ext: extra data for every page, and the clients that keep it (kernel: mm/page_ext.c).

A plugin declares the client whose structure it explains::

    PAGE_OWNER = PageExtClient("page_owner", ops="page_owner_ops", struct="struct page_owner",
                               enabled="page_owner_inited", members={"order": ("order",), ...})

and then reads ``pages.ext["page_owner"]["order"]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, TypeKind, sizeof

from mmdump.kernel.arrays import I64, U8, U64, Bools, Struct, blanked
from mmdump.kernel.layout import byteorder, enumerators, find_object, find_type, has_member, struct_dtype
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Object, Program

    from mmdump.kernel.memmap import Sections
    from mmdump.target import Reader

__all__ = [
    "ClientData",
    "ClientState",
    "PageExtClient",
    "PageExtLayout",
    "PageExtRange",
    "read_page_ext_layout",
]

#: No client or combination of clients needs more than this for a page; a larger stride is garbage.
_MAX_STRIDE = 4096
#: Rows are few when they are at most this part of a range.
_FEW = 8
#: The flags word comes first, in entries that have one.
_FLAGS_SIZE = 8
#: mem_section.page_ext has this bit set while the section goes offline (PAGE_EXT_INVALID, 6.1).
_INVALID = 1


@dataclass(frozen=True)
class PageExtClient:
    """A user of page_ext.

    :param name: By which analyses ask for its data.
    :param ops: Its ``struct page_ext_operations`` variable.
    :param struct: The type of its data, or None when it has only flags.
    :param enabled: A ``static_key_false`` (or a bool) that is on when the client is.
    :param disabled: A ``static_key_false`` that is on when the client keeps its data elsewhere.
    :param members: Columns of its data -> member names, newest first.
    :param optional: Columns that some kernels do not have.
    :param flags: Names its flag bits may have (``enum page_ext_flags``).
    :param file: Source file of the structure, when its tag is not unique.
    """

    name: str
    ops: str
    struct: str | None = None
    enabled: str | None = None
    disabled: str | None = None
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    optional: Sequence[str] = ()
    flags: Sequence[str] = ()


@dataclass(frozen=True)
class ClientState:
    """A client as this kernel has it.

    :param built: Whether the kernel was built with it.
    :param enabled: Whether it was switched on at boot, so that its data means something.
    :param unreadable: Whether that could not be read.
    :param offset: Of its data from the start of the entry, in bytes.
    :param size: Of its data, in bytes for each page.
    :param shared_flags: Whether it says that it uses the flags word; None where clients do not say (up to
        6.2).
    """

    client: PageExtClient
    built: bool
    enabled: bool
    offset: int = 0
    size: int = 0
    unreadable: bool = False
    shared_flags: bool | None = None


@dataclass(frozen=True)
class PageExtLayout:
    """page_ext of this kernel. Plain data.

    :param built: Whether the kernel was built with page_ext at all.
    :param stride: Size of an entry in bytes; 0 when there are none.
    :param flags: Bit numbers of the flags word by name, empty when entries have no flags word.
    :param flags_overlaid: Whether the flags word is none of its own, but what the first client's data begins
        with: Android's page pinner uses flags without saying so, which matters since 6.3.
    :param garbage: Whether clients are on whose data does not fit into entries of that size.
    :param dtype: One structured dtype over an entry: the flags word and a field for each enabled client.
    """

    built: bool
    stride: int
    flags: Mapping[str, int]
    clients: Mapping[str, ClientState]
    dtype: np.dtype[np.void] | None
    garbage: bool = False
    flags_overlaid: bool = False

    def client(self, name: str) -> ClientState | None:
        """The state of a client, or None when no plugin declares it."""
        return self.clients.get(name)

    def enabled(self, name: str) -> bool:
        """Whether this client's data can be read."""
        state = self.clients.get(name)
        if state is None or not state.enabled or self.dtype is None:
            return False
        # A client without data of its own has flags; in some kernels it has both.
        names = self.dtype.names or ()
        return name in names or (not (state.client.struct and state.size) and "flags" in names)


def read_page_ext_layout(prog: Program, clients: Sequence[PageExtClient]) -> PageExtLayout:
    """Find page_ext's stride, flags and clients. A kernel without page_ext has a layout that says so."""
    entry, size = find_type(prog, "struct page_ext"), find_object(prog, "page_ext_size")
    least = 0
    if entry is not None and size is None:
        # Up to 5.3 the clients' data came on top of the structure.
        size, least = find_object(prog, "extra_mem", "mm/page_ext.c"), sizeof(entry)
    built = entry is not None and size is not None
    stride = 0
    if built and size is not None:
        stride = least + int(size.value_())
        if stride > _MAX_STRIDE:
            stride = 0
    states = {client.name: _client_state(prog, client) for client in clients} if built else {}
    states = {
        client.name: states.get(client.name, ClientState(client, built=False, enabled=False))
        for client in clients
    }
    flags: dict[str, int] = {}
    # 6.3: an entry has a flags word only when a client that needs it is enabled; every client that has flag
    # bits does. Before, every entry had one.
    operations = find_type(prog, "struct page_ext_operations")
    always = operations is not None and not has_member(operations, "need_shared_flags")
    wanted = any(state.enabled and state.client.flags for state in states.values())
    if stride >= _FLAGS_SIZE and (wanted or always):
        flags = enumerators(prog, "enum page_ext_flags")
    states = {name: _without_place(state, states, bool(flags)) for name, state in states.items()}
    overlaid = bool(flags) and _overlaid(states)
    word = bool(flags) and not overlaid
    states = {name: _without_place(state, states, word) for name, state in states.items()}
    if not _fits(stride, _FLAGS_SIZE if word else 0, states):
        return PageExtLayout(built, stride, {}, states, None, garbage=True)
    dtype = _entry_dtype(prog, stride, states, bool(flags)) if stride else None
    return PageExtLayout(built, stride, flags, states, dtype, flags_overlaid=overlaid)


def _overlaid(states: Mapping[str, ClientState]) -> bool:
    """Whether those of the enabled clients that use flags do not say so: entries have no word for them."""
    said = [state.shared_flags for state in states.values() if state.enabled]
    return False in said and True not in said


def _without_place(state: ClientState, states: Mapping[str, ClientState], has_flags: bool) -> ClientState:
    """The state of a client, off if it says nothing of itself and was given no place in an entry.

    The offset of a client that nobody switched on stays 0, where the flags are, or the first that is on.
    """
    says = state.client.enabled or state.client.disabled
    if says or not state.enabled or not state.size or state.offset:
        return state
    others = [each for each in states.values() if each is not state]
    taken = any(each.enabled and each.size and not each.offset for each in others)
    return replace(state, enabled=False) if has_flags or taken else state


def _fits(stride: int, flags_size: int, states: Mapping[str, ClientState]) -> bool:
    """Whether the data of all enabled clients lies in an entry, behind the flags and side by side."""
    end = flags_size
    enabled = [state for state in states.values() if state.enabled]
    for state in sorted(enabled, key=lambda each: (each.offset, each.size)):
        if state.size and state.offset < end:
            return False
        end = max(end, state.offset + state.size)
    return end <= stride or not enabled


def _client_state(prog: Program, client: PageExtClient) -> ClientState:
    ops = find_object(prog, client.ops)
    if ops is None:
        return ClientState(client, built=False, enabled=False)
    try:
        offset, size = ops.offset.value_(), ops.size.value_()
        shared = bool(ops.need_shared_flags) if has_member(ops.type_, "need_shared_flags") else None
        key = find_object(prog, client.enabled) if client.enabled else None
        enabled = key is None or _is_on(key)
        elsewhere = find_object(prog, client.disabled) if client.disabled else None
        enabled = enabled and (elsewhere is None or not _is_on(elsewhere))
    except FaultError:
        return ClientState(client, built=True, enabled=False, unreadable=True)
    except AttributeError:
        return ClientState(client, built=True, enabled=False)
    return ClientState(client, True, enabled, offset, size, shared_flags=shared)


def _is_on(key: Object) -> bool:
    """Whether a switch is on: a ``static_key_false``, or a bool (debug_pagealloc's up to 5.2)."""
    if key.type_.unaliased().kind == TypeKind.BOOL:
        return bool(key.value_())
    return bool(key.key.enabled.counter.value_() > 0)


def _entry_dtype(
    prog: Program, stride: int, states: Mapping[str, ClientState], has_flags: bool
) -> np.dtype[np.void]:
    order = byteorder(prog)
    names: list[str] = []
    formats: list[np.dtype[np.generic]] = []
    offsets: list[int] = []
    if has_flags:
        names.append("flags")
        formats.append(np.dtype(order + "u8"))
        offsets.append(0)
    for state in states.values():
        struct = find_type(prog, state.client.struct) if state.client.struct else None
        if not state.enabled or struct is None or state.offset + sizeof(struct) > stride:
            continue
        names.append(state.client.name)
        formats.append(struct_dtype(prog, struct, state.client.members, optional=state.client.optional))
        offsets.append(state.offset)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": stride})


class ClientData:
    """The data of one client for a range of pages, column by column."""

    def __init__(self, pieces: Sequence[Struct]) -> None:
        self._pieces = pieces
        self._columns: dict[str, Struct] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The columns there are: those declared, less the optional ones that this kernel lacks."""
        return self._pieces[0].dtype.names or ()

    def __getitem__(self, name: str) -> Struct:
        """A column, one value per page.

        :raises KeyError: There is no such column.
        """
        found = self._columns.get(name)
        if found is None:
            if name not in self.names:
                raise KeyError(name)
            found = self._columns[name] = np.concatenate([piece[name] for piece in self._pieces])
        return found

    def at(self, name: str, rows: I64) -> Struct:
        """A column's values of some pages: no column is made where they are few.

        :raises KeyError: There is no such column.
        """
        if name in self._columns or len(rows) * _FEW > len(self._pieces[0]):
            return self[name][rows]
        if name not in self.names:
            raise KeyError(name)
        if not len(rows):
            return self._pieces[0][name][:0]
        return self._gather([piece[name] for piece in self._pieces], rows)

    def rows(self, rows: I64) -> Struct:
        """The data of some pages, as a structured array. Cheaper than columns when they are few."""
        return self._gather(self._pieces, rows)

    def _gather(self, pieces: Sequence[Struct], rows: I64) -> Struct:
        if len(pieces) == 1:
            return pieces[0][rows]
        found = np.empty(len(rows), pieces[0].dtype)
        low = 0
        for piece in pieces if len(rows) else ():
            inside = (rows >= low) & (rows < low + len(piece))
            found[inside] = piece[rows[inside] - low]
            low += len(piece)
        return found


class PageExtRange:
    """The page_ext entries of a range of pages, in one piece for each section."""

    def __init__(self, pieces: Sequence[U8], status: U8, layout: PageExtLayout) -> None:
        assert layout.dtype is not None
        self.layout = layout
        #: What could be read of each entry, ReadStatus, uint8; UNREADABLE where there is none.
        self.status = status
        self._pieces = [piece.view(layout.dtype) for piece in pieces]
        self._names = layout.dtype.names or ()
        self._clients: dict[str, ClientData] = {}
        self._flagged: dict[tuple[str, ...], Bools] = {}

    def __getitem__(self, client: str) -> ClientData:
        """The data of an enabled client.

        :raises KeyError: It is not enabled; see :meth:`PageExtLayout.enabled`.
        """
        found = self._clients.get(client)
        if found is None:
            if client not in self._names:
                raise KeyError(client)
            found = self._clients[client] = ClientData([piece[client] for piece in self._pieces])
        return found

    @cached_property
    def flags(self) -> U64:
        """``page_ext->flags``; zeros where entries have no flags word."""
        if "flags" not in self._names:
            return np.zeros(len(self.status), np.uint64)
        return np.concatenate([piece["flags"] for piece in self._pieces]).astype(np.uint64, copy=False)

    @cached_property
    def flagged(self) -> I64:
        """Rows with any flag: of free memory hardly any has."""
        return np.flatnonzero(self.flags)

    def has_flag(self, *names: str, at: I64 | None = None) -> Bools:
        """Rows with all of these flags set; none where the kernel lacks one of them.

        :param at: Only these rows.
        :return: Read-only for all rows: one array for all who ask.
        """
        if at is None:
            found = self._flagged.get(names)
            if found is None:
                found = self._flagged[names] = self._all_with_flags(names)
                found.setflags(write=False)
            return found
        return self._with_flags(names, self.flags[at])

    def _all_with_flags(self, names: Sequence[str]) -> Bools:
        rows = self.flagged
        if len(rows) * _FEW > len(self.flags):
            return self._with_flags(names, self.flags)
        found = np.zeros(len(self.flags), bool)
        found[rows] = self._with_flags(names, self.flags[rows])
        return found

    def _with_flags(self, names: Sequence[str], flags: U64) -> Bools:
        if not all(name in self.layout.flags for name in names):
            return np.zeros(len(flags), bool)
        mask = np.uint64(sum(1 << self.layout.flags[name] for name in names))
        return (flags & mask) == mask


def read_page_ext(
    reader: Reader, layout: PageExtLayout, sections: Sections, start: int, end: int
) -> PageExtRange:
    """Read the entries of [start, end), which may span sections.

    Mirrors ``lookup_page_ext()``: the pointer in mem_section is biased, so that the entry of a PFN is at
    ``page_ext + stride * pfn`` with the absolute PFN.
    """
    data = []
    status = []
    for row, low, high in sections.pieces(start, end):
        base = int(sections.page_ext[row]) if row >= 0 else 0
        if not base or base & _INVALID:
            data.append(np.zeros((high - low) * layout.stride, np.uint8))
            status.append(np.full(high - low, ReadStatus.UNREADABLE, np.uint8))
            continue
        # The bias may wrap around zero, as in C.
        address = (base + layout.stride * low) & 0xFFFFFFFFFFFFFFFF
        chunk = reader.read(address, (high - low) * layout.stride)
        rows = chunk.row_status(layout.stride, high - low)
        data.append(blanked(chunk.data, rows != ReadStatus.READ))
        status.append(rows)
    return PageExtRange(data, np.concatenate(status), layout)
