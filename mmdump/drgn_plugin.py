"""drgn's plugin: ``%mmdump`` in every drgn session on a kernel.

drgn imports this module when it opens its first program, whether or not anybody wants mmdump: it must stay
small, and import what it needs only when the command is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drgn import ProgramFlags
from drgn.commands import DEFAULT_COMMAND_NAMESPACE, ParsedCommand, parse_shell_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drgn import Program

    from mmdump.result import Result

__all__ = ["MmdumpCommand", "register"]


class MmdumpCommand:
    """The command ``mmdump`` (:class:`drgn.commands.Command`): mmdump's own command line, less the dump."""

    def description(self) -> str:
        """One line."""
        return "page-level analysis of the kernel's memory"

    def format_usage(self) -> str:
        """The usage line."""
        return "mmdump [OPTIONS] COMMAND [ARGS]..."

    def format_help(self, *, indent: str = "") -> str:
        """What there is to know without a program."""
        return (
            f"{indent}Who owns a page, who pins it, how it is mapped: mmdump's commands on the open kernel.\n"
            f"{indent}mmdump --help lists them, and mmdump COMMAND --help explains one."
        )

    def enabled(self, prog: Program) -> bool:
        """Whether the program is a kernel."""
        return bool(prog.flags & ProgramFlags.IS_LINUX_KERNEL)

    def parse(self, source: str, /) -> ParsedCommand[Sequence[str]]:
        """Words as in a shell, with redirections and a pipe."""
        return parse_shell_command(source)

    def run(self, prog: Program, name: str, args: Sequence[str], /, **kwargs: Any) -> Result | None:  # noqa: ARG002
        """Run it; see :func:`mmdump.cli.embedded.run_words`."""
        from mmdump.cli.embedded import run_words

        return run_words(prog, args)


def register() -> None:
    """Make ``%mmdump`` known to drgn. Importing this module does it."""
    DEFAULT_COMMAND_NAMESPACE.register("mmdump", MmdumpCommand())


register()
