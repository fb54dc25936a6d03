"""Completion in shells: what words may stand at a place, as click's scripts for bash, zsh and fish ask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, shell_complete

from mmdump.errors import MmdumpError

if TYPE_CHECKING:
    from mmdump.plugins import Plugins
    from mmdump.result import Schema

__all__ = ["VARIABLE", "columns", "complete", "directories", "files", "listed", "tables", "words_of_plugins"]

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


def listed(words: Sequence[str] | Callable[[Plugins], Iterable[str]]) -> Complete:
    """Words of a list that commas separate, the last of which is to be completed."""
    know = words_of_plugins(words if callable(words) else lambda _plugins: words)

    def among(ctx: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
        return _last_of_list(begun, lambda last: know(ctx, param, last))

    return among


def _last_of_list(begun: str, complete: Callable[[str], list[CompletionItem]]) -> list[CompletionItem]:
    before, comma, last = begun.rpartition(",")
    there = before.split(",")
    return [CompletionItem(before + comma + each.value) for each in complete(last) if each.value not in there]


def tables(ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of the tables that the command has."""
    return [CompletionItem(name) for name in _schemas(ctx) if name.startswith(begun)]


def columns(ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of columns of the table that is asked about, separated by commas."""
    schemas = _schemas(ctx)
    table = ctx.params.get("table") or next(iter(schemas), None)
    names = schemas[table].names if table in schemas else ()
    return _last_of_list(
        begun, lambda last: [CompletionItem(name) for name in names if name.startswith(last)]
    )


def _schemas(ctx: click.Context) -> dict[str, Schema]:
    """The tables that the command is known to have, the main one first; none where nobody can be asked."""
    from mmdump.cli.session import shared_of

    try:
        analysis = shared_of(ctx).plugins.analyses().get(ctx.info_name or "")
    except MmdumpError:
        return {}
    if analysis is not None:
        found = analysis.all_tables()
    elif ctx.info_name == "info":
        from mmdump import info

        found = (info.FACTS, info.COVERAGE, info.ZONES, info.CLIENTS, info.ANALYSES, info.VMCOREINFO)
    elif ctx.info_name == "check":
        from mmdump.checking import CHECKS, VIOLATIONS

        found = (VIOLATIONS, CHECKS)
    else:
        found = ()
    return {each.name: each for each in found}


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
