"""Ctrl-C, SIGTERM and SIGHUP end an attempt as interrupted with everything promised; exceptions end it as failed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import agents_adapter
import journal
import replay
from agents_adapter import Plan

PLAN = Plan([("EURUSD", "H1", 0, 10, seed) for seed in range(3)])

LOOP = """
import sys, time, agents_adapter
from agents_adapter import Plan
run = agents_adapter.start(sys.argv[1])
track = run.agent("PPO", state={})
for episode in track.episodes(Plan([("EURUSD", "H1", 0, 10, seed) for seed in range(9)])):
    while True:
        episode.step(1.0)
        print(episode.steps, flush=True)
        time.sleep(0.001)
"""


def attempts(directory: Path) -> list[tuple[str, str | None]]:
    run = next(iter(replay.load(directory).runs.values()))
    return [(attempt.status, attempt.error) for attempt in run.attempts]


@pytest.mark.parametrize(("number", "code"), [("SIGINT", -signal.SIGINT), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_the_attempt_as_interrupted_and_goes_on_to_the_caller(
    number: str, code: int, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", LOOP, str(tmp_path / "j")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.Signals[number])
        printed, said = process.stdout.read(), process.stderr.read()
        assert process.wait(60) == code, said
    assert attempts(tmp_path / "j") == [("interrupted", number)]
    agent = replay.load(tmp_path / "j").agents["PPO"]
    assert agent.spent["train"].steps >= int(["20", *printed.split()][-1])
    with journal.open(tmp_path / "j") as log:
        assert not log.recovered.crashed


def test_old_handlers_are_back_after_the_run(tmp_path: Path) -> None:
    def handler(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, handler)
    try:
        ctrl_c = signal.getsignal(signal.SIGINT)
        run = agents_adapter.start(tmp_path / "j")
        assert signal.getsignal(signal.SIGTERM) is not handler
        run.finish()
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGINT) is ctrl_c
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_of_the_callers_is_called_and_the_attempt_is_interrupted(tmp_path: Path) -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        run = agents_adapter.start(tmp_path / "j")
        signal.raise_signal(signal.SIGTERM)
        run.finish()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert attempts(tmp_path / "j") == [("interrupted", "SIGTERM")]


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """A training under nohup outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with agents_adapter.start(tmp_path / "j"):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_works_off_the_main_thread(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    failures: list[BaseException] = []

    def train() -> None:
        try:
            with agents_adapter.start(tmp_path / "j") as run:
                for episode in run.agent("PPO", state={}).episodes(PLAN):
                    episode.step(1.0)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not failures
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert attempts(tmp_path / "j") == [("completed", None)]


def test_ctrl_c_in_a_with_block_goes_on_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), agents_adapter.start(tmp_path / "j"):
        signal.raise_signal(signal.SIGINT)
    assert attempts(tmp_path / "j") == [("interrupted", "SIGINT")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("lost the way"), "failed"), (KeyboardInterrupt(), "interrupted"), (SystemExit(3), "interrupted")],
    ids=["ValueError", "KeyboardInterrupt", "SystemExit"],
)
def test_an_exception_ends_the_attempt_and_goes_on(error: BaseException, status: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), agents_adapter.start(tmp_path / "j"):
        raise error
    assert attempts(tmp_path / "j")[0][0] == status


def test_finish_in_a_finally_does_not_complete_a_run_that_fails(tmp_path: Path) -> None:
    run = agents_adapter.start(tmp_path / "j")
    with pytest.raises(ValueError, match="lost"):
        try:
            raise ValueError("lost the way")
        finally:
            run.finish()
    assert attempts(tmp_path / "j") == [("failed", "ValueError: lost the way")]
    assert replay.load(tmp_path / "j").runs[run.id].status == "unfinished"


def test_a_notebooks_cell_that_failed_does_not_keep_a_later_one_from_finishing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = agents_adapter.start(tmp_path / "j")
    monkeypatch.setattr(sys, "last_value", NameError("a typo"), raising=False)
    run.finish()
    assert attempts(tmp_path / "j") == [("completed", None)]


def test_a_training_within_somebody_elses_except_block_completes(tmp_path: Path) -> None:
    try:
        raise ImportError("no fast simulator here")
    except ImportError:
        run = agents_adapter.start(tmp_path / "j")
        run.finish()
    assert attempts(tmp_path / "j") == [("completed", None)]


@pytest.mark.parametrize(
    ("last_words", "status", "error"),
    [
        ("raise ValueError('lost the way')", "failed", "ValueError: lost the way"),
        ("sys.exit(3)", "interrupted", None),
        ("pass", "interrupted", None),
        ("os.kill(os.getpid(), 9)", "running", None),
    ],
)
def test_the_end_of_the_process_ends_the_attempt(
    last_words: str, status: str, error: str | None, tmp_path: Path
) -> None:
    script = f"import os, sys, agents_adapter\nrun = agents_adapter.start(sys.argv[1])\n{last_words}"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "j")], capture_output=True, check=False)
    assert attempts(tmp_path / "j") == [(status, error)]


def test_a_forked_child_that_exits_leaves_the_run_alone(tmp_path: Path) -> None:
    script = (
        "import os, sys, agents_adapter\n"
        "with agents_adapter.start(sys.argv[1]) as run:\n"
        "    track = run.agent('PPO', state={})\n"
        "    for episode in track.episodes([('EURUSD', 'H1', 0, 10)]):\n"
        "        episode.step(1.0)\n"
        "        for leave in (run.finish, sys.exit):\n"
        "            if os.fork() == 0:\n"
        "                leave()\n"
        "                sys.exit(0)\n"
        "            assert os.wait()[1] == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "j")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert attempts(tmp_path / "j") == [("completed", None)]
    assert replay.load(tmp_path / "j").agents["PPO"].effective["train"].steps == 1


@pytest.mark.parametrize(
    ("loop", "ended"),
    [
        ("for e in run.agent('A', state={}).episodes(plan): e.step(1.0)", "completed"),
        ("for e in run.agent('A', state={}).episodes(plan): e.step(1.0); sys.exit()", "interrupted"),
        ("for e in run.agent('A', state={}).episodes(plan): e.step(1.0, True); sys.exit()", "interrupted"),
        ("for e in run.agent('A').episodes(plan): e.step(1.0)", "completed"),
        ("run.agent('A')", "completed"),
        # A learner that is only recorded may have been stopped in the middle: its state must not be left behind.
        ("run.agent('A', state={})", "interrupted"),
        ("for e in run.agent('A', state={}).episodes(plan): 1 / 0", "failed"),
    ],
)
def test_a_program_that_ends_without_finish(loop: str, ended: str, tmp_path: Path) -> None:
    script = (
        "import sys, agents_adapter\n"
        "plan = agents_adapter.Plan([('EURUSD', 'H1', 0, 10, seed) for seed in range(3)])\n"
        f"run = agents_adapter.start(sys.argv[1])\n{loop}\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "j")], capture_output=True, timeout=60, check=False)
    assert [status for status, _ in attempts(tmp_path / "j")] == [ended]
    run = next(iter(replay.load(tmp_path / "j").runs.values()))
    assert run.status == ("completed" if ended == "completed" else "unfinished")
