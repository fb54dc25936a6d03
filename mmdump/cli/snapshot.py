"""Commands that make dumps: ``mmdump snapshot list``, ``mmdump snapshot generate``, ``mmdump demo``."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdump.cli.completion import directories, words_of_plugins
from mmdump.cli.session import output_options, rendering, shared_of
from mmdump.errors import ExitStatus, UsageError
from mmdump.result import Column, Kind, Result, Schema, Table

if TYPE_CHECKING:
    from mmdump.plugins import Plugins
    from mmdump_snapshots.kernels import Profile
    from mmdump_snapshots.scenario import Scenario

__all__ = ["demo_command", "snapshot_command"]

SCENARIOS = Schema(
    "scenarios",
    (
        Column("scenario", description="its name"),
        Column("memory", Kind.BYTES, "memory of the machine, unless --memory says otherwise"),
        Column("summary", description="what happens"),
    ),
    "Scenarios",
)
KERNELS = Schema(
    "kernels",
    (Column("kernel", description="its name"), Column("arch", description="machine")),
    "Kernels",
)
#: The scenario that the demo shows.
_DEMO = "cma-failure"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _profiles(_plugins: Plugins) -> list[str]:
    from mmdump_snapshots.kernels import profiles

    return list(profiles())


_KERNEL = click.option(
    "--kernel",
    metavar="PROFILE",
    shell_complete=words_of_plugins(_profiles),
    help="The kernel to be; snapshot list names them.",
)


@click.group("snapshot", short_help="synthetic dumps: list what there is, generate one")
def snapshot_command() -> None:
    """Make synthetic dumps: a model of the kernel's mm runs, and its memory is written as a kernel's.

    What they show was planted, so that its truth is known; plain drgn opens them too.
    """


@snapshot_command.command("list")
@output_options
@click.pass_context
def _list_command(ctx: click.Context, /, **given: Any) -> None:
    """List the scenarios and the kernels there are."""
    import polars as pl

    from mmdump_snapshots.kernels import profiles

    shared = shared_of(ctx)
    scenarios = shared.plugins.scenarios()
    frame = pl.DataFrame(
        {
            "scenario": list(scenarios),
            "memory": [each.memory for each in scenarios.values()],
            "summary": [each.summary for each in scenarios.values()],
        },
        schema={"scenario": pl.String, "memory": pl.UInt64, "summary": pl.String},
    )
    kernels = pl.DataFrame(
        {"kernel": list(profiles()), "arch": [each.arch for each in profiles().values()]},
        schema={"kernel": pl.String, "arch": pl.String},
    )
    tables = {SCENARIOS.name: Table(SCENARIOS, frame), KERNELS.name: Table(KERNELS, kernels)}
    result = Result(
        "snapshot-list",
        summary=[f"{len(frame)} scenarios, {len(kernels)} kernels"],
        tables=tables,
        primary=SCENARIOS.name,
        text_tables=list(tables),
    )
    with rendering(shared, **given) as renderer:
        renderer.finish(result)
    ctx.exit(ExitStatus.INCOMPLETE if shared.plugins.failed else ExitStatus.DONE)


@snapshot_command.command("generate")
@click.argument("scenario", shell_complete=words_of_plugins(lambda plugins: plugins.scenarios()))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    shell_complete=directories,
    help="Directory to write to; it is made.",
)
@_KERNEL
@click.option("--memory", metavar="SIZE", help="Memory of the machine, such as 512M or 64G.")
@click.option(
    "--container",
    type=click.Choice(["elf", "kdump", "flattened"]),
    default="elf",
    show_default=True,
    help="Format of the dump.",
)
@click.option(
    "--compression",
    type=click.Choice(["zlib", "zstd", "none"]),
    default="zlib",
    show_default=True,
    help="Of kdump pages.",
)
@click.option(
    "--filter",
    "filter_level",
    type=click.IntRange(0, 31),
    default=0,
    metavar="LEVEL",
    help="Leave pages out as makedumpfile -d does.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.pass_context
def _generate_command(
    ctx: click.Context,
    scenario: str,
    output: str,
    kernel: str | None,
    memory: str | None,
    container: Any,
    compression: str,
    filter_level: int,
    seed: int,
    force: bool,
) -> None:
    """Write the dump of a machine to which SCENARIO happened.

    DIR then holds vmcore, vmlinux (its debug info) and truth.json: what was planted.
    """
    shared = shared_of(ctx)
    chosen, profile = _scenario(shared.plugins.scenarios(), scenario), _profile(kernel)
    size = _size(memory) if memory else None
    directory = _made(Path(output), force)
    image = chosen.image(profile, memory=size, seed=seed)
    image.write(directory, container=container, compression=compression, filter_level=filter_level)
    click.echo(f"{directory / 'vmcore'}: {chosen.summary}", err=True)
    click.echo(f"Try: mmdump {chosen.command} {shlex.quote(str(directory / 'vmcore'))}", err=True)


@click.command("demo", short_help="make a dump and analyse it: works on any machine")
@click.option("--keep", metavar="DIR", shell_complete=directories, help="Keep the dump in this directory.")
@_KERNEL
@click.option("--force", is_flag=True, help="Replace files that exist there.")
@click.pass_context
def demo_command(ctx: click.Context, keep: str | None, kernel: str | None, force: bool) -> None:
    """Make the dump of a machine on which a contiguous allocation failed, and show what mmdump says of it."""
    from mmdump.cli import cli

    shared = shared_of(ctx)
    chosen, profile = _scenario(shared.plugins.scenarios(), _DEMO), _profile(kernel)
    with tempfile.TemporaryDirectory(prefix="mmdump-demo-") as temporary:
        directory = _made(Path(keep), force) if keep else Path(temporary)
        chosen.image(profile).write(directory)
        vmcore = directory / "vmcore"
        click.echo(f"A machine with Linux {profile.name}: {chosen.summary}.", err=True)
        click.echo(f"$ mmdump pinned {vmcore if keep else 'vmcore'} --cma --holders", err=True)
        analysis = cli.get_command(ctx.find_root(), "pinned")
        if analysis is None:
            raise UsageError("there is no command pinned: its plugin is off, or failed")
        with analysis.make_context(
            "pinned", [str(vmcore), "--cma", "--holders"], parent=ctx.find_root()
        ) as pinned:
            analysis.invoke(pinned)
    if not keep:
        click.echo("The dump was not kept: --keep DIR keeps it.", err=True)


def _made(directory: Path, force: bool) -> Path:
    """The directory, made if need be.

    :raises UsageError: It holds files that would be replaced, and nobody said that they may be.
    """
    existing = [name for name in ("vmcore", "vmlinux", "truth.json") if (directory / name).exists()]
    if existing and not force:
        raise UsageError(f"{directory / existing[0]} exists already", "--force replaces it.")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _scenario(scenarios: dict[str, Scenario], name: str) -> Scenario:
    if name not in scenarios:
        raise UsageError(f"there is no scenario {name}", f"Scenarios: {', '.join(scenarios)}.")
    return scenarios[name]


def _profile(name: str | None) -> Profile:
    from mmdump_snapshots.kernels import profile, profiles
    from mmdump_snapshots.scenario import DEFAULT_PROFILE

    if name is not None and name not in profiles():
        raise UsageError(f"there is no kernel {name}", f"Kernels: {', '.join(profiles())}.")
    return profile(name or DEFAULT_PROFILE)


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"{text!r} is no size", "Say 512M or 64G.")
    return int(found[1]) * _UNITS[found[2].upper()]
