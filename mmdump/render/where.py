"""Row conditions (``--where``): a small, closed part of SQL over the columns of one table.

polars' ``sql_expr`` does the work, but it admits more than conditions on a row: subqueries, aggregates and
windows, whose answer would depend on how rows were cut into frames. So the text is split into tokens first
and only what is listed here is let through. On the way names are quoted (``order`` is a word of SQL),
hexadecimal numbers become decimal ones, and conditions on list columns, which SQL lacks, become columns of
their own that hold whether any element satisfies them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from mmdump.errors import UsageError
from mmdump.render.mismatch import mismatch, sort_of
from mmdump.render.tokens import Token, cannot, column_token, columns_hint, tokenize
from mmdump.result import Schema

__all__ = ["Where", "compile_where"]

#: How the elements of a list compare with a literal.
_COMPARE: Mapping[str, Callable[[pl.Expr, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "LIKE": lambda element, value: _matches(element, _like(str(value))),
    "ILIKE": lambda element, value: _matches(element, "(?i)" + _like(str(value))),
    "~": lambda element, value: _matches(element, str(value)),
    "RLIKE": lambda element, value: _matches(element, str(value)),
    "REGEXP": lambda element, value: _matches(element, str(value)),
    "~*": lambda element, value: _matches(element, f"(?i){value}"),
}
_NEGATED = {"!=": "=", "<>": "=", "!~": "~", "!~*": "~*"}


@dataclass(frozen=True)
class Where:
    """A condition, ready for frames of one schema.

    :param text: The condition as the user gave it, and
    :param hint: what columns there are, for messages.
    :param expr: Boolean, over the columns and those that ``extra`` adds.
    :param extra: Columns that hold the answers of conditions on lists, or categories as text.
    """

    text: str
    hint: str
    expr: pl.Expr
    extra: tuple[pl.Expr, ...] = ()

    def filter(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows for which the condition is true, in their order.

        :raises UsageError: The condition does not fit the columns' types, or fails on a value.
        """
        try:
            if not self.extra:
                return frame.filter(self.expr)
            return frame.with_columns(self.extra).filter(self.expr).select(frame.columns)
        except _POLARS_ERRORS as error:
            raise cannot(self.text, _reason(error), self.hint) from None

    def check(self, dtypes: Mapping[str, pl.DataType]) -> None:
        """Try the condition on made-up rows, so that most mistakes are told before any output.

        :raises UsageError: As :meth:`filter`.
        """
        values = {name: [None, _example(dtype)] for name, dtype in dtypes.items()}
        self.filter(pl.DataFrame(values, schema=dict(dtypes)))


def compile_where(text: str, schema: Schema, dtypes: Mapping[str, pl.DataType] | None = None) -> Where:
    """Understand a condition on the columns of a table.

    :param dtypes: The types of the columns; without them only spelling and names are checked, since it
        is not known which columns hold lists.
    :raises UsageError: Not a condition on one row of this table.
    """
    tokens = tokenize(text, schema)
    rewritten, extra = _rewrite(tokens, dtypes)
    try:
        expr = pl.sql_expr(" ".join(token.text for token in rewritten))
    except _POLARS_ERRORS as error:
        raise cannot(text, _reason(error), columns_hint(schema)) from None
    where = Where(text, columns_hint(schema), expr, tuple(extra))
    if dtypes is not None:
        try:
            where.check(dtypes)
        except UsageError as error:
            raise mismatch(text, tokens, rewritten, dtypes) or error from None
    return where


def _rewrite(
    tokens: list[Token], dtypes: Mapping[str, pl.DataType] | None
) -> tuple[list[Token], list[pl.Expr]]:
    """The tokens with what SQL cannot say replaced by columns of their own: conditions on lists, and
    categories as text.
    """
    rewritten: list[Token] = []
    extra: list[pl.Expr] = []
    at = 0
    while at < len(tokens):
        truth = _truth_test(tokens, at)
        if truth is not None:
            tests, at = truth
            rewritten += tests
            continue
        found = _list_condition(tokens, at, dtypes) or _category(tokens[at], at, dtypes)
        if found is None:
            rewritten.append(tokens[at])
            at += 1
            continue
        expr, at = found
        name = f"condition {len(extra)}"
        extra.append(expr.alias(name))
        rewritten.append(column_token(name))
    return rewritten, extra


def _truth_test(tokens: list[Token], at: int) -> tuple[list[Token], int] | None:
    """``IS [NOT] TRUE`` or ``FALSE`` in words that polars gets right: to it, NULL IS NOT TRUE is unknown."""
    words = [token.text if token.kind == "keyword" else "" for token in tokens[at : at + 3]]
    negated = words[1:2] == ["NOT"]
    if words[:1] != ["IS"] or words[1 + negated : 2 + negated] not in (["TRUE"], ["FALSE"]):
        return None
    same = [Token("symbol", "<=>"), tokens[at + 1 + negated]]
    return same + [Token("symbol", "= FALSE")] * negated, at + 2 + negated


def _category(token: Token, at: int, dtypes: Mapping[str, pl.DataType] | None) -> tuple[pl.Expr, int] | None:
    """A column of categories as text, which LIKE and functions of text want."""
    if token.kind != "column" or dtypes is None:
        return None
    name = str(token.value)
    return (pl.col(name).cast(pl.String), at + 1) if dtypes[name] in (pl.Categorical, pl.Enum) else None


def _list_condition(
    tokens: list[Token], at: int, dtypes: Mapping[str, pl.DataType] | None
) -> tuple[pl.Expr, int] | None:
    """The condition on a list column that begins here and where it ends, or None."""

    def is_list(token: Token, unknown: bool) -> bool:
        if token.kind != "column":
            return False
        return unknown if dtypes is None else isinstance(dtypes[str(token.value)], pl.List)

    first, *rest = tokens[at : at + 6]
    if not rest:
        return None
    negated = rest[0].text == "NOT" and rest[0].kind == "keyword"
    if negated:
        rest = rest[1:]
    size = at + 2 + negated
    if len(rest) < 2:
        return None
    word = rest[0].text
    if first.kind in ("string", "number"):
        if word == "IN":
            bracket = rest[1].text == "(" and len(rest) > 3 and rest[3].text == ")"
            column = rest[2] if bracket else rest[1]
            # Without brackets only a list can follow IN; with them it may be a plain column.
            if is_list(column, unknown=not bracket):
                return _any(column, "=", [first.value], negated), size + (3 if bracket else 1)
        elif word in ("=", "!=", "<>") and not negated and is_list(rest[1], unknown=False):
            return _any(rest[1], word, [first.value], False), size + 1
        return None
    if not is_list(first, unknown=False):
        return None
    if word == "IN":
        values, end = _values(tokens, size)
        return None if values is None else (_any(first, "=", values, negated), end)
    known = _NEGATED.get(word, word)
    if known not in _COMPARE or rest[1].kind not in ("string", "number"):
        return None
    return _any(first, word, [rest[1].value], negated), size + 1


def _values(tokens: list[Token], at: int) -> tuple[list[object] | None, int]:
    """The literals of ``( literal, literal ... )`` from there, and where it ends."""
    values: list[object] = []
    if at >= len(tokens) or tokens[at].text != "(":
        return None, at
    for index in range(at + 1, len(tokens) - 1, 2):
        if tokens[index].kind not in ("string", "number"):
            break
        values.append(tokens[index].value)
        if tokens[index + 1].text == ")":
            return values, index + 2
        if tokens[index + 1].text != ",":
            break
    return None, at


def _any(column: Token, word: str, values: list[object], negated: bool) -> pl.Expr:
    """Whether any element compares so with any of the values; unknown where the list is."""
    if word in _NEGATED:
        word, negated = _NEGATED[word], not negated
    compare = _COMPARE[word]
    holds = pl.any_horizontal(compare(pl.element(), value) for value in values)
    any_element = pl.col(str(column.value)).list.eval(holds).list.any()
    return ~any_element if negated else any_element


def _matches(element: pl.Expr, pattern: str) -> pl.Expr:
    return element.cast(pl.String).str.contains(pattern)


def _like(pattern: str) -> str:
    """The regular expression of a LIKE pattern."""
    parts = [{"%": ".*", "_": "."}.get(char) or _literal(char) for char in pattern]
    return "(?s)^" + "".join(parts) + "$"


def _literal(char: str) -> str:
    return char if char.isalnum() else f"\\x{{{ord(char):x}}}"


#: A panic inside polars is a BaseException, so that it must be named.
_POLARS_ERRORS = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def _example(dtype: pl.DataType) -> object:
    """A value of that type; None where there is none that all values of the type resemble."""
    if isinstance(dtype, pl.List):
        return []
    if dtype == pl.Boolean:
        return False
    if dtype == pl.String:
        return ""
    return 0 if dtype.is_numeric() else None


def _reason(error: BaseException) -> str:
    """What polars said, in one line without its internals."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else ""
    if line.startswith("unable to parse"):
        return "it is not a whole condition"
    if "Span(" in line or "Span {" in line:
        return "it says something that conditions here cannot say"
    if line.startswith("regex error"):
        return "not a valid regular expression"
    value = re.fullmatch(r"filter predicate must be of type `Boolean`, got `(.*)`", line)
    if value:
        return f"its value is {sort_of(value[1])}, neither true nor false"
    if line.endswith("is not supported"):
        return "an operator in it does not take values of these types"
    return line.rstrip(".:")[:200] or "polars could not evaluate it"
