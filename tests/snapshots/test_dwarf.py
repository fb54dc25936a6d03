"""Debug info that is written is what drgn reads back."""

import os
from functools import partial

import pytest
from drgn import Architecture, FindObjectFlags, Platform, Program
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump_snapshots.kernels import CType, Member
from mmdump_snapshots.writer import elf
from mmdump_snapshots.writer.dwarf import DebugInfo
from tests.snapshots.debug_info import assert_same

VOID = CType("void", "void")
CHAR = CType("int", "char", 1, 1, signed=True)
INT = CType("int", "int", 4, 4, signed=True)
U32 = CType("int", "unsigned int", 4, 4)
ULONG = CType("int", "unsigned long", 8, 8)
BOOL = CType("bool", "_Bool", 1, 1)
BASES = (
    CHAR,
    INT,
    U32,
    ULONG,
    BOOL,
    CType("float", "double", 8, 8),
    CType("int", "__int128", 16, 16, signed=True),
)


def file_of(info: DebugInfo) -> bytes:
    """The smallest file that debug info can be in."""
    sections = [elf.Section(name, elf.SHT_PROGBITS, data=data) for name, data in info.sections().items()]
    names = elf.StringTable()
    for name in (*(each.name for each in sections), ".shstrtab"):
        names.add(name)
    sections.append(elf.Section(".shstrtab", elf.SHT_STRTAB, data=bytes(names)))
    placed, end = elf.place(sections, elf.EHDR_SIZE)
    out = bytearray(end)
    out[: elf.EHDR_SIZE] = elf.header(
        elf.ET_EXEC, "x86_64", shoff=end, shnum=len(placed) + 1, shstrndx=len(placed)
    )
    for each in placed:
        assert each.data is not None
        out[each.offset : each.offset + len(each.data)] = each.data
    return bytes(out + bytes(elf.SHDR.itemsize) + elf.section_headers(placed, names))


def read_back(info: DebugInfo) -> Program:
    prog = Program(Platform(Architecture.X86_64))
    fd = os.memfd_create("debug-info")
    os.write(fd, file_of(info))
    module = prog.extra_module("debug-info", create=True)
    module.try_file("debug-info", fd=fd)
    assert not module.wants_debug_file()
    return prog


def pointer(target: CType | None) -> CType:
    return CType("pointer", None, 8, 8, target=target)


def array(target: CType, length: int | None) -> CType:
    return CType("array", None, target.size * (length or 0), target.align, target=target, length=length)


def struct(name: str | None, *members: Member, size: int) -> CType:
    return CType("struct", name, size, 8, members)


def test_a_type_is_found_by_name() -> None:
    info = DebugInfo()
    stack = struct("stack", Member("record", pointer(None), 0), size=16)
    stack.members += (Member("next", pointer(stack), 8),)
    info.type(stack, "mm/page_owner.c")
    info.type(CType("typedef", "gfp_t", 4, 4, target=U32))
    prog = read_back(info)
    assert_same(prog.type("struct stack"), stack)
    assert_same(prog.type("struct stack", "mm/page_owner.c"), stack)
    assert prog.type("struct stack", "page_owner.c").size == 16
    with pytest.raises(LookupError):
        prog.type("struct stack", "mm/slub.c")
    assert prog.type("gfp_t").type.name == "unsigned int"


def test_members_without_a_name_are_looked_through() -> None:
    info = DebugInfo()
    words = CType("union", None, 8, 8, (Member("first", ULONG, 0), Member("bytes", array(CHAR, 8), 0)))
    info.type(struct("page", Member("flags", ULONG, 0), Member(None, words, 8), size=16))
    page = read_back(info).type("struct page")
    assert page.members[1].name is None
    assert page.member("bytes").bit_offset == 64


def test_bit_fields_are_counted_from_the_lowest_bit() -> None:
    info = DebugInfo()
    handle = struct(
        "handle",
        Member("index", U32, 0, 0, 17),
        Member("offset", U32, 2, 1, 10),
        Member("extra", U32, 3, 3, 5),
        Member("after", U32, 4),
        size=8,
    )
    info.type(handle)
    found = read_back(info).type("struct handle")
    assert [(each.bit_offset, each.bit_field_size) for each in found.members] == [
        (0, 17),
        (17, 10),
        (27, 5),
        (32, None),
    ]


def test_enumerators_are_constants_of_their_sign() -> None:
    info = DebugInfo()
    info.type(CType("enum", "reason", 4, 4, signed=True, enumerators={"NEVER": -1, "CMA": 6}))
    info.type(CType("enum", None, 8, 8, enumerators={"TOP": 1 << 63}))
    prog = read_back(info)
    assert prog.constant("NEVER").value_() == -1
    assert prog.constant("TOP").value_() == 1 << 63
    assert prog.type("enum reason").type.name == "int"


def test_arrays_have_all_their_dimensions() -> None:
    info = DebugInfo()
    table = struct(
        "table",
        Member("grid", array(array(INT, 3), 2), 0),
        Member("none", array(ULONG, 0), 24),
        Member("rest", array(U32, None), 24),
        size=24,
    )
    info.type(table)
    found = read_back(info).type("struct table")
    assert found.member("grid").type.type_name() == "int [2][3]"
    assert found.member("none").type.length == 0
    assert found.member("rest").type.length is None


def test_a_struct_that_is_only_declared_has_no_size() -> None:
    info = DebugInfo()
    info.type(CType("typedef", "cookie", 8, 8, target=pointer(CType("struct", "secret", complete=False))))
    secret = read_back(info).type("cookie").type.type
    assert secret.tag == "secret"
    assert not secret.is_complete()


def test_const_and_volatile_are_qualifiers() -> None:
    info = DebugInfo()
    const = CType("const", target=CHAR)
    info.type(CType("typedef", "text", 8, 8, target=pointer(const)))
    info.type(CType("typedef", "anything", 8, 8, target=pointer(CType("const", target=VOID))))
    info.type(CType("typedef", "register_t", 4, 4, target=CType("volatile", target=U32)))
    prog = read_back(info)
    assert prog.type("text").type.type_name() == "const char *"
    assert prog.type("anything").type.type_name() == "const void *"
    assert prog.type("register_t").type.type_name() == "volatile unsigned int"


def test_a_static_variable_is_told_from_another_by_its_file() -> None:
    info = DebugInfo()
    info.variable("failure_handle", U32, 0x1000, "mm/page_owner.c", static=True)
    info.variable("failure_handle", U32, 0x2000, "mm/page_pinner.c", static=True)
    info.variable("nr_pages", ULONG, 0x3000, "mm/memory.c")
    find = partial(read_back(info).object, flags=FindObjectFlags.VARIABLE)
    assert find("failure_handle", filename="mm/page_owner.c").address_ == 0x1000
    assert find("failure_handle", filename="mm/page_pinner.c").address_ == 0x2000
    assert find("nr_pages", filename="memory.c").type_.name == "unsigned long"
    with pytest.raises(LookupError):
        find("nr_pages", filename="mm/page_owner.c")


def test_a_function_has_an_address_and_parameters() -> None:
    info = DebugInfo()
    page = CType("struct", "page", complete=False)
    mask = CType("function", target=ULONG, parameters=(("page", pointer(page)), ("pfn", ULONG)))
    printk = CType("function", target=INT, parameters=(("fmt", pointer(CHAR)),), variadic=True)
    info.function("get_mask", 0x1000, 0x40, "mm/page_alloc.c", mask, static=True)
    info.function("_printk", 0x1040, 0x20, "kernel/printk/printk.c", printk)
    info.function("start_kernel", 0x1060, 0x20, "init/main.c")
    prog = read_back(info)
    assert prog.function("get_mask", "mm/page_alloc.c").address_ == 0x1000
    assert_same(prog.function("get_mask").type_, mask)
    assert_same(prog.function("_printk").type_, printk)
    assert prog.function("start_kernel").type_.type_name() == "void (void)"


NAMES = st.integers(0, 10**6).map("n{}".format)


@st.composite
def graphs(draw: st.DrawFn) -> list[CType]:
    """Types that refer to each other, behind pointers in circles too."""
    made = list(BASES)
    bodies = [CType("struct", f"later{number}", complete=False) for number in range(2)]

    def some(of_size: bool = True) -> CType:
        known = [each for each in made if not of_size or each.size]
        return draw(st.sampled_from(known if of_size else [*known, *bodies, VOID]))

    for number in range(draw(st.integers(4, 16))):
        name = f"t{number}"
        kind = draw(
            st.sampled_from(["struct", "union", "enum", "pointer", "array", "typedef", "function", "array"])
        )
        if kind == "enum":
            low = draw(st.sampled_from([-(1 << 31), -1, 0]))
            values = draw(st.lists(st.integers(low, (1 << 31) - 1), min_size=1, max_size=5))
            known = {f"{name}_{index}": value for index, value in enumerate(values)}
            made.append(CType("enum", name, 4, 4, signed=min(values) < 0, enumerators=known))
        elif kind == "pointer":
            made.append(pointer(some(of_size=False)))
        elif kind == "array":
            made.append(array(some(), draw(st.integers(0, 5))))
        elif kind == "typedef":
            target = some(of_size=False)
            made.append(CType("typedef", name, target.size, target.align, target=target))
        elif kind == "function":
            names = draw(st.lists(NAMES | st.none(), max_size=4))
            parameters = tuple((each, some()) for each in names)
            function = CType("function", target=some(), parameters=parameters, variadic=draw(st.booleans()))
            made.append(pointer(function))
        else:
            made.append(body(draw, CType(kind, name), some))
    for each in bodies:
        if draw(st.booleans()):
            body(draw, each, some)
    return made


def body(draw: st.DrawFn, kind: CType, some: partial[CType]) -> CType:
    """Give a struct or union members."""
    members: list[Member] = []
    position = 0
    for index in range(draw(st.integers(0, 6))):
        at = 0 if kind.kind == "union" else position + draw(st.integers(0, 9))
        if draw(st.integers(0, 3)) == 0:
            bit, width = draw(st.integers(0, 7)), draw(st.integers(1, 24))
            members.append(Member(f"m{index}", U32, at, bit, width))
            position = at + 4
            continue
        target = some()
        nameless = target.kind in {"struct", "union"} and draw(st.booleans())
        members.append(Member(None if nameless else f"m{index}", target, at))
        position = at + target.size
    if kind.kind == "struct" and members and draw(st.booleans()):
        members.append(Member("rest", array(some(), None), position))
    kind.members, kind.size, kind.complete = tuple(members), position, True
    return kind


@given(graphs())
@settings(max_examples=200, deadline=None)
def test_whatever_types_are_written_are_read_back(types: list[CType]) -> None:
    info = DebugInfo()
    for number, each in enumerate(types):
        info.type(each)
        if each.size:
            info.variable(f"v{number}", each, 0x1000 * number, f"file{number % 3}.c")
    prog = read_back(info)
    for number, each in enumerate(types):
        if each.size:
            found = prog.variable(f"v{number}", f"file{number % 3}.c")
            assert found.address_ == 0x1000 * number
            assert_same(found.type_, each)
        elif each.name is not None:
            word = f"{each.kind} " if each.kind in {"struct", "union", "enum"} else ""
            assert_same(prog.type(word + each.name), each)
