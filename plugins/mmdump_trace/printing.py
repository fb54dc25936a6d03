"""The text of single events: by their print format where that tells it, else by their fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.pointers import read_hashed_pointers
from mmdump_trace.evaluate import compile_print_fmt
from mmdump_trace.formats import EventFormat, EventFormats
from mmdump_trace.names import KernelNames
from mmdump_trace.printf import PointerWords, UnprintableError
from mmdump_trace.raw import raw_fields

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_trace.instances import Instance

__all__ = ["EventPrinter"]

#: Where a stack was taken through a trampoline of ftrace's own: FTRACE_TRAMPOLINE_MARKER.
_TRAMPOLINE = (1 << 31) - 1
_U64 = (1 << 64) - 1
#: Frames of a stack that are printed; FTRACE_KSTACK_ENTRIES are fewer.
_MOST_FRAMES = 1 << 13


class EventPrinter:
    """Prints the events of one instance, each as ``event->funcs->trace()`` does.

    :ivar by_fields: Events that are printed by their fields, and why.
    """

    def __init__(self, kernel: Kernel, formats: EventFormats, instance: Instance) -> None:
        self._symbols = kernel.symbols
        self._formats = formats
        self._instance = instance
        self._names = KernelNames(kernel)
        hashed = read_hashed_pointers(kernel.target.prog)
        # 5.13 made it an option; before, %p in events was always hashed.
        plain = "HASH_PTR" not in instance.options and instance.hash_is_option
        self._words = PointerWords(
            (lambda value: f"{value:016x}") if plain else hashed.text, self._symbols.text, self._name
        )
        self._order = "<" if self._names.little else ">"
        self._printers: dict[int, Callable[[bytes], str] | None] = {}
        self._moved = instance.text_delta
        self.by_fields: dict[str, str] = {}

    def text(self, type_number: int, data: bytes) -> str:
        """What stands behind the columns, the last newline included. Each character is a byte."""
        event = self._formats.by_type.get(type_number)
        own = self._own(type_number, event)
        if own is not None and "FIELDS" not in self._instance.options:
            return own(data)
        if event is None:
            return f"Unknown type {type_number}\n"
        if self._moved or "FIELDS" in self._instance.options:
            return f"{event.name}:{self._fields(event, data)}\n"
        printer = self._printer(event)
        if printer is not None:
            try:
                return f"{event.name}: {printer(data)}\n"
            except UnprintableError as error:
                self.by_fields.setdefault(event.name, str(error))
        return f"{event.name}:{self._fields(event, data)}\n"

    def words_of(self, type_number: int, data: bytes) -> str:
        """The same without its name and its newline."""
        event = self._formats.by_type.get(type_number)
        text = self.text(type_number, data).rstrip("\n")
        return text.removeprefix(f"{event.name}:").removeprefix(" ") if event is not None else text

    def frames(self, data: bytes, event_type: int) -> list[int]:
        """The addresses of a stack event, innermost first."""
        event = self._formats.by_type.get(event_type)
        caller = event.field("caller") if event is not None else None
        if caller is None:
            return []
        raw = data[caller.offset : caller.offset + 8 * _MOST_FRAMES]
        # A user's stack is an array of its own size, the kernel's is as long as the event.
        if event_type == self._formats.types.user_stack:
            raw = raw[: caller.size]
        found = np.frombuffer(raw[: len(raw) // 8 * 8], f"{self._order}u8").tolist()
        end = 0 if event_type == self._formats.types.user_stack else _U64
        return found[: found.index(end)] if end in found else found

    def symbol(self, address: int) -> str:
        """A frame of the kernel as the trace shows it: ``seq_print_ip_sym()``."""
        if not address:
            return "0"
        address = address + self._moved & _U64
        text = self._symbols.text(address)
        if text.startswith("0x"):
            text = f"0x{address:08x}"
        elif "SYM_OFFSET" not in self._instance.options:
            # kallsyms_lookup(), the name alone.
            text = text.split("+", 1)[0]
        if "SYM_ADDR" in self._instance.options:
            text += f" <{address:016x}>"
        return text

    def _name(self, address: int) -> str:
        """``%ps``: name and module."""
        text = self._symbols.text(address)
        name, plus, rest = text.partition("+")
        module = rest.partition(" [")[2]
        return f"{name} [{module}" if plus and module else name

    def _fields(self, event: EventFormat, data: bytes) -> str:
        return raw_fields(
            event, data, self._formats.filters, self._words, self._names.string_at, self._names.little
        )

    def _printer(self, event: EventFormat) -> Callable[[bytes], str] | None:
        if event.type not in self._printers:
            try:
                # Probes and syscalls have functions of their own; their format is only for readers of files.
                if event.printer is not None and not event.printer.startswith("trace_raw_output_"):
                    raise UnprintableError(f"{event.printer}() prints it, not its format")
                self._printers[event.type] = compile_print_fmt(
                    event, self._names, self._words, self._formats.common
                )
            except UnprintableError as error:
                self._printers[event.type] = None
                self.by_fields[event.name] = str(error)
        return self._printers[event.type]

    def _own(self, type_number: int, event: EventFormat | None) -> Callable[[bytes], str] | None:
        """How an event of the tracer's own is printed (``trace_*_print()``), where that is known."""
        if type_number == self._formats.types.kernel_stack:
            return self._kernel_stack
        if type_number == self._formats.types.user_stack:
            return self._user_stack
        if event is None or event.system != "ftrace" or event.printer is not None:
            return None
        return {"function": self._function, "print": self._print, "bputs": self._bputs}.get(event.name)

    def _kernel_stack(self, data: bytes) -> str:
        frames = self.frames(data, self._formats.types.kernel_stack)
        lines = [
            " => [FTRACE TRAMPOLINE]\n" if each == _TRAMPOLINE else f" => {self.symbol(each)}\n"
            for each in frames
        ]
        return "<stack trace>\n" + "".join(lines)

    def _user_stack(self, data: bytes) -> str:
        frames = self.frames(data, self._formats.types.user_stack)
        return "<user stack trace>\n" + "".join(f" =>  <{each:016x}>\n" for each in frames)

    def _long(self, name: str, field: str, data: bytes) -> int:
        event = next((each for each in self._formats.by_type.values() if each.name == name), None)
        place = event.field(field) if event is not None else None
        if place is None or len(data) < place.offset + 8:
            return 0
        return int(np.frombuffer(data, f"{self._order}u8", 1, place.offset)[0])

    def _function(self, data: bytes) -> str:
        parent = self._long("function", "parent_ip", data)
        text = self.symbol(self._long("function", "ip", data))
        if "PRINT_PARENT" in self._instance.options and parent:
            text += f" <-{self.symbol(parent)}"
        return text + "\n"

    def _print(self, data: bytes) -> str:
        event = next(each for each in self._formats.by_type.values() if each.name == "print")
        field = event.field("buf")
        text = data[field.offset if field is not None else 16 :].split(b"\0", 1)[0].decode("latin-1")
        return f"{self.symbol(self._long('print', 'ip', data))}: {text}"

    def _bputs(self, data: bytes) -> str:
        text = self._names.string_at(self._long("bputs", "str", data))
        return f"{self.symbol(self._long('bputs', 'ip', data))}: {'(fault)' if text is None else text}"
