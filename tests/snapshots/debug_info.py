"""Whether a type that drgn found is the one that was declared."""

from drgn import Qualifiers, Type, TypeKind

from mmdump_snapshots.kernels import CType

VOID = CType("void", "void")

KINDS = {
    "int": TypeKind.INT,
    "bool": TypeKind.BOOL,
    "float": TypeKind.FLOAT,
    "enum": TypeKind.ENUM,
    "struct": TypeKind.STRUCT,
    "union": TypeKind.UNION,
    "pointer": TypeKind.POINTER,
    "array": TypeKind.ARRAY,
    "typedef": TypeKind.TYPEDEF,
    "function": TypeKind.FUNCTION,
    "void": TypeKind.VOID,
}


def assert_same(found: Type, kind: CType, seen: set[int] | None = None) -> None:
    """The type that drgn found is ``kind``, through and through."""
    seen = set() if seen is None else seen
    if id(kind) in seen:
        return
    seen.add(id(kind))
    const = kind.kind == "const"
    assert bool(found.qualifiers & Qualifiers.CONST) == const
    if const:
        # To drgn it is a property of the type, not one around it.
        assert_same(found.unqualified(), kind.target or VOID, seen)
        return
    assert found.kind == KINDS[kind.kind]
    if kind.kind in {"int", "bool", "float"}:
        assert (found.name, found.size) == (kind.name, kind.size)
        assert kind.kind != "int" or found.is_signed == kind.signed
    elif kind.kind == "enum":
        assert (found.tag, found.is_complete()) == (kind.name, kind.complete)
        if kind.complete:
            assert (found.type.size, found.type.is_signed) == (kind.size, kind.signed)
            assert {each.name: each.value for each in found.enumerators} == kind.enumerators
    elif kind.kind in {"struct", "union"}:
        assert (found.tag, found.is_complete()) == (kind.name, kind.complete)
        if kind.complete:
            assert found.size == kind.size
            assert len(found.members) == len(kind.members)
            for theirs, ours in zip(found.members, kind.members, strict=True):
                assert theirs.name == ours.name
                assert theirs.bit_offset == 8 * ours.offset + ours.bit_offset
                assert (theirs.bit_field_size or 0) == ours.bit_size
                assert_same(theirs.type, ours.type, seen)
    elif kind.kind == "array":
        assert found.length == kind.length
        assert_same(found.type, kind.target, seen)
    elif kind.kind in {"pointer", "typedef", "function"}:
        assert kind.kind != "typedef" or found.name == kind.name
        assert_same(found.type, kind.target or VOID, seen)
        if kind.kind == "function":
            assert [each.name for each in found.parameters] == [name for name, _ in kind.parameters]
            assert found.is_variadic == kind.variadic
            for parameter, (_, ours) in zip(found.parameters, kind.parameters, strict=True):
                assert_same(parameter.type, ours, seen)
