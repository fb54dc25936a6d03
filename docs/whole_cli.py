"""The command line with the commands of the plugins in the box, for pages made from it."""

from __future__ import annotations

import copy

import click

from mmdump.cli import cli
from mmdump.cli.session import Shared

__all__ = ["whole"]

_ctx = click.Context(cli, info_name="mmdump", obj=Shared((), ("*",), debug=False))

#: As :data:`mmdump.cli.cli`, which asks its plugins for commands only once it runs.
whole = copy.copy(cli)
whole.commands = {
    name: command for name in cli.list_commands(_ctx) if (command := cli.get_command(_ctx, name)) is not None
}
