"""The preprocessor of the declarations in ``include/``: conditions on the kernel, and numbers with names.

It knows ``#if``, ``#ifdef``, ``#ifndef``, ``#elif``, ``#else``, ``#endif`` and ``#define NAME expression``,
removes comments, and lets ``#pragma`` pass. A condition compares the release (``KERNEL >= 6.12``, by major
and minor), asks for ``defined(CONFIG_X)``, ``defined(ARM64)`` or ``defined(X86_64)``, or compares numbers
(``PAGE_SHIFT == 14``).

pycparser knows no attributes, so that ``__attribute__((aligned(N)))`` and ``__attribute__((packed))`` are
rewritten: on a member as ``_Alignas``, on a struct, union or enum as a last member whose name :data:`MARK`
begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["MARK", "OPERATORS", "DeclarationError", "Preprocessor", "Value", "evaluate", "number"]

#: How the name of a member or enumerator begins that stands for an attribute of what it is in.
MARK = "__attribute_"

#: What an expression is: a number, or a release as (major, minor).
Value = int | tuple[int, int]


class DeclarationError(ValueError):
    """Declarations that are not understood: where, and what."""


_TOKEN = re.compile(
    r"\s*(?:(?P<release>\d+\.\d+)|(?P<number>0[xX][0-9a-fA-F]+|\d+)[uUlL]*|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<operator>\|\||&&|==|!=|<=|>=|<<|>>|[-+*/%&|^~!<>()]))"
)
_NAME = re.compile(r'"[^"]*"|[A-Za-z_]\w*')
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DIRECTIVE = re.compile(r"\s*#\s*(\w+)\s*(.*?)\s*$")

_BINARY: list[dict[str, Callable[..., Value]]] = [
    {"||": lambda a, b: int(bool(a) or bool(b))},
    {"&&": lambda a, b: int(bool(a) and bool(b))},
    {"|": lambda a, b: a | b},
    {"^": lambda a, b: a ^ b},
    {"&": lambda a, b: a & b},
    {"==": lambda a, b: int(a == b), "!=": lambda a, b: int(a != b)},
    {
        "<": lambda a, b: int(a < b),
        ">": lambda a, b: int(a > b),
        "<=": lambda a, b: int(a <= b),
        ">=": lambda a, b: int(a >= b),
    },
    {"<<": lambda a, b: a << b, ">>": lambda a, b: a >> b},
    {"+": lambda a, b: a + b, "-": lambda a, b: a - b},
    {"*": lambda a, b: a * b, "/": lambda a, b: a // b, "%": lambda a, b: a % b},
]

#: Binary operators of C on numbers.
OPERATORS = {name: operate for level in _BINARY for name, operate in level.items()}


def number(value: Value) -> int:
    """A value that has to be a number, not a release."""
    if not isinstance(value, int):
        raise DeclarationError(f"{value} is no number")
    return value


class _Expression:
    """A recursive descent over an expression's tokens."""

    def __init__(self, text: str, value_of: Callable[[str], Value], defined: Callable[[str], bool]) -> None:
        self.text = text
        self.value_of = value_of
        self.defined = defined
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise DeclarationError(f"{text!r}: not an expression")
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            position = match.end()
        self.tokens.append(("end", ""))

    def take(self) -> tuple[str, str]:
        return self.tokens.pop(0)

    def expect(self, operator: str) -> None:
        if self.take()[1] != operator:
            raise DeclarationError(f"{self.text!r}: no {operator!r} where one belongs")

    def whole(self) -> Value:
        value = self.binary(0)
        if self.tokens[0][0] != "end":
            raise DeclarationError(f"{self.text!r}: {self.tokens[0][1]!r} is too much")
        return value

    def binary(self, level: int) -> Value:
        if level == len(_BINARY):
            return self.unary()
        value = self.binary(level + 1)
        while self.tokens[0][1] in _BINARY[level]:
            operate = _BINARY[level][self.take()[1]]
            value = operate(value, self.binary(level + 1))
        return value

    def unary(self) -> Value:
        kind, text = self.take()
        if kind == "release":
            major, minor = text.split(".")
            return int(major), int(minor)
        if kind == "number":
            return int(text, 0)
        if text == "defined":
            bracket = self.tokens[0][1] == "("
            if bracket:
                self.take()
            name = self.take()[1]
            if bracket:
                self.expect(")")
            return int(self.defined(name))
        if kind == "name":
            return self.value_of(text)
        if text == "(":
            value = self.binary(0)
            self.expect(")")
            return value
        if text in {"!", "-", "~", "+"}:
            value = self.unary()
            if text == "!":
                return int(not value)
            if isinstance(value, int):
                return {"-": -value, "~": ~value, "+": value}[text]
        raise DeclarationError(f"{self.text!r}: not an expression at {text!r}")


def evaluate(
    text: str, value_of: Callable[[str], Value], defined: Callable[[str], bool] = lambda _: False
) -> Value:
    """The value of a C expression of numbers, releases and names.

    :raises DeclarationError: It is none.
    """
    return _Expression(text, value_of, defined).whole()


@dataclass
class Preprocessor:
    """Runs over one header after the other and remembers what they define.

    :param values: What the conditions know from the start: ``KERNEL``, ``PAGE_SHIFT``, and every CONFIG that
        is on, with 1 or its number.
    :ivar macros: ``#define`` by name, as text.
    """

    values: Mapping[str, Value]
    macros: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.macros.update(
            {name: str(value) for name, value in self.values.items() if isinstance(value, int)}
        )

    def run(self, text: str, name: str) -> str:
        """Declarations without directives, comments and attributes; lines stay where they are.

        :raises DeclarationError: A directive is not understood, or an ``#endif`` is missing.
        """
        text = _COMMENT.sub(lambda match: "\n" * match[0].count("\n") or " ", text)
        lines = []
        # For each open #if: whether this branch counts, whether one has, and whether what is around counts.
        branches: list[tuple[bool, bool, bool]] = []
        active = True
        for number, line in enumerate(text.split("\n"), 1):
            directive = _DIRECTIVE.match(line)
            if directive is None:
                lines.append(self.expand(line) if active else "")
                continue
            word, rest = directive[1], directive[2]
            lines.append(line if active and word == "pragma" else "")
            try:
                if word in {"if", "ifdef", "ifndef"}:
                    now = active and self.condition(
                        {"if": "{}", "ifdef": "defined({})"}.get(word, "!defined({})"), rest
                    )
                    branches.append((now, now, active))
                    active = now
                elif word in {"elif", "else", "endif"}:
                    _, had, around = branches.pop()
                    active = around
                    if word != "endif":
                        active = around and not had and (word == "else" or self.condition("{}", rest))
                        branches.append((active, had or active, around))
                elif word == "define" and active:
                    macro, _, value = rest.partition(" ")
                    self.macros[macro] = self.expand(value.strip())
                elif word not in {"define", "pragma"}:
                    raise DeclarationError(f"#{word} is not known")
            except (DeclarationError, IndexError, TypeError) as error:
                raise DeclarationError(f"{name}:{number}: {error}") from error
        if branches:
            raise DeclarationError(f"{name}: an #endif is missing")
        return _attributes("\n".join(lines))

    def condition(self, form: str, text: str) -> bool:
        """Whether a condition holds; ``form`` has a ``{}`` for it."""
        return bool(
            evaluate(form.format(text), self.value, lambda name: name in self.values or name in self.macros)
        )

    def value(self, name: str) -> Value:
        """What a name is worth in a condition: 0 where it is not defined, as in C."""
        if name in self.values:
            return self.values[name]
        return evaluate(self.macros[name], self.value) if name in self.macros else 0

    def expand(self, text: str) -> str:
        """Put macros in where their names stand."""
        return _NAME.sub(lambda match: self.macros.get(match[0], match[0]), text)


_ATTRIBUTE = re.compile(r"__attribute__\s*\(\(\s*(packed|aligned)\s*")


def _attributes(text: str) -> str:
    """Rewrite attributes as what pycparser can read."""
    while match := _ATTRIBUTE.search(text):
        argument = ""
        end = match.end()
        if match[1] == "aligned":
            end = _closing(text, end)
            argument = text[text.index("(", match.end()) + 1 : end - 1]
        end = text.index("))", end) + 2
        before, after = text[: match.start()].rstrip(), text[end:]
        name = re.search(r"\}\s*\w*$", before)
        if name is not None:
            # On the struct, union or enum whose closing brace it follows.
            brace = name.start()
            opening = _opening(before, brace)
            if re.search(r"\benum(\s+\w+)?\s*$", before[:opening]):
                mark = (
                    f", {MARK}{match[1]}"
                    if not before[:brace].rstrip().endswith(",")
                    else f"{MARK}{match[1]}"
                )
            else:
                mark = f" char {MARK}{match[1]}[{argument or 1}]; "
            text = before[:brace] + mark + before[brace:] + after
        elif match[1] == "aligned":
            start = max(before.rfind(each) for each in ";{}") + 1
            text = f"{before[:start]} _Alignas({argument}) {before[start:].lstrip()}{after}"
            # The line breaks that lstrip() took, where there were any.
            missing = before[start:].count("\n") - before[start:].lstrip().count("\n")
            text = text[:start] + "\n" * missing + text[start:]
        else:
            raise DeclarationError(f"packed follows no brace: {before[-40:]!r}")
    return text


def _closing(text: str, position: int) -> int:
    """The end of the bracket that opens at or after a position."""
    depth = 0
    for index in range(position, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0 and text[index] == ")":
            return index + 1
    raise DeclarationError("a bracket is not closed")


def _opening(text: str, position: int) -> int:
    """Where the brace opens that closes at a position."""
    depth = 0
    for index in range(position, -1, -1):
        depth += {"}": 1, "{": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise DeclarationError("a brace is not opened")
