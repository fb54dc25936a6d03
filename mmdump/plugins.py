"""Finding, loading and calling plugins, each guarded: one that fails is named, and the others go on."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from mmdump import hookspecs
from mmdump.amounts import counted
from mmdump.errors import UsageError
from mmdump.result import Column, Result, Schema, Table

if TYPE_CHECKING:
    from mmdump.analysis import Analysis
    from mmdump.checks import Check
    from mmdump.holders import Recogniser
    from mmdump.kernel import Kernel
    from mmdump.kernel.page_ext import PageExtClient
    from mmdump.kernelfile import KernelFile
    from mmdump.pagenotes import PageNotes
    from mmdump.render import FormatSpec
    from mmdump.target import Target
    from mmdump_snapshots.scenario import Scenario

__all__ = ["DISABLE_VARIABLE", "GROUP", "LoadedPlugin", "Plugins", "load_plugins", "plugin_table"]

#: Entry-point group of plugins.
GROUP = "mmdump"
#: Comma-separated names of plugins to leave out; ``*`` leaves out all that are not mmdump's own.
DISABLE_VARIABLE = "MMDUMP_DISABLE_PLUGINS"

PLUGINS = Schema(
    "plugins",
    (
        Column("plugin", description="its name"),
        Column("state", description="on, off (by the user), or failed", values=("on", "off", "failed")),
        Column("source", description="distribution or file it comes from"),
        Column("hooks", description="what it contributes to"),
        Column("error", description="what failed"),
    ),
)


@dataclass
class LoadedPlugin:
    """A plugin that was found, loaded or not.

    :param source: Where it came from: a distribution and its version, or a file.
    :param error: Why it could not be loaded, or what one of its hooks raised.
    :param own: Whether it comes with mmdump.
    :param disabled: Whether the user switched it off.
    """

    name: str
    source: str
    module: str
    own: bool = False
    error: str | None = None
    disabled: bool = False
    hooks: list[str] = field(default_factory=list)


class Plugins:
    """The loaded plugins, and what they contribute."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("mmdump")
        self._manager.add_hookspecs(hookspecs)
        self._found: list[LoadedPlugin] = []
        #: Those that are in use, by name.
        self._registered: dict[str, LoadedPlugin] = {}
        #: What went wrong while plugins were loaded or called, with its exception.
        self.errors: list[tuple[LoadedPlugin, BaseException]] = []
        self._of: dict[type[Analysis], LoadedPlugin] = {}

    @property
    def found(self) -> list[LoadedPlugin]:
        """Every plugin that was found, in order of name."""
        return sorted(self._found, key=lambda each: each.name)

    @property
    def failed(self) -> list[LoadedPlugin]:
        """The plugins of which something failed."""
        return [each for each in self.found if each.error]

    def register(self, module: object, plugin: LoadedPlugin) -> None:
        """Add a plugin object. One that implements a hook mmdump does not have is refused."""
        self._found.append(plugin)
        other = self._registered.get(plugin.name)
        if other is not None:
            self._fail(plugin, UsageError(f"another plugin has this name: that of {other.source}"))
            return
        try:
            self._manager.register(module, plugin.name)
            self._manager.check_pending()
        except (Exception, SystemExit) as error:
            if self._manager.has_plugin(plugin.name):
                self._manager.unregister(name=plugin.name)
            self._fail(plugin, error)
            return
        self._registered[plugin.name] = plugin
        callers = self._manager.get_hookcallers(module) or ()
        plugin.hooks = sorted(caller.name for caller in callers)

    def disable(self, plugin: LoadedPlugin) -> None:
        """Remember a plugin that is switched off."""
        plugin.disabled = True
        self._found.append(plugin)

    def fail(self, plugin: LoadedPlugin, error: BaseException) -> None:
        """Remember a plugin that could not be loaded."""
        self._found.append(plugin)
        self._fail(plugin, error)

    def _fail(self, plugin: LoadedPlugin, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        # Hooks are called more than once, and fail in the same way each time.
        if plugin.error != text:
            plugin.error = text
            self.errors.append((plugin, error))

    def _call(self, hook: str, good: Callable[[Any], bool]) -> list[tuple[LoadedPlugin, Any]]:
        """What each plugin returns from a hook, in order of plugin name; one that raises is left out.

        :param good: Whether a thing is what the hook is for; others are left out.
        """
        answers: list[tuple[LoadedPlugin, Any]] = []
        caller = getattr(self._manager.hook, hook)
        for each in sorted(caller.get_hookimpls(), key=lambda impl: impl.plugin_name):
            plugin = self._registered[each.plugin_name]
            try:
                things = list(each.function())
            except (Exception, SystemExit) as error:
                self._fail(plugin, error)
                continue
            for thing in things:
                if good(thing):
                    answers.append((plugin, thing))
                else:
                    self._fail(plugin, TypeError(f"{hook} gave {thing!r}, which is not what it is for"))
        return answers

    def analyses(self) -> dict[str, type[Analysis]]:
        """All analyses by name, in order of name.

        :raises UsageError: Two plugins have one of the same name.
        """
        from mmdump.analysis import Analysis

        found: dict[str, tuple[LoadedPlugin, type[Analysis]]] = {}

        def good(thing: Any) -> bool:
            known = isinstance(thing, type) and issubclass(thing, Analysis)
            return known and isinstance(getattr(thing, "name", None), str)

        for plugin, analysis in self._call("mmdump_analyses", good):
            if analysis.name in found:
                other = found[analysis.name][0]
                self._fail(plugin, ValueError(f"plugin {other.name} has a command {analysis.name} too"))
                raise UsageError(
                    f"plugins {other.name} ({other.source}) and {plugin.name} ({plugin.source}) both have "
                    f"a command {analysis.name}",
                    f"Switch one off: {DISABLE_VARIABLE}={plugin.name}",
                )
            found[analysis.name] = (plugin, analysis)
            self._of[analysis] = plugin
        return {name: found[name][1] for name in sorted(found)}

    def of(self, analysis: type[Analysis]) -> LoadedPlugin | None:
        """The plugin that an analysis came from."""
        return self._of.get(analysis)

    def kernel_files(self) -> list[KernelFile]:
        """All kernel files that plugins can print, by path; of two with one path, the first plugin's."""
        from mmdump.kernelfile import KernelFile

        files: dict[str, KernelFile] = {}
        for _plugin, file in self._call("mmdump_kernel_files", lambda each: isinstance(each, KernelFile)):
            files.setdefault(file.path, file)
        return [files[path] for path in sorted(files)]

    def page_notes(self) -> list[tuple[LoadedPlugin, PageNotes]]:
        """All that is said about single pages, in order of plugin, with the plugin that says it."""
        from mmdump.pagenotes import PageNotes

        return self._call("mmdump_page_notes", lambda each: isinstance(each, PageNotes))

    def checks(self) -> list[Check]:
        """All invariants, by name; of two with one name, the first plugin's."""
        from mmdump.checks import Check

        def good(thing: Any) -> bool:
            known = isinstance(thing, type) and issubclass(thing, Check)
            return known and isinstance(getattr(thing, "name", None), str)

        checks: dict[str, Check] = {}
        for _plugin, check in self._call("mmdump_checks", good):
            checks.setdefault(check.name, check())
        return [checks[name] for name in sorted(checks)]

    def recognisers(self) -> list[Recogniser]:
        """All that know holders of pages, by rank, then by name."""
        from mmdump.holders import Recogniser

        found = self._call("mmdump_holders", lambda each: isinstance(each, Recogniser))
        return sorted((each for _, each in found), key=lambda each: (each.rank, each.name))

    def failed_in(self, plugin: LoadedPlugin, error: Exception) -> None:
        """Remember that something a plugin contributed failed while it was used."""
        self._fail(plugin, error)

    def formats(self) -> dict[str, FormatSpec]:
        """All formats of output by name: mmdump's own, then those of plugins.

        A plugin whose format has a name that is taken is reported, and its format left out.
        """
        from mmdump.render import FORMATS, FormatSpec

        formats = dict(FORMATS)
        for plugin, spec in self._call("mmdump_renderers", lambda each: isinstance(each, FormatSpec)):
            if spec.name in formats:
                self._fail(plugin, UsageError(f"there is another format named {spec.name}"))
            else:
                formats[spec.name] = spec
        return formats

    def scenarios(self) -> dict[str, Scenario]:
        """All scenarios by name, in order of name; of two with one name, the first plugin's."""
        from mmdump_snapshots.scenario import Scenario

        scenarios: dict[str, Scenario] = {}
        for _plugin, scenario in self._call("mmdump_scenarios", lambda each: isinstance(each, Scenario)):
            scenarios.setdefault(scenario.name, scenario)
        return {name: scenarios[name] for name in sorted(scenarios)}

    def kernel(self, target: Target) -> Kernel:
        """The kernel of a target, with what plugins know of kernels."""
        from mmdump.kernel import Kernel

        return Kernel(target, self.page_ext_clients(), self.recognisers)

    def page_ext_clients(self) -> list[PageExtClient]:
        """All users of page_ext that plugins declare; of two with one name, the first plugin's."""
        from mmdump.kernel.page_ext import PageExtClient

        clients: dict[str, PageExtClient] = {}
        for _plugin, client in self._call(
            "mmdump_page_ext_clients", lambda each: isinstance(each, PageExtClient)
        ):
            clients.setdefault(client.name, client)
        return list(clients.values())


def load_plugins(
    files: Sequence[str] = (), disabled: Iterable[str] = (), *, points: Iterable[EntryPoint] | None = None
) -> Plugins:
    """Load the plugins of all entry points of group ``mmdump`` and of files given by name.

    :param files: Python files, or ``NAME=FILE``.
    :param disabled: Names to leave out, in addition to those in :data:`DISABLE_VARIABLE`; ``*`` is all that
        are not in the box.
    :param points: Entry points to take in place of the installed ones.
    """
    plugins = Plugins()
    off = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",") if name.strip()}
    off.update(disabled)
    for point in sorted(entry_points(group=GROUP) if points is None else points, key=lambda each: each.name):
        home = point.dist
        source = f"{home.name} {home.version}" if home is not None else "unknown"
        own = home is not None and home.name == "mmdump"
        plugin = LoadedPlugin(point.name, source, point.value, own)
        if point.name in off or ("*" in off and not own):
            plugins.disable(plugin)
            continue
        try:
            module = point.load()
        except (Exception, SystemExit) as error:
            plugins.fail(plugin, error)
            continue
        plugins.register(module, plugin)
    for given in files:
        name, found, file = given.partition("=")
        if not found:
            name, file = Path(given).stem, given
        plugin = LoadedPlugin(name, str(Path(file).resolve()), file)
        if name in off:
            plugins.disable(plugin)
            continue
        try:
            module = _load_file(name, Path(file))
        except (Exception, SystemExit) as error:
            plugins.fail(plugin, error)
            continue
        plugins.register(module, plugin)
    return plugins


def plugin_table(plugins: Plugins) -> Result:
    """The plugins that were found, as a result."""
    import polars as pl

    # Which two plugins are at odds stands in the table.
    with contextlib.suppress(UsageError):
        plugins.analyses()
    plugins.page_ext_clients()
    plugins.kernel_files()
    plugins.page_notes()
    plugins.checks()
    plugins.recognisers()
    plugins.formats()
    plugins.scenarios()
    found = plugins.found
    frame = pl.DataFrame(
        {
            "plugin": [each.name for each in found],
            "state": ["failed" if each.error else "off" if each.disabled else "on" for each in found],
            "source": [each.source for each in found],
            "hooks": [each.hooks for each in found],
            "error": [each.error for each in found],
        },
        schema={
            "plugin": pl.String,
            "state": pl.String,
            "source": pl.String,
            "hooks": pl.List(pl.String),
            "error": pl.String,
        },
    )
    return Result(
        "plugins",
        summary=[counted(len(found), "plugin")],
        tables={PLUGINS.name: Table(PLUGINS, frame)},
        primary=PLUGINS.name,
        text_tables=[PLUGINS.name],
    )


def _load_file(name: str, path: Path) -> ModuleType:
    module_name = f"mmdump_file_plugin_{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it is being executed.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
