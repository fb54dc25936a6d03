"""Commands made from analyses; their options are the analysis' fields."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from mmdump.cli.completion import listed
from mmdump.cli.session import output_options, run, shared_of, target_options
from mmdump.errors import IncompleteError, MmdumpError, UsageError, is_full

if TYPE_CHECKING:
    from mmdump.analysis import Analysis
    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins
    from mmdump.result import Result, RowSink
    from mmdump.scan import Progress

__all__ = ["analysis_command"]


def analysis_command(analysis: type[Analysis]) -> click.Command:
    """The command of an analysis; its options are the analysis' fields."""
    from mmdump.analysis import argument_of, options

    words_of = argument_of(analysis)

    @target_options
    @output_options
    @click.pass_context
    def command(ctx: click.Context, /, **given: Any) -> None:
        names = [name for name, *_ in options(analysis)]
        words = {name: given.pop(name) for name in names}
        _see_table(analysis, words, given["table"])
        if words_of is not None:
            rest = given.pop(words_of[0])
            if given["live"] and given["vmcore"] is not None:
                # The running kernel has no name: the first word is one of the rest.
                rest, given["vmcore"] = (given["vmcore"], *rest), None
            words[words_of[0]] = tuple(rest)
        if not given["vmcore"] and not given["live"] and shared_of(ctx).attached is None:
            given["vmcore"] = _swallowed(analysis, words)
        chosen = analysis(**words)
        run(ctx, partial(_scan, chosen), known=analysis.all_tables(), **given)

    # What its fields are for is told by the options.
    doc = (analysis.__doc__ or analysis.summary).split(":param ", 1)[0].strip()
    made = click.command(analysis.name, help=doc, short_help=analysis.summary)(command)
    for name, kind, default, described in options(analysis):
        flag: dict[str, Any] = {"help": described.help, "default": default}
        if kind is bool:
            flag["is_flag"] = True
        elif kind == tuple[str, ...]:
            flag |= {"multiple": True, "metavar": described.metavar}
        else:
            flag |= {"type": int if kind in (int, int | None) else str, "metavar": described.metavar}
        if described.optional_value is not None:
            flag |= {"is_flag": False, "flag_value": described.optional_value}
        if described.choices:
            flag["shell_complete"] = listed(described.choices)
        made.params.append(click.Option([described.flag, name], **flag))
    if words_of is not None:
        name, described_words = words_of
        made.params.append(click.Argument([name], nargs=-1, metavar=described_words.metavar))
    return made


def _see_table(analysis: type[Analysis], words: dict[str, Any], table: str | None) -> None:
    """See that the table that is asked for is made: before memory is read for nothing.

    :raises UsageError: Only an option that was not given makes it.
    """
    from mmdump.analysis import options

    for name, _, default, described in options(analysis):
        if table in described.tables and words[name] == default:
            takes = described.metavar if described.optional_value is None else None
            flag = f"{described.flag} {takes}" if takes else described.flag
            raise UsageError(
                f"{analysis.name} has table {table!r} only with {described.flag}.",
                f"Add it: mmdump {analysis.name} ... {flag} --table {table}",
            )


def _swallowed(analysis: type[Analysis], words: dict[str, Any]) -> str | None:
    """The dump, when an option whose value may be left out stood before it and took it for its value."""
    from mmdump.analysis import options

    for name, _, _, described in options(analysis):
        word = words[name]
        if described.optional_value not in (None, word) and isinstance(word, str) and os.path.isfile(word):
            words[name] = described.optional_value
            return word
    return None


def _scan(
    analysis: Analysis,
    kernel: Kernel,
    plugins: Plugins,
    sink: RowSink,
    progress: Progress | None,
) -> Result:
    from mmdump.scan import run_one

    try:
        return run_one(kernel, analysis, sink, progress)
    except (MmdumpError, BrokenPipeError):
        raise
    except Exception as error:
        plugin = plugins.of(type(analysis))
        if plugin is None or plugin.own or is_full(error):
            raise
        raise IncompleteError(
            f"{analysis.name}, of plugin {plugin.name} ({plugin.source}), failed: "
            f"{type(error).__name__}: {error}",
            "The plugin's author will want what --debug prints.",
        ) from error
