"""Profiles against the debug info of real kernels: every type that both have, member by member."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from drgn import Architecture, Platform, Program, Type, TypeKind, TypeMember

from mmdump_snapshots.kernels import CType, Member, Profile, profile
from tests.conftest import Sample

#: A directory of the test bed's runs; the newest of each sort has a link that bears the sort's name.
RUNS_VARIABLE = "MMDUMP_TESTBED_RUNS"
#: Which profile each of the test bed's kernels has to agree with.
RUNS = {
    "6.1": "6.1",
    "6.12": "6.12",
    "6.12-nopageext": "6.12",
    "6.12-arm64": "6.12-arm64",
    "6.12-arm64-16k": "6.12-arm64-16k",
    "7.x": "7.2",
}
#: Enums of which only what the analyses ask for is declared.
PARTIAL: frozenset[str] = frozenset()

#: How members begin that stand for a part of a struct without meaning here, as large as in the default
#: configuration: what comes after them is compared but for its place, and sizes are not.
LEFT_OUT = "__left_out"

KINDS = {
    TypeKind.BOOL: "bool",
    TypeKind.INT: "int",
    TypeKind.FLOAT: "float",
    TypeKind.ENUM: "enum",
    TypeKind.STRUCT: "struct",
    TypeKind.UNION: "union",
    TypeKind.POINTER: "pointer",
    TypeKind.ARRAY: "array",
    TypeKind.FUNCTION: "function",
    TypeKind.VOID: "void",
}


def _debug_info(vmlinux: Path, wanted: Profile) -> Program:
    arch = Architecture.AARCH64 if wanted.arch == "aarch64" else Architecture.X86_64
    prog = Program(Platform(arch))
    prog.extra_module("vmlinux", create=True).try_file(vmlinux, force=True)
    return prog


@pytest.fixture(scope="module", params=["sample", *RUNS])
def both(request: pytest.FixtureRequest) -> tuple[Profile, Program]:
    """A profile in the configuration of a real kernel, and that kernel's debug info."""
    if request.param == "sample":
        sample: Sample = request.getfixturevalue("sample")
        wanted = profile("6.12").configured((sample.source / "kernel.config").read_text())
        return wanted, _debug_info(sample.vmlinux, wanted)
    run = Path(os.environ.get(RUNS_VARIABLE, "/nonexistent")) / request.param
    if not (run / "vmlinux").is_file():
        pytest.skip(f"{RUNS_VARIABLE} names no directory with a run of {request.param}")
    wanted = profile(RUNS[request.param]).configured((run / "config").read_text())
    return wanted, _debug_info(run / "vmlinux", wanted)


def _bare(kind: Type) -> Type:
    while kind.kind == TypeKind.TYPEDEF:
        kind = kind.type
    return kind


def _size(kind: Type) -> int:
    kind = _bare(kind)
    if kind.kind == TypeKind.ENUM:
        return _size(kind.type) if kind.type else 0
    if kind.kind == TypeKind.ARRAY:
        return (kind.length or 0) * _size(kind.type)
    return getattr(kind, "size", 0) or 0


def _real_members(kind: Type, base: int = 0) -> Iterator[tuple[str, int, TypeMember]]:
    """(name, bit offset, member), those of anonymous members among them."""
    for member in kind.members or ():
        if member.name is not None:
            yield member.name, base + member.bit_offset, member
        else:
            yield from _real_members(_bare(member.type), base + member.bit_offset)


def _our_members(kind: CType, base: int = 0) -> Iterator[tuple[str, int, Member]]:
    for member in kind.members:
        at = base + 8 * member.offset + member.bit_offset
        if member.name is not None:
            yield member.name, at, member
        else:
            yield from _our_members(member.type.bare, at)


def _differences(ours: CType, real: Type, where: str) -> Iterator[str]:
    """What of a type is otherwise in a real kernel."""
    ours, real = ours.bare, _bare(real)
    if ours.kind != KINDS[real.kind]:
        yield f"{where}: {ours.kind}, really {KINDS[real.kind]}"
        return
    if ours.kind in {"struct", "union", "enum"} and not (ours.complete and real.is_complete()):
        return
    whole = not any(name.startswith(LEFT_OUT) for name, _, _ in _our_members(ours))
    if whole and ours.size != _size(real):
        yield f"{where}: {ours.size} bytes, really {_size(real)}"
    if ours.kind == "int" and ours.signed != real.is_signed:
        yield f"{where}: signed is {ours.signed}"
    if ours.kind == "array" and ours.target is not None:
        if (ours.length or 0) != (real.length or 0):
            yield f"{where}: {ours.length} elements, really {real.length}"
        yield from _differences(ours.target, real.type, f"{where}[]")
    if ours.kind == "enum":
        values = {each.name: each.value for each in real.enumerators}
        for name, value in ours.enumerators.items():
            if values.get(name) != value:
                yield f"{where}: {name} is {value}, really {values.get(name)}"
        if ours.name not in PARTIAL and (missing := values.keys() - ours.enumerators.keys()):
            yield f"{where}: without {', '.join(sorted(missing))}"
    if ours.kind in {"struct", "union"}:
        there = {name: (offset, member) for name, offset, member in _real_members(real)}
        placed = True
        for name, offset, member in _our_members(ours):
            if name.startswith(LEFT_OUT):
                placed = False
                continue
            if name not in there:
                yield f"{where}.{name}: really not there"
                continue
            real_offset, real_member = there[name]
            if placed and offset != real_offset:
                yield f"{where}.{name}: at {offset / 8:g}, really at {real_offset / 8:g}"
            if member.bit_size != (real_member.bit_field_size or 0):
                yield f"{where}.{name}: {member.bit_size} bits, really {real_member.bit_field_size}"
            # Types with a name of their own are compared under it.
            if member.type.kind not in {"struct", "union"} or member.type.name is None:
                yield from _differences(member.type, real_member.type, f"{where}.{name}")


def _compare(wanted: Profile, prog: Program) -> tuple[list[str], int]:
    """The differences of all types that both have, and how many these are."""
    found: list[str] = []
    compared = 0
    for name in wanted.types:
        if name not in wanted.types:
            continue
        try:
            real = prog.type(name)
        except LookupError:
            continue
        compared += 1
        found += _differences(wanted.types[name], real, name)
    return found, compared


def test_every_type_is_as_in_the_real_kernel(both: tuple[Profile, Program]) -> None:
    found, compared = _compare(*both)
    assert not found, "\n".join(found)
    assert compared > 100


@pytest.mark.parametrize(
    "name",
    [
        "struct page",
        "struct folio",
        "struct zone",
        "struct pglist_data",
        "struct lruvec",
        "struct per_cpu_pages",
        "struct mem_section",
        "struct mem_section_usage",
        "struct free_area",
    ],
)
def test_no_member_is_left_out(both: tuple[Profile, Program], name: str) -> None:
    wanted, prog = both
    ours = {member for member, _, _ in _our_members(wanted.types[name])}
    assert {member for member, _, _ in _real_members(prog.type(name))} - ours == set()


def test_every_enumerator_without_an_enum_is_as_in_the_real_kernel(both: tuple[Profile, Program]) -> None:
    wanted, prog = both
    for enum in wanted.types.anonymous:
        for name, value in enum.enumerators.items():
            try:
                assert prog.constant(name).value_() == value, name
            except LookupError:
                continue


def test_every_variable_is_as_in_the_real_kernel(both: tuple[Profile, Program]) -> None:
    wanted, prog = both
    found: list[str] = []
    for variable in wanted.variables:
        try:
            real = prog.variable(variable.name, variable.file)
        except LookupError:
            continue
        if not (
            variable.type.kind == "array" and real.type_.kind == TypeKind.ARRAY and not real.type_.length
        ):
            found += _differences(variable.type, real.type_, variable.name)
    assert not found, "\n".join(found)


def test_every_function_has_the_parameters_of_the_real_kernel(both: tuple[Profile, Program]) -> None:
    wanted, prog = both
    for prototype in wanted.prototypes:
        try:
            real = prog.function(prototype.name, prototype.file).type_
        except LookupError:
            continue
        assert [name for name, _ in prototype.type.parameters] == [each.name for each in real.parameters]


def test_the_profile_of_the_sample_needs_no_configuration(sample: Sample) -> None:
    """Profile 6.12 agrees with the sample as it is, without the sample's ``.config``."""
    plain = profile("6.12")
    found, compared = _compare(plain, _debug_info(sample.vmlinux, plain))
    assert not found, "\n".join(found)
    assert compared > 100
