"""Whatever a dump has gone through: an answer or a sentence that says why not, and never a lie by silence."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest

from mmdump_snapshots.kernels import profiles

SCRIPT = Path(__file__).with_name("damaged.py")
#: Damaged dumps that are looked at; each is of a seed of its own.
CASES = int(os.environ.get("MMDUMP_DAMAGED_DUMPS", "500"))
#: The first seed: others find other things.
FIRST = int(os.environ.get("MMDUMP_DAMAGED_FIRST", "0"))
#: Seconds that a case may take.
LIMIT = 20.0
WORKERS = min(4, len(os.sched_getaffinity(0)))
GROUP = 50


class Process:
    """A process that answers questions; it is started again when it has died or hangs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, seconds: float, **question: object) -> list[str]:
        """What is wrong: with the case, or with the process after it."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(self._directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"POLARS_MAX_THREADS": "1"},
            )
            # To start takes longer than a case.
            seconds += 30
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                self.stop()
                return [f"{question}: no answer within {seconds} s"]
        line = process.stdout.readline()
        if not line:
            self._process = None
            return [f"{question}: the process died, status {process.wait()}"]
        answer = json.loads(line)
        return [f"seed {answer.get('seed')} ({answer.get('what')}): {each}" for each in answer["problems"]]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Ask several questions, spread over some processes; all that was wrong."""
    directory = tmp_path_factory.mktemp("dumps") / "bases"
    directory.mkdir()
    processes: SimpleQueue[Process] = SimpleQueue()
    everyone = [Process(directory) for _ in range(WORKERS)]
    for each in everyone:
        processes.put(each)

    def one(question: dict[str, object]) -> list[str]:
        process = processes.get()
        try:
            return process.ask(LIMIT, **question)
        finally:
            processes.put(process)

    with ThreadPoolExecutor(WORKERS) as pool:

        def every(questions: list[dict[str, object]]) -> list[str]:
            return [problem for problems in pool.map(one, questions) for problem in problems]

        assert not every([{"build": name} for name in profiles()])
        for each in everyone:
            each.stop()
        yield every
        for each in everyone:
            each.stop()


@pytest.mark.parametrize("first", range(FIRST, FIRST + CASES, GROUP))
def test_damaged_dumps_are_answered_or_explained(ask, first):
    problems = ask([{"seed": seed} for seed in range(first, min(first + GROUP, FIRST + CASES))])
    assert not problems, "\n".join(problems)
