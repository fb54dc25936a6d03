"""Commands on a kernel that is open already, as in drgn's shell: what is read stays for the next."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mmdump.errors import OpenError

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins
    from mmdump.result import Result
    from mmdump.target import Target

__all__ = ["OPENS_ANOTHER", "Attached", "on_open_kernel"]

#: Commands that make or open a dump of their own.
OPENS_ANOTHER = frozenset({"demo", "shell", "snapshot"})
#: Parameters of commands that say what to open, and what they are when it is open already.
_TARGET: dict[str, Any] = {"vmcore": None, "symbols": (), "live": False, "force_symbols": False}
_KEY = "mmdump"


class Attached:
    """The open kernel of a drgn Program, and the result of the last command on it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        #: What the last command found.
        self.result: Result | None = None
        self._plugins: dict[tuple[tuple[str, ...], ...], Plugins] = {}
        self._kernels: dict[int, Kernel] = {}

    @classmethod
    def of(cls, prog: Program) -> Attached:
        """The kernel that is open in a Program; the same each time.

        :raises OpenError: The Program is not a Linux kernel's.
        """
        found = prog.cache.get(_KEY)
        if not isinstance(found, cls):
            from mmdump.target import Target

            found = cls(Target.from_program(prog))
            # Debug info may be loaded later, and then all is to be looked at again.
            if found.target.debug_info is not None:
                found.remember()
        return found

    def remember(self) -> None:
        """Be what :meth:`of` finds for this Program from now on."""
        self.target.prog.cache[_KEY] = self

    def plugins(self, files: Sequence[str], disabled: Sequence[str]) -> Plugins:
        """The plugins, loaded once for each choice of them."""
        from mmdump.plugins import load_plugins

        key = (tuple(files), tuple(disabled))
        if key not in self._plugins:
            self._plugins[key] = load_plugins(files, disabled)
        return self._plugins[key]

    def kernel(self, plugins: Plugins, *, bare: bool) -> Kernel:
        """The kernel. Of a dump it is the same each time; a live one is read anew.

        :param plugins: As :meth:`plugins` gave them.
        :param bare: Whether it may lack debug info.
        :raises OpenError: There is no debug info, and there must be.
        """
        from mmdump.kernel.layout import find_type

        if find_type(self.target.prog, "struct page") is None:
            lacking = f"{self.target.name}: drgn has no debug info of its kernel."
            if not bare:
                raise OpenError(
                    lacking, "Start drgn with -s VMLINUX, or call prog.load_debug_info([VMLINUX])."
                )
            self.target.no_debug_info = lacking
        if self.target.live:
            return plugins.kernel(self.target)
        key = id(plugins)
        if key not in self._kernels:
            self._kernels[key] = plugins.kernel(self.target)
        return self._kernels[key]


def on_open_kernel(command: click.Command) -> click.Command:
    """The same command without the parameters that say which kernel to open, and how."""
    callback = command.callback
    left_out = {name: _TARGET[name] for each in command.params if (name := each.name or "") in _TARGET}
    if callback is None or not left_out:
        return command

    def on_open(*args: Any, **given: Any) -> Any:
        return callback(*args, **left_out, **given)

    made = copy.copy(command)
    made.params = [each for each in command.params if each.name not in left_out]
    made.callback = on_open
    return made
