"""C declarations to types laid out by the LP64 ABIs of x86-64 and AArch64 (little endian)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pycparser import CParser, c_ast  # type: ignore[import-untyped]
from pycparser.c_parser import ParseError  # type: ignore[import-untyped]

from mmdump_snapshots.kernels.preprocess import MARK, OPERATORS, DeclarationError, number
from mmdump_snapshots.kernels.types import CType, Member, Types

__all__ = ["Declarations", "Prototype", "Variable", "parse"]


@dataclass(frozen=True)
class Variable:
    """A variable of the kernel.

    :ivar file: The source file that defines it, by ``#pragma file``; None where that does not matter.
    :ivar section: By ``#pragma section``; ``.bss`` where nothing is said.
    :ivar static: Of file scope.
    """

    name: str
    type: CType
    file: str | None
    section: str
    static: bool


@dataclass(frozen=True)
class Prototype:
    """A function of the kernel whose parameters are declared; ``type`` is of kind function."""

    name: str
    type: CType
    file: str | None
    static: bool


@dataclass(frozen=True)
class Declarations:
    """What headers declare."""

    types: Types
    variables: tuple[Variable, ...]
    prototypes: tuple[Prototype, ...]


#: (canonical name, size, signed) by the sorted words of a specifier.
_INTEGERS = {
    "char": ("char", 1, True),
    "char signed": ("signed char", 1, True),
    "char unsigned": ("unsigned char", 1, False),
    "short": ("short", 2, True),
    "short unsigned": ("unsigned short", 2, False),
    "int": ("int", 4, True),
    "signed": ("int", 4, True),
    "unsigned": ("unsigned int", 4, False),
    "long": ("long", 8, True),
    "long unsigned": ("unsigned long", 8, False),
    "long long": ("long long", 8, True),
    "long long unsigned": ("unsigned long long", 8, False),
}


def _points_to_const(node: c_ast.Node) -> bool:
    return isinstance(node, c_ast.PtrDecl) and "const" in getattr(node.type, "quals", ())


def _specifier(names: list[str]) -> str:
    words = sorted(names)
    if len(words) > 1 and "int" in words:
        words.remove("int")
    if len(words) > 1 and "signed" in words and "char" not in words:
        words.remove("signed")
    return " ".join(words)


def parse(
    text: str,
    *,
    arch: str = "x86_64",
    signed_char: bool = True,
    macros: Mapping[str, str] | None = None,
) -> Declarations:
    """Lay out preprocessed declarations.

    :param text: C at file level, ``# 1 "name"`` lines where a header begins; attributes as the preprocessor
        leaves them.
    :param arch: ``x86_64`` or ``aarch64``: an unnamed bit field aligns a struct on the latter.
    :param signed_char: Whether ``char`` is signed.
    :raises DeclarationError: It is not understood, or a type is used that is not complete.
    """
    try:
        tree = CParser().parse(text)
    except ParseError as error:
        raise DeclarationError(str(error)) from error
    return _Layout(arch, signed_char, macros or {}).file(tree)


def _up(value: int, to: int) -> int:
    return -(-value // to) * to


class _Layout:
    def __init__(self, arch: str, signed_char: bool, macros: Mapping[str, str]) -> None:
        self.arch = arch
        self.macros = macros
        self.named: dict[str, CType] = {"void": CType("void", "void")}
        self.enumerators: dict[str, int] = {}
        self.anonymous: list[CType] = []
        #: Structs and unions that are declared with members but not laid out yet.
        self.waiting: dict[int, tuple[CType, list[c_ast.Decl]]] = {}
        for name, size, signed in _INTEGERS.values():
            self.named[name] = CType(
                "int", name, size, size, signed=signed_char if name == "char" else signed
            )
        self.named["_Bool"] = CType("bool", "_Bool", 1, 1)
        self.named["__int128"] = CType("int", "__int128", 16, 16, signed=True)
        self.pointers: dict[int, CType] = {}
        self.arrays: dict[tuple[int, int | None], CType] = {}
        self.constants: dict[int, CType] = {}

    def file(self, tree: c_ast.FileAST) -> Declarations:
        variables: list[Variable] = []
        prototypes: list[Prototype] = []
        file: str | None = None
        section = ".bss"
        for node in tree.ext:
            if isinstance(node, c_ast.Pragma):
                word, _, rest = node.string.strip().partition(" ")
                if word == "file":
                    file, section = rest.strip(), ".bss"
                elif word == "section":
                    section = rest.strip()
                else:
                    raise DeclarationError(f"{node.coord}: #pragma {word} is not known")
            elif isinstance(node, c_ast.Typedef):
                self.typedef(node)
            elif isinstance(node, c_ast.Decl):
                kind = self.type(node.type)
                if node.name is None:
                    if kind.kind == "enum" and kind.name is None:
                        self.anonymous.append(kind)
                elif kind.kind == "function":
                    prototypes.append(Prototype(node.name, kind, file, "static" in node.storage))
                else:
                    variables.append(Variable(node.name, kind, file, section, "static" in node.storage))
            else:
                raise DeclarationError(f"{node.coord}: only declarations are understood")
        for kind in (*list(self.named.values()), *list(self.arrays.values())):
            self.complete(kind)
        types = Types(self.named, self.enumerators, tuple(self.anonymous), self.macros)
        return Declarations(types, tuple(variables), tuple(prototypes))

    def typedef(self, node: c_ast.Typedef) -> None:
        target = self.type(node.type)
        before = self.named.get(node.name)
        if before is not None:
            if before.target is not target:
                raise DeclarationError(f"{node.coord}: {node.name} is a typedef already")
            return
        made = CType("typedef", node.name, target=target, complete=False)
        self.named[node.name] = made

    def type(self, node: c_ast.Node) -> CType:
        """The type of a declarator, perhaps not laid out yet."""
        if isinstance(node, c_ast.TypeDecl):
            return self.type(node.type)
        if isinstance(node, c_ast.IdentifierType):
            name = " ".join(node.names)
            if name in self.named:
                return self.named[name]
            words = _specifier(node.names)
            if words in _INTEGERS:
                return self.named[_INTEGERS[words][0]]
            raise DeclarationError(f"{node.coord}: no type {name}")
        if isinstance(node, c_ast.PtrDecl):
            target = self.type(node.type)
            return self.pointers.setdefault(id(target), CType("pointer", None, 8, 8, target=target))
        if isinstance(node, c_ast.ArrayDecl):
            target = self.type(node.type)
            length = None if node.dim is None else self.value(node.dim)
            return self.arrays.setdefault(
                (id(target), length), CType("array", None, target=target, length=length, complete=False)
            )
        if isinstance(node, c_ast.FuncDecl):
            return self.function(node)
        if isinstance(node, c_ast.Struct | c_ast.Union):
            return self.struct(node)
        if isinstance(node, c_ast.Enum):
            return self.enum(node)
        raise DeclarationError(f"{node.coord}: {type(node).__name__} is not understood")

    def function(self, node: c_ast.FuncDecl) -> CType:
        parameters: list[tuple[str | None, CType]] = []
        variadic = False
        for each in node.args.params if node.args else ():
            if isinstance(each, c_ast.EllipsisParam):
                variadic = True
                continue
            kind = self.type(each.type)
            target = kind.target
            if kind.kind == "array" and target is not None:
                kind = self.pointers.setdefault(id(target), CType("pointer", None, 8, 8, target=target))
            elif target is not None and _points_to_const(each.type):
                # Qualifiers matter here alone: whether a function only reads a page tells kernels apart.
                const = self.constants.setdefault(id(target), CType("const", target=target))
                kind = self.pointers.setdefault(id(const), CType("pointer", None, 8, 8, target=const))
            if kind.kind != "void":
                parameters.append((each.name, kind))
        return CType("function", target=self.type(node.type), parameters=tuple(parameters), variadic=variadic)

    def struct(self, node: c_ast.Struct | c_ast.Union) -> CType:
        word = "struct" if isinstance(node, c_ast.Struct) else "union"
        kind = self.named.get(f"{word} {node.name}") if node.name else None
        if kind is None:
            kind = CType(word, node.name, complete=False)
            if node.name:
                self.named[f"{word} {node.name}"] = kind
        if node.decls is not None:
            if kind.complete or id(kind) in self.waiting:
                raise DeclarationError(f"{node.coord}: {kind} is defined already")
            members = [each for each in node.decls if isinstance(each, c_ast.Decl)]
            self.waiting[id(kind)] = kind, members
            # Enumerators and tags that are declared inside belong to the file.
            for each in members:
                self.inner(each.type)
        return kind

    def inner(self, node: c_ast.Node) -> None:
        while isinstance(node, c_ast.PtrDecl | c_ast.ArrayDecl | c_ast.TypeDecl):
            node = node.type
        if isinstance(node, c_ast.Struct | c_ast.Union | c_ast.Enum) and node.name:
            self.type(node)
            if isinstance(node, c_ast.Enum):
                node.values = None
            else:
                node.decls = None

    def enum(self, node: c_ast.Enum) -> CType:
        kind = self.named.get(f"enum {node.name}") if node.name else None
        if kind is None:
            kind = CType("enum", node.name, 4, 4, complete=False)
            if node.name:
                self.named[f"enum {node.name}"] = kind
        if node.values is None:
            return kind
        if kind.complete:
            raise DeclarationError(f"{node.coord}: {kind} is defined already")
        value = -1
        packed = False
        for each in node.values.enumerators:
            if each.name.startswith(MARK):
                packed = True
                continue
            value = value + 1 if each.value is None else self.value(each.value)
            if each.name in self.enumerators:
                raise DeclarationError(f"{each.coord}: there is an enumerator {each.name} already")
            self.enumerators[each.name] = kind.enumerators[each.name] = value
        least, most = min(kind.enumerators.values()), max(kind.enumerators.values())
        kind.signed = least < 0
        bits = max(most.bit_length() + kind.signed, (~least).bit_length() + 1 if least < 0 else 0)
        kind.size = next(size for size in ((1, 2, 4, 8) if packed else (4, 8)) if bits <= 8 * size)
        kind.align = kind.size
        kind.complete = True
        return kind

    def complete(self, kind: CType) -> CType:
        """Lay a type out, with what it consists of."""
        if kind.kind in {"typedef", "array"}:
            assert kind.target is not None
            if kind.kind == "typedef" and kind.target.kind in {"void", "function"}:
                return kind
            target = self.complete(kind.target)
            count = kind.length or 0 if kind.kind == "array" else 1
            kind.size, kind.align = target.size * count, target.align
            kind.complete = target.complete
        elif kind.kind in {"struct", "union"} and id(kind) in self.waiting:
            self.lay_out(kind, self.waiting.pop(id(kind))[1])
        return kind

    def lay_out(self, kind: CType, declared: list[c_ast.Decl]) -> None:
        members: list[Member] = []
        packed = any(each.name == f"{MARK}packed" for each in declared)
        position = end = 0  # in bits
        align = 1
        for each in declared:
            if each.name and each.name.startswith(MARK):
                if each.name == f"{MARK}aligned":
                    kind.aligned = self.value(each.type.dim)
                    align = max(align, kind.aligned)
                continue
            member = self.complete(self.type(each.type))
            if not member.complete and member.bare.kind in {"struct", "union"}:
                raise DeclarationError(f"{each.coord}: {member} is not complete")
            asked = max((self.value(one.alignment) for one in each.align or ()), default=0)
            own = max(1 if packed else member.align, asked)
            if kind.kind == "union":
                position = 0
            if each.bitsize is not None:
                width = self.value(each.bitsize)
                unit = 8 * member.size
                if width == 0 or (not packed and position // unit != (position + width - 1) // unit):
                    position = _up(position, unit)
                if each.name is not None:
                    members.append(Member(each.name, member, position // 8, position % 8, width))
                if each.name is not None or self.arch == "aarch64":
                    align = max(align, own)
                position += width
            else:
                position = _up(position, 8 * own)
                members.append(Member(each.name, member, position // 8))
                align = max(align, own)
                position += 8 * member.size
            end = max(end, position)
        kind.members = tuple(members)
        kind.align = align
        kind.size = _up(_up(end, 8) // 8, align)
        kind.complete = True

    def value(self, node: c_ast.Node) -> int:
        """The value of a constant expression, ``sizeof`` included."""
        if isinstance(node, c_ast.Constant):
            if node.type == "char":
                return ord(node.value[1])
            text = node.value.rstrip("uUlL")
            return int(text, 8) if len(text) > 1 and text.isdigit() and text[0] == "0" else int(text, 0)
        if isinstance(node, c_ast.ID):
            if node.name not in self.enumerators:
                raise DeclarationError(f"{node.coord}: {node.name} is no constant")
            return self.enumerators[node.name]
        if isinstance(node, c_ast.UnaryOp):
            if node.op in {"sizeof", "_Alignof"}:
                kind = self.complete(self.type(node.expr.type))
                return kind.size if node.op == "sizeof" else kind.align
            value = self.value(node.expr)
            return {"-": -value, "+": value, "~": ~value, "!": int(not value)}[node.op]
        if isinstance(node, c_ast.BinaryOp):
            left, right = self.value(node.left), self.value(node.right)
            return number(OPERATORS[node.op](left, right))
        if isinstance(node, c_ast.TernaryOp):
            return self.value(node.iftrue if self.value(node.cond) else node.iffalse)
        if isinstance(node, c_ast.Cast):
            return self.value(node.expr)
        raise DeclarationError(f"{node.coord}: no constant expression")
