"""Why a condition does not fit the types of its columns, in words; polars says it in its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from mmdump.errors import UsageError
from mmdump.render.tokens import Token, cannot

__all__ = ["mismatch", "sort_of"]

_COMPARISONS = frozenset(
    {
        *("=", "!=", "<>", "<=>", "<", "<=", ">", ">=", "~", "~*", "!~", "!~*"),
        *("LIKE", "ILIKE", "RLIKE", "REGEXP", "IN", "BETWEEN"),
    }
)


def mismatch(
    text: str, tokens: Sequence[Token], left: Sequence[Token], dtypes: Mapping[str, pl.DataType]
) -> UsageError | None:
    """What is wrong with a condition that polars refused; None where nothing here can tell.

    :param tokens: Of the condition.
    :param left: Those that were left when the conditions on lists had been replaced.
    """
    for index, token in enumerate(tokens):
        if token.kind == "column":
            for literal in _literals(tokens, index):
                found = _of_literal(text, token, literal, dtypes[str(token.value)])
                if found is not None:
                    return found
    for index, token in enumerate(left):
        if token.kind == "column" and isinstance(dtypes.get(str(token.value)), pl.List):
            called = left[index - 2] if index >= 2 and left[index - 1].text == "(" else None
            tested = index + 1 < len(left) and left[index + 1].text == "IS"
            if not tested and not (called and called.text.startswith("ARRAY_")):
                return _of_list(text, str(token.value), dtypes[str(token.value)])
    return None


def sort_of(dtype: str) -> str:
    """What values of a type of polars are to a reader, by the type's name."""
    words = {"List": "a list", "Str": "text", "Int": "a number", "UInt": "a number", "Float": "a number"}
    same = [word for begin, word in words.items() if dtype.startswith(begin)]
    return same[0] if same else {"Null": "nothing"}.get(dtype, "another")


def _literals(tokens: Sequence[Token], index: int) -> list[Token]:
    """The literals that a condition compares the column at that place with."""
    rest = list(tokens[index + 1 :])
    if rest and rest[0].text == "NOT":
        rest = rest[1:]
    found: list[Token] = []
    if rest and rest[0].text in _COMPARISONS:
        ends = [at for at, token in enumerate(rest) if token.text == ")"]
        inside = rest[1:2] and rest[1].text == "(" and ends
        found = rest[2 : ends[0]] if inside else rest[1:2]
    if index >= 2 and tokens[index - 1].text in _COMPARISONS:
        found = [*found, tokens[index - 2]]
    return [token for token in found if token.kind in ("string", "number")]


def _of_literal(text: str, column: Token, literal: Token, dtype: pl.DataType) -> UsageError | None:
    name = column.value
    of = "" if not isinstance(dtype, pl.List) else "a list of "
    if isinstance(dtype, pl.List):
        dtype = dtype.inner  # type: ignore[assignment]
    if dtype.is_numeric() and literal.kind == "string":
        what = f"{of}numbers" if of else "a number"
        return cannot(text, f"{name} is {what}, and {literal.text} is text", "Numbers go without quotes.")
    if dtype in (pl.String, pl.Categorical, pl.Enum) and literal.kind == "number":
        what = f"{of}texts" if of else "text"
        return cannot(
            text,
            f"{name} is {what}, and {literal.text} is a number",
            f"Text goes in single quotes: '{literal.text}'.",
        )
    return None


def _of_list(text: str, name: str, dtype: pl.DataType) -> UsageError:
    number = isinstance(dtype, pl.List) and dtype.inner.is_numeric()
    examples = ("= 9", "IN (9, 10)", ">= 9") if number else ("= 'x'", "IN ('x', 'y')", "LIKE '%x%'")
    return cannot(
        text,
        f"{name} is a list, and this is no condition on one",
        f"A condition on a list compares it with plain values, and holds where any of its own does: "
        f"{', '.join(f'{name} {each}' for each in examples)}. array_length({name}) is how many there are.",
    )
