"""A small, bounded reader of the C expressions in which an event's ``print_fmt`` says how it is printed.

``"pfn=0x%lx flags=%s", REC->pfn, (REC->flags) ? __print_flags(REC->flags, "|", {1UL << PG_locked, "locked"})
: "none"``: not quite C, as arguments may be lists in braces, and types appear that only the kernel knows. It
is read by recursive descent into a tree of tuples; what it means is :mod:`mmdump_trace.expressions`' to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from mmdump_trace.printf import UnprintableError

__all__ = ["Node", "parse_print_fmt"]

#: (what it is, its parts ...).
Node: TypeAlias = tuple[Any, ...]

#: Of one format; the longest that a kernel has are some thousand tokens of gfp flags.
_MOST_TOKENS = 1 << 16
#: Brackets within brackets. The kernel's macros nest some thirty deep, counted so.
_MOST_DEPTH = 100
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|\d+[uUlL]*)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<char>'(?:[^'\\]|\\.)')
    | (?P<sign>->|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!<>?:,.()\[\]{}])
    )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'", "0": "\0", "r": "\r", "a": "\a", "b": "\b"}
#: Binary operators, and how closely they bind.
_BINDING = {
    sign: level
    for level, signs in enumerate(
        ("||", "&&", "|", "^", "&", "== !=", "< > <= >=", "<< >>", "+ -", "* / %"), 1
    )
    for sign in signs.split()
}
#: What the kernel writes into types for other tools than compilers.
_DECORATION = frozenset({"__force", "__user", "__iomem", "__percpu", "__rcu", "__bitwise"})


def parse_print_fmt(text: str, is_type: Callable[[str], bool]) -> tuple[str, list[Node]]:
    """The format string and its arguments, as trees.

    :param is_type: Whether some words are a type, such as ``unsigned long`` or ``struct page *``.
    :raises UnprintableError: It is not understood, or too long, or too deep.
    """
    parser = _Parser(_tokens(text), is_type)
    first = parser.expression()
    if first[0] != "string":
        raise UnprintableError("a print format that does not begin with a string")
    arguments = []
    while parser.take(","):
        arguments.append(parser.expression())
    parser.end()
    return first[1], arguments


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(found) >= _MOST_TOKENS:
            raise UnprintableError("a print format that is not understood")
        assert match.lastgroup is not None
        found.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return found


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]], is_type: Callable[[str], bool]) -> None:
        self._tokens = [*tokens, ("end", "")]
        self._is_type = is_type
        self._at = 0
        self._depth = 0

    def take(self, sign: str) -> bool:
        """Whether the next token is that sign; it is taken if so."""
        if self._tokens[self._at] != ("sign", sign):
            return False
        self._at += 1
        return True

    def end(self) -> None:
        """There must be nothing more."""
        if self._tokens[self._at][0] != "end":
            self._fail()

    def expression(self) -> Node:
        """``a ? b : c``, or what binds closer."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise UnprintableError("a print format that is nested too deeply")
        condition = self._binary(1)
        if self.take("?"):
            # ``a ?: b`` is the kernel's habit, too.
            chosen = condition if self._tokens[self._at] == ("sign", ":") else self.expression()
            self._want(":")
            condition = ("choice", condition, chosen, self.expression())
        self._depth -= 1
        return condition

    def _binary(self, loosest: int) -> Node:
        left = self._unary()
        while True:
            kind, sign = self._tokens[self._at]
            binding = _BINDING.get(sign, 0) if kind == "sign" else 0
            if binding < loosest or not binding:
                return left
            self._at += 1
            left = ("binary", sign, left, self._binary(binding + 1))

    def _unary(self) -> Node:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise UnprintableError("a print format that is nested too deeply")
        try:
            kind, text = self._tokens[self._at]
            if kind == "sign" and text in "-+!~&*":
                self._at += 1
                return ("unary", text, self._unary())
            if (kind, text) == ("word", "sizeof"):
                self._at += 1
                type_name = self._type_in_brackets()
                if type_name is None:
                    self._fail()
                return ("sizeof", type_name)
            type_name = self._type_in_brackets()
            if type_name is not None:
                return ("cast", type_name, self._unary())
            return self._postfix(self._primary())
        finally:
            self._depth -= 1

    def _type_in_brackets(self) -> str | None:
        """``(unsigned long)``, taken; None where something else follows."""
        if self._tokens[self._at] != ("sign", "("):
            return None
        at = self._at + 1
        words: list[str] = []
        while self._tokens[at][0] == "word" or (words and self._tokens[at] == ("sign", "*")):
            if self._tokens[at][1] not in _DECORATION:
                words.append(self._tokens[at][1])
            at += 1
        if not words or self._tokens[at] != ("sign", ")") or not self._is_type(" ".join(words)):
            return None
        self._at = at + 1
        return " ".join(words)

    def _primary(self) -> Node:
        kind, text = self._next()
        if kind == "number":
            return ("number", text)
        if kind == "char":
            return ("number", str(ord(_unescaped(text[1:-1])[:1] or "\0")))
        if kind == "string":
            parts = [text]
            while self._tokens[self._at][0] == "string":
                parts.append(self._next()[1])
            return ("string", "".join(_unescaped(each[1:-1]) for each in parts))
        if kind == "word":
            if self.take("("):
                return ("call", text, self._list(")"))
            return ("name", text)
        if (kind, text) == ("sign", "("):
            inside = self.expression()
            self._want(")")
            return inside
        if (kind, text) == ("sign", "{"):
            return ("braces", self._list("}"))
        return self._fail()

    def _postfix(self, node: Node) -> Node:
        while True:
            if self.take("->") or self.take("."):
                kind, text = self._next()
                if kind != "word":
                    self._fail()
                node = ("member", node, text)
            elif self.take("["):
                index = self.expression()
                self._want("]")
                node = ("index", node, index)
            else:
                return node

    def _list(self, close: str) -> list[Node]:
        found: list[Node] = []
        while not self.take(close):
            if found:
                self._want(",")
                if self.take(close):
                    break
            found.append(self.expression())
        return found

    def _want(self, sign: str) -> None:
        if not self.take(sign):
            self._fail()

    def _next(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        if token[0] != "end":
            self._at += 1
        return token

    def _fail(self) -> Any:
        raise UnprintableError("a print format that is not understood")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text)
