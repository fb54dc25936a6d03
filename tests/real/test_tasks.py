"""Tasks and open files of the real vmcore, against what ps and the workload said."""

from __future__ import annotations

import re

from mmdump.kernel import Kernel
from tests.conftest import Sample


def test_every_process_that_ps_showed_is_there_and_no_other(kernel: Kernel, sample: Sample) -> None:
    tasks = kernel.tasks
    assert tasks.complete
    shown = {
        int(line.split()[0]): line.split(maxsplit=2)[2]
        for line in sample.truth("ps.txt").decode().splitlines()[1:]
    }
    found = {task.tgid: task for task in tasks.rows if task.pid == task.tgid and task.pid}
    # ps itself has gone since.
    [ps] = [pid for pid, command in shown.items() if command.startswith("{ps}")]
    assert set(shown) - {ps} <= set(found)
    for pid, command in shown.items():
        name = re.match(r"[\[{]?([^\]} ]*)", command)
        if pid != ps and name is not None:
            assert found[pid].comm.startswith(name[1].split("-")[0][:6]), command


def test_every_cpu_has_an_idle_task(kernel: Kernel) -> None:
    idle = [task.comm for task in kernel.tasks.rows if task.pid == 0]
    assert sorted(idle) == ["swapper/0", "swapper/1"]


def test_stacks_belong_to_their_tasks(kernel: Kernel) -> None:
    tasks = kernel.tasks
    for task in tasks.rows:
        assert tasks.on_stack(task.stack + 8) is task
        assert task.stack <= task.sp < task.stack + tasks.stack_size
    assert tasks.on_stack(0xFFFF) is None


def test_files_are_found_by_their_operations_and_know_who_has_them(kernel: Kernel, sample: Sample) -> None:
    files = kernel.open_files
    assert files.complete
    [splicer] = re.findall(r"splice pid=(\d+)", sample.truth("truth.txt").decode())[:1]
    ends = [files.holders(file.address) for file in files.with_operations("pipefifo_fops")]
    assert sorted((task.pid, fd) for [(task, fd)] in ends) == [(int(splicer), 3), (int(splicer), 4)]
    assert files.with_operations("no_such_fops") == []
    assert files.holders(0x1234) == []
