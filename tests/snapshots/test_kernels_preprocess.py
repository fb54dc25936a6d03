"""The preprocessor: which declarations a kernel has."""

from __future__ import annotations

import pytest

from mmdump_snapshots.kernels import DeclarationError
from mmdump_snapshots.kernels.preprocess import Preprocessor, Value, evaluate

KERNEL: dict[str, Value] = {
    "KERNEL": (6, 12),
    "PAGE_SHIFT": 14,
    "CONFIG_CMA": 1,
    "CONFIG_NODES_SHIFT": 6,
    "ARM64": 1,
}


def _words(text: str) -> list[str]:
    return Preprocessor(KERNEL).run(text, "test.h").split()


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("KERNEL >= 6.12", True),
        ("KERNEL >= 6.2", True),  # 6.12 is newer than 6.2
        ("KERNEL < 6.9", False),
        ("KERNEL == 6.12", True),
        ("KERNEL >= 7.0 || PAGE_SHIFT == 14", True),
        ("KERNEL >= 5.3 && !defined(CONFIG_CMA)", False),
        ("defined CONFIG_CMA", True),
        ("defined(CONFIG_NUMA_BALANCING)", False),
        ("CONFIG_NODES_SHIFT > 4 && (KERNEL < 6.1 || defined(ARM64))", True),
        ("CONFIG_NUMA_BALANCING", False),
        ("(1 << CONFIG_NODES_SHIFT) / 64 == 1", True),
    ],
)
def test_conditions_compare_releases_and_ask_for_configuration(condition: str, holds: bool) -> None:
    assert _words(f"#if {condition}\nyes\n#else\nno\n#endif") == ["yes" if holds else "no"]


def test_only_the_first_branch_that_holds_counts() -> None:
    text = "#if KERNEL < 5.0\na\n#elif KERNEL < 7.0\nb\n#elif KERNEL < 8.0\nc\n#else\nd\n#endif\ne"
    assert _words(text) == ["b", "e"]


def test_branches_nest_and_a_dead_one_hides_what_is_inside() -> None:
    text = "#ifdef CONFIG_X\n#ifdef ARM64\na\n#else\nb\n#endif\n#define N 1\n#else\nc N\n#endif"
    assert _words(text) == ["c", "N"]


def test_names_stand_for_expressions_of_other_names() -> None:
    text = "#define N (1 << CONFIG_NODES_SHIFT)\n#define M (N + 1)\nint a[M];"
    assert _words(text) == ["int", "a[((1", "<<", "6)", "+", "1)];"]


def test_comments_go_and_lines_stay() -> None:
    out = Preprocessor(KERNEL).run("a /* b\n#if 0\n*/ c // d\n#ifdef X\ne\n#endif\nf", "test.h")
    assert out.split("\n")[2].split() == ["c"]
    assert out.split("\n")[6] == "f"


def test_pragmas_pass_where_they_count() -> None:
    text = "#pragma file mm/cma.c\n#if KERNEL < 5.0\n#pragma section .data\n#endif\n"
    assert _words(text) == ["#pragma", "file", "mm/cma.c"]


def test_attributes_become_marks_that_the_parser_can_read() -> None:
    assert "char __attribute_aligned[64];" in " ".join(
        _words("struct a { int b; } __attribute__((aligned(64)));")
    )
    assert "_Alignas(8) int b;" in " ".join(_words("struct a { int b __attribute__((aligned(8))); };"))
    assert ", __attribute_packed}" in " ".join(_words("enum e { A } __attribute__((packed));"))


@pytest.mark.parametrize(
    "text",
    [
        "#if",
        "#if (1",
        "#if 1 +",
        "#if 1 1",
        "#ifdef A",
        "#endif",
        "#include <a.h>",
        "#if KERNEL <",
        "#elif 1",
    ],
)
def test_what_is_not_understood_is_said_with_its_place(text: str) -> None:
    with pytest.raises(DeclarationError, match=r"test\.h"):
        Preprocessor(KERNEL).run(text, "test.h")


def test_expressions_bind_as_in_c() -> None:
    assert evaluate("1 + 2 * 3 << 1 | 1", lambda _: 0) == 15
    assert evaluate("~0 & 0xff", lambda _: 0) == 255
    assert evaluate("-(2 - 5) % 2", lambda _: 0) == 1
    assert evaluate("10 - 3 - 2", lambda _: 0) == 5
    assert evaluate("1 == 2 < 3", lambda _: 0) == 1
