"""Plugins: what is found, what fails, and that a failure stays its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.errors import UsageError
from mmdump.kernel.page_ext import PageExtClient
from mmdump.plugins import DISABLE_VARIABLE, LoadedPlugin, Plugins, load_plugins, plugin_table
from mmdump.render import FORMATS, FormatSpec
from mmdump.render.jsonl import JsonlRenderer

GOOD = """
from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.kernel.page_ext import PageExtClient

class Mine(Analysis):
    name = "{name}"
    summary = "mine"

@hookimpl
def mmdump_analyses():
    return [Mine]

@hookimpl
def mmdump_page_ext_clients():
    return [PageExtClient("{name}", ops="mine_ops")]
"""


@dataclass(frozen=True)
class Point(EntryPoint):
    """An installed plugin, without an installation."""

    def __init__(self, name: str, module: object, dist: str = "someones-plugin") -> None:
        # EntryPoint cannot be changed once made.
        vars(self).update(name=name, value=f"{name}_module", group="mmdump")
        vars(self).update(module=module, dist=SimpleNamespace(name=dist, version="1.2"))

    def load(self) -> Any:
        module = vars(self)["module"]
        if isinstance(module, BaseException):
            raise module
        return module


def plugin(**hooks: Callable[[], object]) -> SimpleNamespace:
    """A plugin's module of these hooks."""
    return SimpleNamespace(**{name: hookimpl(function) for name, function in hooks.items()})


def analysis(called: str) -> type[Analysis]:
    return type("Made", (Analysis,), {"name": called, "summary": called, "__doc__": called})


def good(called: str = "mine") -> SimpleNamespace:
    made = analysis(called)
    return plugin(mmdump_analyses=lambda: [made])


@pytest.fixture(autouse=True)
def nothing_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DISABLE_VARIABLE, raising=False)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def states(plugins: Plugins) -> dict[str, str]:
    frame = plugin_table(plugins).tables["plugins"].frame
    return dict(frame.select("plugin", "state").iter_rows())


# Found


def test_the_plugins_in_the_box_are_found_and_say_where_they_come_from() -> None:
    plugins = load_plugins(disabled=["*"])
    assert {"page_owner", "page_pinner"} <= {each.name for each in plugins.found}
    assert not plugins.failed
    assert {each.source.split()[0] for each in plugins.found if not each.disabled} == {"mmdump"}
    assert {"page-owner", "pinned"} <= set(plugins.analyses())
    assert {"page_owner", "page_pinner"} <= {client.name for client in plugins.page_ext_clients()}


def test_a_file_is_a_plugin_by_its_stem_or_by_a_name_given(write: Callable[..., Path]) -> None:
    path = write(GOOD.format(name="mine"))
    plugins = load_plugins([str(path)], points=[])
    [found] = plugins.found
    assert (found.name, found.source, found.error) == ("mine", str(path), None)
    assert found.hooks == ["mmdump_analyses", "mmdump_page_ext_clients"]
    [named] = load_plugins([f"other={path}"], points=[]).found
    assert (named.name, named.error) == ("other", None)
    assert list(plugins.analyses()) == ["mine"]
    assert plugins.of(plugins.analyses()["mine"]) is found


def test_analyses_come_in_order_of_name_whoever_has_them() -> None:
    points = [Point("a", good("zz")), Point("b", good("bb")), Point("c", good("aa"))]
    assert list(load_plugins(points=points).analyses()) == ["aa", "bb", "zz"]


def test_of_two_clients_of_one_name_the_first_plugins_is_taken() -> None:
    first, second = PageExtClient("c", ops="first"), PageExtClient("c", ops="second")
    points = [
        Point("b", plugin(mmdump_page_ext_clients=lambda: [second])),
        Point("a", plugin(mmdump_page_ext_clients=lambda: [first])),
    ]
    assert load_plugins(points=points).page_ext_clients() == [first]


# Switched off


@pytest.mark.parametrize("by", ["argument", "variable"])
@pytest.mark.parametrize(
    ("off", "left"),
    [
        ("mine", {"box", "other"}),
        ("mine, other", {"box"}),
        ("*", {"box"}),
        ("box,*", set()),
        ("nobody", {"box", "mine", "other"}),
        ("", {"box", "mine", "other"}),
    ],
)
def test_plugins_are_off_by_name_and_all_but_the_box_by_a_star(
    by: str, off: str, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [Point(name, good(name)) for name in ("mine", "other")] + [Point("box", good("box"), "mmdump")]
    if by == "variable":
        monkeypatch.setenv(DISABLE_VARIABLE, off)
        plugins = load_plugins(points=points)
    else:
        plugins = load_plugins(disabled=[name.strip() for name in off.split(",")], points=points)
    assert set(plugins.analyses()) == left
    assert {name for name, state in states(plugins).items() if state == "on"} == left
    assert len(plugins.found) == 3


def test_a_plugin_that_is_off_is_not_even_imported(write: Callable[..., Path]) -> None:
    path = write("raise SystemExit('imported')")
    plugins = load_plugins([str(path)], ["mine", "bad"], points=[Point("bad", RuntimeError("imported"))])
    assert states(plugins) == {"bad": "off", "mine": "off"}
    assert not plugins.errors


def test_a_star_leaves_files_given_by_name_on(write: Callable[..., Path]) -> None:
    path = write(GOOD.format(name="mine"))
    assert list(load_plugins([str(path)], ["*"], points=[]).analyses()) == ["mine"]


# Failing


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("from mmdump import no_such_name", "ImportError"),
        ("from mmdump import hookimpl\n@hookimpl\ndef mmdump_analises():\n    return []", "mmdump_analises"),
        ("from mmdump import hookimpl\n@hookimpl\ndef mmdump_analyses(kernel):\n    return []", "kernel"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named_and_the_others_go_on(
    text: str, error: str, write: Callable[..., Path]
) -> None:
    sys.modules.pop("mmdump_file_plugin_broken", None)
    broken = write(text, "broken.py")
    fine = write(GOOD.format(name="fine"), "fine.py")
    plugins = load_plugins([str(broken), str(fine)], points=[])
    [failed] = plugins.failed
    assert failed.name == "broken"
    assert error in failed.error
    assert [each for each, _ in plugins.errors] == [failed]
    assert list(plugins.analyses()) == ["fine"]
    assert states(plugins) == {"broken": "failed", "fine": "on"}
    # Nobody can import the half of a module that failed while it was executed.
    executed = "@hookimpl" in text
    assert executed or not [name for name in sys.modules if name == "mmdump_file_plugin_broken"]


@pytest.mark.parametrize("file", ["nowhere.py", "text.txt", "."])
def test_a_file_that_is_no_python_file_is_a_plugin_that_failed(file: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    [failed] = load_plugins([str(tmp_path / file)], points=[]).failed
    assert failed.error


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(1), ImportError()])
def test_an_entry_point_that_raises_is_a_plugin_that_failed(error: BaseException) -> None:
    plugins = load_plugins(points=[Point("bad", error), Point("fine", good())])
    assert states(plugins) == {"bad": "failed", "fine": "on"}
    assert plugins.errors == [(plugins.failed[0], error)]


def test_a_user_who_interrupts_is_obeyed() -> None:
    with pytest.raises(KeyboardInterrupt):
        load_plugins(points=[Point("slow", KeyboardInterrupt())])


def _raising() -> list[object]:
    raise RuntimeError("broken")


def _exiting() -> list[object]:
    raise SystemExit(2)


def _raising_late() -> Iterator[object]:
    yield analysis("early")
    yield PageExtClient("early", ops="early_ops")
    raise RuntimeError("late")


class Nameless(Analysis):
    """An analysis whose author forgot its name."""


@pytest.mark.parametrize(
    "hook",
    [
        "mmdump_analyses",
        "mmdump_page_ext_clients",
        "mmdump_kernel_files",
        "mmdump_page_notes",
        "mmdump_checks",
        "mmdump_renderers",
    ],
)
@pytest.mark.parametrize(
    "function",
    [
        _raising,
        _exiting,
        _raising_late,
        lambda: None,
        lambda: 5,
        lambda: ["text"],
        lambda: [None],
        lambda: [Nameless],
        lambda: [Nameless()],
    ],
    ids=["raises", "exits", "raises late", "None", "number", "text", "list of None", "no name", "an object"],
)
def test_a_hook_that_gives_no_good_is_left_out_and_the_others_go_on(
    hook: str, function: Callable[[], object]
) -> None:
    client = PageExtClient("fine", ops="fine_ops")
    made = analysis("fine")
    fine = plugin(mmdump_analyses=lambda: [made], mmdump_page_ext_clients=lambda: [client])
    plugins = load_plugins(points=[Point("bad", plugin(**{hook: function})), Point("fine", fine)])
    assert list(plugins.analyses()) == ["fine"]
    assert plugins.page_ext_clients() == [client]
    assert plugins.kernel_files() == []
    assert plugins.page_notes() == []
    assert plugins.checks() == []
    assert plugins.formats() == FORMATS
    assert [each.name for each in plugins.failed] == ["bad"]
    assert states(plugins) == {"bad": "failed", "fine": "on"}


def test_a_plugin_adds_a_format_beside_those_there_are() -> None:
    mine = FormatSpec("mine", JsonlRenderer, one_table=True, suffixes=(".mine",))
    plugins = load_plugins(points=[Point("more", plugin(mmdump_renderers=lambda: [mine]))])
    assert plugins.formats() == {**FORMATS, "mine": mine}
    assert "mine" not in FORMATS
    assert states(plugins) == {"more": "on"}


def test_a_format_that_has_the_name_of_another_is_left_out() -> None:
    csv = FormatSpec("csv", JsonlRenderer, one_table=True)
    plugins = load_plugins(points=[Point("greedy", plugin(mmdump_renderers=lambda: [csv]))])
    assert plugins.formats() == FORMATS
    assert [each.error for each in plugins.failed] == ["UsageError: there is another format named csv"]


def test_a_failure_is_remembered_once_however_often_a_hook_is_called() -> None:
    plugins = load_plugins(points=[Point("bad", plugin(mmdump_analyses=_raising))])
    for _ in range(3):
        plugins.analyses()
    assert len(plugins.errors) == 1


# Two of a kind


def test_two_plugins_with_one_command_are_an_error_that_names_both() -> None:
    plugins = load_plugins(points=[Point("one", good("pinned")), Point("two", good("pinned"), "another")])
    with pytest.raises(UsageError) as error:
        plugins.analyses()
    for word in ("one", "someones-plugin 1.2", "two", "another 1.2", "pinned"):
        assert word in error.value.message
    assert f"{DISABLE_VARIABLE}=two" in error.value.hint
    # The command that shows plugins shows it.
    plugin_table(plugins)
    assert states(plugins) == {"one": "on", "two": "failed"}
    off = load_plugins(disabled=["two"], points=[Point("one", good("pinned")), Point("two", good("pinned"))])
    assert list(off.analyses()) == ["pinned"]


def test_the_second_plugin_of_a_name_fails_and_the_first_stays(write: Callable[..., Path]) -> None:
    path = write(GOOD.format(name="second"))
    plugins = load_plugins([str(path)], points=[Point("mine", good("first"))])
    assert list(plugins.analyses()) == ["first"]
    assert sorted((each.source, bool(each.error)) for each in plugins.found) == sorted(
        [("someones-plugin 1.2", False), (str(path), True)]
    )
    assert "someones-plugin" in plugins.failed[0].error


def test_a_broken_plugin_does_not_take_a_good_ones_name(write: Callable[..., Path]) -> None:
    path = write("1 / 0")
    broken = Point("mine", RuntimeError("no"))
    for points in ([Point("mine", good("first"))], [broken, Point("mine", good("first"))]):
        plugins = load_plugins([str(path)], points=points)
        assert list(plugins.analyses()) == ["first"]
        assert [each.error for each in plugins.found].count(None) == 1


def test_one_object_is_one_plugin() -> None:
    plugins = Plugins()
    module = good()
    plugins.register(module, LoadedPlugin("a", "here", "a"))
    plugins.register(module, LoadedPlugin("b", "there", "b"))
    assert [(each.name, bool(each.error)) for each in plugins.found] == [("a", False), ("b", True)]
    assert list(plugins.analyses()) == ["mine"]
