"""Conditions split into tokens, of which only what is listed here is let through."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mmdump.errors import UsageError
from mmdump.render.units import UNITS, UNITS_HINT, with_unit
from mmdump.result import Column, Kind, Schema

__all__ = [
    "ElsewhereError",
    "NoColumnError",
    "Token",
    "cannot",
    "column_token",
    "columns_hint",
    "find_column",
    "tokenize",
]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")+")
    | (?P<number>(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?:[num]?s|[mhd]|[KMGT]iB|B)?)(?![\w.]))
    | (?P<word>[^\W\d]\w*)
    | (?P<symbol><=>|<>|!=|==|<=|>=|!~\*|!~|~\*|\|\||[-=<>+*/%&|~(),])
    )""",
    re.ASCII | re.VERBOSE,
)

#: Words that are part of the language. A column of exactly that name comes first. DISTINCT FROM is missing
#: since sqlparser takes an AND after it for a part of its right side; ``<=>`` says the same.
_KEYWORDS = frozenset(
    {
        *("AND", "BETWEEN", "CASE", "ELSE", "END", "FALSE", "ILIKE", "IN", "IS", "LIKE", "NOT", "NULL", "OR"),
        *("REGEXP", "RLIKE", "THEN", "TRUE", "WHEN", "XOR"),
    }
)

#: Functions of one row. No aggregate, no table function, nothing that reads or is random.
_FUNCTIONS = frozenset(
    {
        *("ABS", "CEIL", "DIV", "FLOOR", "MOD", "ROUND"),
        *("BIT_AND", "BIT_COUNT", "BIT_NOT", "BIT_OR", "BIT_XOR"),
        *("ARRAY_CONTAINS", "ARRAY_GET", "ARRAY_LENGTH", "ARRAY_TO_STRING"),
        *("COALESCE", "GREATEST", "IF", "IFNULL", "LEAST", "NULLIF"),
        *("CONCAT", "ENDS_WITH", "LEFT", "LENGTH", "LOWER", "OCTET_LENGTH", "REGEXP_LIKE", "REPLACE"),
        *("RIGHT", "STARTS_WITH", "STRPOS", "SUBSTR", "UPPER"),
    }
)

#: sqlparser and polars recurse once per operator of a chain; far more than this overflows the C stack.
_MAX_OPERATORS = 500


def find_column(schema: Schema, name: str) -> str | None:
    """The column of that name or alias, in any case, as text shows headers in capitals; None without one."""
    if name in schema.names:
        return name
    same = [each for each in schema.names if each.lower() == name.lower()]
    same = same or [column.name for column in schema.columns if name.lower() in column.aliases]
    return same[0] if len(same) == 1 else None


class ElsewhereError(UsageError):
    """A column was asked for what it cannot give; that of another table of the same result may.

    :ivar column: The name.
    :ivar schema: The table.
    """

    column: str
    schema: Schema

    def among(self, tables: Iterable[Schema]) -> ElsewhereError:
        """The error where it is known which other tables there are: it names those that have the column."""
        having = dict.fromkeys(
            each.name for each in tables if each.name != self.schema.name and self._has(each)
        )
        return self._with(list(having)) if having else self

    def _has(self, table: Schema) -> bool:
        return find_column(table, self.column) is not None

    def _with(self, having: Sequence[str]) -> ElsewhereError:
        raise NotImplementedError


class NoColumnError(ElsewhereError):
    """A column was named that the table does not have."""

    def __init__(self, message: str, column: str, schema: Schema, advice: Sequence[str] = ()) -> None:
        begun = [name for name in schema.names if name.startswith(f"{column.lower()}_")]
        close = begun[:3] or difflib.get_close_matches(column.lower(), schema.names, 2, cutoff=0.75)
        meant = [f"Did you mean {' or '.join(close)}?"] if close else []
        super().__init__(message, " ".join([*advice, *meant, columns_hint(schema)]))
        self.column = column
        self.schema = schema
        self._advice = advice

    def _with(self, having: Sequence[str]) -> NoColumnError:
        there = f"{self.column} is a column of {' and '.join(having)}: --table {having[0]}."
        return NoColumnError(self.message, self.column, self.schema, [*self._advice, there])


class NoValueError(ElsewhereError):
    """A column was compared with what it never is."""

    def __init__(self, text: str, column: Column, value: str, schema: Schema, advice: str = "") -> None:
        values = f"Values of {column.name}: {', '.join(column.values)}."
        super().__init__(
            cannot(text, f"{column.name} is never {value!r}").message, f"{advice} {values}".lstrip()
        )
        self.column = column.name
        self.schema = schema
        self._given = text, column, value, schema

    def _has(self, table: Schema) -> bool:
        name = find_column(table, self.column)
        values = table.column(name).values if name is not None else ()
        return name is not None and (not values or self._given[2] in values)

    def _with(self, having: Sequence[str]) -> NoValueError:
        have = f"{' and '.join(having)} {'has' if len(having) == 1 else 'have'}"
        choose = " or ".join(f"--table {each}" for each in having)
        there = f"{have} a {self.column} of other values: {choose}."
        return NoValueError(*self._given, there)


@dataclass(frozen=True)
class Token:
    """A word of the condition.

    :param kind: string, number, column, keyword, function or symbol.
    :param text: As polars reads it.
    :param value: That of a literal, or the name of a column.
    :param unit: What a number with a unit counts: bytes or nanoseconds.
    """

    kind: str
    text: str
    value: object = field(default=None)
    unit: Kind | None = None


def tokenize(text: str, schema: Schema) -> list[Token]:
    """The tokens of a condition on that table: every name is a column's, every function one of a row.

    :raises UsageError: There is something else in it, or a column is compared with what it never is.
    """
    try:
        tokens = _tokens(text, schema)
        _check_values(text, tokens, schema)
        _check_units(text, tokens, schema)
    except UsageError as error:
        if error.hint is None:
            error.hint = columns_hint(schema)
        raise
    return tokens


def _tokens(text: str, schema: Schema) -> list[Token]:
    raw: list[tuple[str, str]] = []
    end = len(text.rstrip())
    at = 0
    while at < end:
        match = _TOKEN.match(text, at, end)
        if match is None:
            rest = text[at:end].lstrip()
            what = "a text that is not closed" if rest[0] in "'\"" else f"unexpected {rest[:10]!r}"
            raise cannot(text, what, UNITS_HINT if rest[0].isdigit() else None)
        assert match.lastgroup is not None
        kind, word = match.lastgroup, match[match.lastgroup]
        if kind == "word" and word in UNITS and raw and raw[-1][0] == "number" and raw[-1][1][-1].isdigit():
            raw[-1] = ("number", raw[-1][1] + word)
        else:
            raw.append((kind, word))
        at = match.end()
    if not raw:
        raise cannot(text, "the condition is empty")
    tokens = [_token(text, schema, raw, index) for index in range(len(raw))]
    for function, bracket, close in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if function.kind == "function" and bracket.text == "(" and close.text == ")":
            # Besides making no sense, GREATEST() panics inside polars.
            raise cannot(text, f"{function.text.lower()} of nothing")
    operators = sum(token.kind in ("keyword", "symbol") and token.text not in ",()" for token in tokens)
    if operators > _MAX_OPERATORS:
        raise cannot(
            text[:40] + "...", f"more than {_MAX_OPERATORS} operators", "Use IN for a list of values."
        )
    return tokens


def _token(text: str, schema: Schema, raw: list[tuple[str, str]], index: int) -> Token:
    kind, word = raw[index]
    called = raw[index + 1 : index + 2] == [("symbol", "(")]
    if kind == "string":
        return Token("string", word, word[1:-1].replace("''", "'"))
    if kind == "number":
        return _number(text, word)
    if kind == "symbol":
        return Token("symbol", "=" if word == "==" else word)
    if kind == "quoted":
        name = word[1:-1].replace('""', '"')
        if name not in schema.names:
            raise _no_column(text, name, schema, f"Text goes in single quotes: {_quoted(name)}.")
        return column_token(name)
    upper = word.upper()
    if word in schema.names and not (called and upper in _FUNCTIONS | _KEYWORDS):
        return column_token(word)
    if upper in _KEYWORDS:
        return Token("keyword", upper)
    if called:
        if upper in _FUNCTIONS:
            return Token("function", upper)
        raise cannot(text, f"no function {word!r}", f"Functions: {', '.join(sorted(_FUNCTIONS)).lower()}.")
    column = find_column(schema, word)
    if column is None:
        quotes = [f"Text goes in single quotes: {_quoted(word)}."] if _is_value(raw, index) else []
        if index and raw[index - 1][0] == "number":
            quotes = [UNITS_HINT]
        raise _no_column(text, word, schema, *quotes)
    return column_token(column)


#: After these a value may stand.
_BEFORE_VALUES = frozenset({"=", "==", "!=", "<>", "<=>", "<", "<=", ">", ">=", "~", "~*", "!~", "!~*"})
_WORDS_BEFORE_VALUES = frozenset({"LIKE", "ILIKE", "RLIKE", "REGEXP", "IN", "BETWEEN"})


def _is_value(raw: list[tuple[str, str]], index: int) -> bool:
    """Whether that word stands where a condition has a value: right of an operator, or in a list."""
    before = index - 1
    while before > 0 and raw[before][1] == ",":
        before -= 2
    if before > 0 and raw[before][1] == "(":
        before -= 1
    word = raw[before][1] if before >= 0 else ""
    return word in _BEFORE_VALUES or word.upper() in _WORDS_BEFORE_VALUES


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def _no_column(text: str, name: str, schema: Schema, *advice: str) -> NoColumnError:
    return NoColumnError(cannot(text, f"no column {name!r}").message, name, schema, advice)


def _check_values(text: str, tokens: list[Token], schema: Schema) -> None:
    """Refuse to look for what a column never is: no rows would be the answer, and say nothing.

    :raises UsageError: A column of a closed set of values is compared with another text.
    """
    for index, column in enumerate(tokens):
        if column.kind != "column":
            continue
        known = schema.column(str(column.value))
        for value in _compared_with(tokens, index) if known.values else ():
            if value not in known.values:
                raise NoValueError(text, known, value, schema)


def _compared_with(tokens: list[Token], index: int) -> list[str]:
    """The texts that a condition says the column at that place is, or is not."""
    equal = ("=", "!=", "<>", "<=>")
    after, before = tokens[index + 1 :], tokens[:index]
    if after and after[0].text == "NOT":
        after = after[1:]
    found = after[1:2] if after and after[0].text in equal else []
    if [token.text for token in after[:2]] == ["IN", "("]:
        ends = [at for at, token in enumerate(after) if token.text == ")"]
        found = after[2 : ends[0]] if ends else []
    bracket = bool(before) and before[-1].text == "("
    before = before[: len(before) - bracket]
    if len(before) >= 2 and (before[-1].text == "IN" or (before[-1].text in equal and not bracket)):
        found = [*found, before[-3] if before[-2].text == "NOT" and len(before) > 2 else before[-2]]
    return [str(token.value) for token in found if token.kind == "string"]


def _check_units(text: str, tokens: list[Token], schema: Schema) -> None:
    """Refuse to compare a size with what is none, or a time.

    :raises UsageError: A column is compared with a number of another unit.
    """
    for index, number in enumerate(tokens):
        column = _beside(tokens, index) if number.unit is not None else None
        known = schema.column(str(column.value)) if column is not None else None
        if known is not None and known.kind is not number.unit:
            what = "size" if number.unit is Kind.BYTES else "time"
            raise cannot(text, f"{known.name} is no {what}")


def _beside(tokens: list[Token], index: int) -> Token | None:
    """The column that the value at that place is compared with, where it stands right beside it."""
    words = [token.text for token in tokens]
    at = index - 2
    if index >= 3 and words[index - 1] == "AND" and words[index - 3] == "BETWEEN":
        at = index - 4
    elif index + 2 < len(tokens) and words[index + 1] in _BEFORE_VALUES:
        at = index + 2
    elif index < 2 or words[index - 1] not in _BEFORE_VALUES | {"BETWEEN"}:
        return None
    if at < index and words[at] == "NOT":
        at -= 1
    return tokens[at] if at >= 0 and tokens[at].kind == "column" else None


def column_token(name: str) -> Token:
    """A column, quoted."""
    return Token("column", '"' + name.replace('"', '""') + '"', name)


def _number(text: str, word: str) -> Token:
    measured = with_unit(word)
    if measured is not None:
        if not measured.value < 2**64:
            raise cannot(text, f"{word} does not fit in 64 bits")
        return Token("number", str(measured.value), measured.value, measured.kind)
    base = 16 if word[:2] in ("0x", "0X") else 10
    if base == 16 or word.isdigit():
        # Python refuses to convert thousands of digits.
        number = int(word, base) if len(word) <= 20 else 2**64
        if number >= 2**64:
            raise cannot(text, f"{word} does not fit in 64 bits")
        return Token("number", str(number), number)
    return Token("number", word, float(word))


def cannot(text: str, reason: str, hint: str | None = None) -> UsageError:
    """The error that says what is wrong with a condition."""
    return UsageError(f"--where {text!r}: {reason}.", hint)


def columns_hint(schema: Schema) -> str:
    """What columns there are, as a hint."""
    return f"Columns of {schema.name}: {', '.join(schema.names)}."
