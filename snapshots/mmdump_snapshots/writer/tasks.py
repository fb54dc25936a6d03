"""Tasks, so that they can be found by PID: ``init_task``, ``init_pid_ns`` and the idle tasks of the CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdump_snapshots.writer.block import write_direct_io
from mmdump_snapshots.writer.files import write_files
from mmdump_snapshots.writer.state import State, TaskState

if TYPE_CHECKING:
    from mmdump_snapshots.writer.arena import Arena, Struct
    from mmdump_snapshots.writer.percpu import PerCpu

__all__ = ["write_batches", "write_tasks"]

#: Slots of a node of a radix tree or an xarray: XA_CHUNK_SHIFT.
_SHIFT = 6


def write_tasks(arena: Arena, state: State, percpu: PerCpu) -> None:
    """Write all tasks, each a thread group with a single thread unless its tgid is another's."""
    if not arena.has("init_task"):
        return
    init = arena.variable("init_task")
    everyone = [(init, TaskState("swapper/0", 0, 0))]
    for task in state.tasks:
        if task.pid:
            struct = arena.struct("struct task_struct")
            everyone.append((struct, task))
    devices = write_direct_io(arena, state, {task.pid: struct.address for struct, task in everyone})
    files = write_files(arena, state, devices)
    leaders = {task.pid: struct for struct, task in everyone if task.pid == task.tgid}
    _list_of_leaders(list(leaders.values()))
    pids: dict[int, int] = {}
    for struct, task in everyone:
        _fill(struct, task, leaders.get(task.tgid, struct))
        if task.tgid in files:
            struct.maybe("files", files[task.tgid])
        if task.pid:
            pids[task.pid] = _pid(arena, struct, task.pid)
        if struct is init:
            arena.store(struct)
        else:
            arena.finish(struct)
    _namespace(arena, pids)
    _runqueues(arena, percpu, init, state.clock)


def _fill(struct: Struct, task: TaskState, leader: Struct) -> None:
    struct.set("comm", task.comm.encode("utf-8", "surrogateescape")[:15])
    struct.set("pid", task.pid)
    struct.set("tgid", task.tgid)
    struct.maybe("group_leader", leader.address)
    struct.maybe("usage.refs.counter", 1)
    if task.pid == 0:
        # PF_IDLE, PF_KTHREAD.
        struct.maybe("flags", 0x200002)


def _list_of_leaders(leaders: list[Struct]) -> None:
    """``init_task.tasks``: a ring of thread group leaders."""
    for index, struct in enumerate(leaders):
        struct.maybe("tasks.next", leaders[(index + 1) % len(leaders)].at("tasks"))
        struct.maybe("tasks.prev", leaders[index - 1].at("tasks"))


def _pid(arena: Arena, task: Struct, number: int) -> int:
    """A ``struct pid`` in the initial namespace, and the task's link to it.

    :return: Its address.
    """
    pid = arena.struct("struct pid")
    pid.maybe("count.refs.counter", 1)
    pid.maybe("level", 0)
    pid.set("tasks[0].first", task.at("pid_links[0]"))
    if arena.has("init_pid_ns"):
        pid.maybe("numbers[0].nr", number)
        pid.maybe("numbers[0].ns", arena.address("init_pid_ns"))
    task.set("pid_links[0].pprev", pid.at("tasks[0]"))
    task.maybe("thread_pid", pid.address)
    return arena.finish(pid)


def _namespace(arena: Arena, pids: Mapping[int, int]) -> None:
    """``init_pid_ns.idr``: a radix tree of all PIDs."""
    if not arena.has("init_pid_ns"):
        return
    namespace = arena.variable("init_pid_ns")
    root, _ = _tree(arena, dict(pids), 0)
    # radix_tree_root until 4.20.
    namespace.first(("idr.idr_rt.xa_head", "idr.idr_rt.rnode"), root)
    namespace.maybe("idr.idr_next", max(pids, default=0) + 1)
    namespace.maybe("pid_allocated", len(pids))
    arena.store(namespace)


def _tree(arena: Arena, entries: dict[int, int], offset: int) -> tuple[int, int]:
    """A tree of entries by index.

    :return: What stands in the slot above it: a node's address, tagged, or an entry; and its shift.
    """
    if not entries:
        return 0, 0
    shift = 0
    while max(entries) >> (shift + _SHIFT):
        shift += _SHIFT
    return _node(arena, entries, shift, offset), shift


def _node(arena: Arena, entries: dict[int, int], shift: int, offset: int) -> int:
    name = "struct xa_node" if "struct xa_node" in arena.profile.types else "struct radix_tree_node"
    node = arena.struct(name)
    node.maybe("shift", shift)
    node.maybe("offset", offset)
    children: dict[int, dict[int, int]] = {}
    for index, entry in entries.items():
        children.setdefault(index >> shift & (1 << _SHIFT) - 1, {})[index & (1 << shift) - 1] = entry
    for slot, below in children.items():
        value = below[0] if shift == 0 else _node(arena, below, shift - _SHIFT, slot)
        node.set(f"slots[{slot}]", value)
    node.maybe("count", len(children))
    # Internal nodes are tagged: RADIX_TREE_INTERNAL_NODE was 1 until the xarray (4.20) made it 2.
    return arena.finish(node) | (2 if name == "struct xa_node" else 1)


def _runqueues(arena: Arena, percpu: PerCpu, init: Struct, clock: int) -> None:
    """``runqueues``: each CPU's swapper, and the time when it last looked at the clock."""
    if not arena.has("runqueues"):
        return
    for cpu in range(percpu.cpus):
        task = init
        if cpu:
            task = arena.struct("struct task_struct")
            _fill(task, TaskState(f"swapper/{cpu}", 0, 0), task)
            arena.finish(task)
        runqueue = percpu.variable("runqueues", cpu)
        for name in ("idle", "curr"):
            runqueue.maybe(name, task.address)
        runqueue.maybe("cpu", cpu)
        runqueue.maybe("clock", clock)
        percpu.finish(runqueue)


#: Where batches are, newest first: variable, path of the batch, of its array.
_BATCHES = {
    "lru_add": (
        ("cpu_fbatches", "lru_add", "folios"),  # 5.19
        ("lru_pvecs", "lru_add", "pages"),  # 5.8
        ("lru_add_pvec", "", "pages"),
    ),
    "mlock": (
        ("mlock_fbatch", "fbatch", "folios"),  # 6.3
        ("mlock_pvec", "vec", "pages"),  # 5.18
        # Before, mlock put pages back to the LRU by the same way as any other; what finds no room there is
        # in another batch.
        ("lru_pvecs", "lru_deactivate_file", "pages"),
        ("lru_deactivate_file_pvecs", "", "pages"),
    ),
}


def write_batches(arena: Arena, state: State, percpu: PerCpu) -> None:
    """The per-CPU batches of folios on their way to an LRU list (mm/swap.c, mm/mlock.c)."""
    size = arena.profile.types.sizeof("struct page")
    for cpu in range(percpu.cpus):
        # A variable may have several batches.
        written: dict[str, Struct] = {}
        for kind, cpus in state.batches.items():
            folios = cpus[cpu] if cpu < len(cpus) else ()
            name, member, array = next(place for place in _BATCHES[kind] if arena.has(place[0]))
            if not folios:
                continue
            batch = written.setdefault(name, percpu.variable(name, cpu))
            prefix = f"{member}." if member else ""
            # Only mlock's own batches have marks in their pointers.
            tags = 3 if name.startswith("mlock") else 0
            batch.set(f"{prefix}nr", len(folios))
            for index, folio in enumerate(folios):
                pointer = arena.addresses.page(folio >> 2, size) | folio & tags
                batch.set(f"{prefix}{array}[{index}]", pointer)
        for batch in written.values():
            percpu.finish(batch)
