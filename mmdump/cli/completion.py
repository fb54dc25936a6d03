"""Completion in shells: what words may stand at a place, as click's scripts for bash, zsh and fish ask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, shell_complete

from mmdump.errors import MmdumpError

if TYPE_CHECKING:
    from mmdump.plugins import Plugins

__all__ = ["VARIABLE", "complete", "directories", "files", "words_of_plugins"]

#: By which click's scripts ask.
VARIABLE = "_MMDUMP_COMPLETE"

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def files(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of files."""
    return [CompletionItem(begun, type="file")]


def directories(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of directories."""
    return [CompletionItem(begun, type="dir")]


def words_of_plugins(words: Callable[[Plugins], Iterable[str]]) -> Complete:
    """Words that the plugins know; none where they cannot be asked."""

    def among(ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
        from mmdump.cli.session import shared_of

        try:
            found = list(words(shared_of(ctx).plugins))
        except MmdumpError:
            return []
        return [CompletionItem(word) for word in found if word.startswith(begun)]

    return among


def complete(cli: click.Command, **settings: Any) -> int | None:
    """Answer a shell that asks for a script, or for the words at a place.

    :return: The exit status; None where no shell asks.
    """
    instruction = os.environ.get(VARIABLE)
    if not instruction:
        return None
    try:
        return shell_complete(cli, settings, "mmdump", VARIABLE, instruction)
    except (MmdumpError, OSError):
        # In the middle of a line is no place for a message.
        return 1
