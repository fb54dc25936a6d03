"""Stack frames as text: as the kernel prints them, with source lines and inlined functions when asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.kernel.arrays import printable
from mmdump_page_owner.modules import Modules

if TYPE_CHECKING:
    from drgn import SourceLocation

    from mmdump.kernel import Kernel

__all__ = ["Frames"]

_MODULE = re.compile(r"\[([^\[\]]+)\]$")
#: Where a kernel tree's own files begin in the path of init/main.c.
_KNOWN_FILE, _KNOWN_SYMBOL = "init/main.c", "start_kernel"


@dataclass
class Frames:
    """The text of return addresses, each made once.

    :param lines: With the source line of each call.
    :param inline: With the functions that the compiler put into the one that made it, innermost first.
    """

    kernel: Kernel
    lines: bool = False
    inline: bool = False
    #: Whether any address was found in the debug info's line table.
    any_line: bool = False
    _texts: dict[int, list[str]] = field(default_factory=dict)
    _plain: dict[int, str] = field(default_factory=dict)

    @cached_property
    def _modules(self) -> Modules:
        return Modules(self.kernel.target.prog)

    def plain(self, address: int) -> str:
        """``name+0xoffset/0xsize [module]``, ``%pS``; a bare address where nothing knows it."""
        found = self._plain.get(address)
        if found is None:
            found = self.kernel.symbols.text(address)
            if found.startswith("0x"):
                # Without debug info of its own a module still has its symbol table.
                found = self._modules.text(address) or found
            self._plain[address] = found
        return found

    def module(self, address: int) -> str | None:
        """The name of the module an address lies in; None in the kernel itself, or where it is unknown."""
        text = self.plain(address)
        named = _MODULE.search(text) if text.endswith("]") else None
        return named[1] if named else None

    def texts(self, address: int) -> list[str]:
        """The frame as it is shown: one line, and with ``inline`` one more for each inlined function."""
        if not (self.lines or self.inline):
            return [self.plain(address)]
        found = self._texts.get(address)
        if found is None:
            found = self._texts[address] = self._located(address)
        return found

    def _located(self, address: int) -> list[str]:
        text = self.plain(address)
        try:
            # A return address may already be the next line, or the next function: the call is before it.
            locations = list(self.kernel.target.prog.source_location(address - 1))
        except (LookupError, FaultError, ValueError, OverflowError):
            locations = []
        if not locations:
            return [text]
        self.any_line = True
        places = [self._place(each) for each in locations]
        outer = f"{text} ({places[-1][1]})" if self.lines else text
        if not self.inline:
            return [outer]
        # What was inlined has no address of its own, so no offset.
        inlined = [f"{name} ({at})" if self.lines else name for name, at in places[:-1]]
        return [*inlined, outer]

    def _place(self, location: SourceLocation) -> tuple[str, str]:
        """Function, and file:line with the file's path in the kernel's tree."""
        name, file = location.name() or "?", location.filename.removeprefix(self._tree)
        return printable(name.encode()), f"{printable(file.encode())}:{location.line}"

    @cached_property
    def _tree(self) -> str:
        """The directory that the kernel was built from, as its debug info names it."""
        try:
            known = self.kernel.target.prog.source_location(_KNOWN_SYMBOL)[-1].filename
        except (LookupError, FaultError, ValueError):
            return ""
        return known.removesuffix(_KNOWN_FILE) if known.endswith("/" + _KNOWN_FILE) else ""
