"""The command line: what each verb says, for people and as JSON, of one journal and of several; exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import journal
import replay
from replay.cli import app

sys.path.insert(0, str(Path(__file__).parent))
from commands import READING, ROOT, Run, document, process
from trainings import (
    begin,
    flip,
    killed,
    play,
    rewards_at,
    save,
    segments,
    train,
    training,
)

# -- each verb ---------------------------------------------------------------------------------------------------------


def test_replay(run: Run, place: Path) -> None:
    found = document(run, "replay", place)
    assert found["events"] == found["last_seq"] + 1 == replay.load(place).events
    (one,) = found["runs"]
    assert (one["id"], one["status"]) == ("r1", "completed")
    assert [(attempt["number"], attempt["status"]) for attempt in one["attempts"]] == [(0, "completed")]
    assert found["agents"]["PPO"]["next_episode"] == 3
    assert found["agents"]["PPO"]["checkpoint"]["path"] == "checkpoints/PPO-3"
    code, out, _ = run("replay", place)
    assert code == 0 and "run r1 completed" in out.replace("✓ ", "") and "checkpoints/SAC-3" in out


def test_replay_of_a_killed_training_tells_how_to_go_on(run: Run, tmp_path: Path) -> None:
    with training(tmp_path / "j") as log:
        save(log, "PPO", 0)
        play(log, "PPO", [0])
        save(log, "PPO", 1)
        play(log, "PPO", [10, 20], first=1)
        log.append(journal.EpisodeStarted(agent="PPO", episode=3))
        log.reward(log.agent("PPO"), 3, 0, 1.0)
        dead = killed(tmp_path / "j", tmp_path / "dead")
        assert document(run, "replay", tmp_path / "j")["runs"][0]["attempts"][0]["status"] == "running"
    found = document(run, "replay", dead)
    assert found["runs"][0]["attempts"][0]["status"] == "crashed"
    agent = found["agents"]["PPO"]
    assert (agent["run"], agent["next_episode"], agent["checkpoint"]["episode"]) == ("r1", 1, 1)
    assert (agent["redo_episodes"], agent["redo_steps"]) == (3, 11)
    assert found["command"] == "cd /somewhere && train.py '--fast run'"
    _, out, _ = run("replay", dead)
    assert "3 episodes, 11 steps" in out and found["command"] in out and "crashed" in out


def test_replay_passes_over_an_altered_checkpoint(run: Run, place: Path) -> None:
    with journal.open(place) as log:
        begin(log, "r2")
        save(log, "PPO", 3)
        save(log, "PPO", 4)
    flip(place / "checkpoints" / "PPO-4", 0)
    agent = document(run, "replay", place)["agents"]["PPO"]
    assert agent["checkpoint"]["path"] == "checkpoints/PPO-3"
    assert len(agent["damaged"]) == 1 and "SHA-256" in agent["damaged"][0]
    assert "passed over: checkpoints/PPO-4" in run("replay", place)[1]


def test_totals(run: Run, place: Path) -> None:
    agent = document(run, "totals", place)["agents"]["SAC"]
    assert (agent["total_episodes"], agent["total_steps"], agent["total_reward"]) == (3, 15, 15.0)
    assert agent["spent"]["total_steps"] == 15 and agent["eval"]["total_steps"] == 0
    assert (agent["runs"], agent["attempts"]) == (1, 1) and agent["last_updated"]
    assert "SAC" in run("totals", place)[1]


def test_a_sum_that_is_no_number_of_json_is_null(run: Run, tmp_path: Path) -> None:
    with journal.open(tmp_path / "j") as log:
        for agent in ("PPO", "SAC"):
            log.append(journal.EpisodeStarted(agent=agent, episode=0))
            log.reward(log.agent(agent), 0, 0, float("nan"))
            log.append(journal.EpisodeEnded(agent=agent, episode=0, reason="terminated"))
            for number in (1, 2):
                log.append(journal.EpisodeStarted(agent=agent, episode=number))
                log.reward(log.agent(agent), number, 0, 1.7e308)
                log.append(journal.EpisodeEnded(agent=agent, episode=number, reason="terminated"))
    agent = document(run, "totals", tmp_path / "j")["agents"]["PPO"]
    assert (agent["total_reward"], agent["nan_rewards"]) == (None, 1)
    assert document(run, "dump", tmp_path / "j")["cells"][3]["value"] is None
    assert run("totals", tmp_path / "j")[0] == 0


def test_at_goes_back_in_time(run: Run, place: Path) -> None:
    (started,) = [line for line in document(run, "dump", place)["cells"] if line["kind"] == "EpisodeEnded"][:1]
    agents = document(run, "totals", place, "--at", started["seq"])["agents"]
    assert agents["PPO"]["total_episodes"] == 1 and "SAC" not in agents
    assert document(run, "replay", place, "--at", started["seq"] - 1)["agents"]["PPO"]["episodes"]["train"] == 0
    assert document(run, "totals", place, "--at", "2001-01-01T00:00:00Z")["agents"] == {}
    assert document(run, "totals", place, "--at", "2999-01-01")["agents"]["PPO"]["total_episodes"] == 3
    assert document(run, "replay", place, "--at", started["seq"])["runs"][0]["attempts"][0]["status"] == "running"


def test_verify(run: Run, place: Path) -> None:
    found = document(run, "verify", place)
    assert (found["status"], found["live"], found["findings"]) == ("clean", False, [])
    assert found["events"] == found["head"]["seq"] + 1 and len(found["head"]["chain"]) == 48
    assert found["torn"] == {"events": 0, "bytes": 0, "reason": None, "quarantine": []}
    receipt = f"{found['head']['seq']}:{found['head']['chain']}"
    code, out, _ = run("verify", place, "--deep", "--expect", receipt)
    assert code == 0 and "clean" in out and receipt in out
    assert run("verify", place, "--expect", f"0:{found['head']['chain']}")[0] == 1


def test_verify_of_a_torn_journal_is_told_and_fine(run: Run, tmp_path: Path) -> None:
    with training(tmp_path / "j") as log:
        play(log, "PPO", [0])
        dead = killed(tmp_path / "j", tmp_path / "dead")
    flip(segments(dead)[0], rewards_at(segments(dead)[0])[-1])
    assert document(run, "verify", dead)["status"] == "torn"
    code, out, _ = run("verify", dead)
    assert code == 0 and "torn tail" in out and "never promised" in out


def test_verify_of_a_corrupt_journal_is_a_finding(run: Run, place: Path) -> None:
    flip(segments(place)[0], rewards_at(segments(place)[0])[0])
    found = document(run, "verify", place, code=1)
    assert found["status"] == "corrupt" and set(found["findings"][0]) == {"file", "offset", "seq", "reason"}
    code, out, err = run("verify", place)
    assert (code, err) == (1, "") and "segments/00000000.seg" in out


def test_compare(run: Run, place: Path, tmp_path: Path) -> None:
    found = document(run, "compare", place)
    assert (found["verdict"], found["agents"], found["episodes"]) == ("comparable", ["PPO", "SAC"], 3)
    assert found["differences"] == []
    train(tmp_path / "other", ("SAC",), (0, 10, 25))
    assert document(run, "compare", tmp_path / "other", code=1)["verdict"] == "not provable"
    several = document(run, "compare", place, tmp_path / "other", "--agents", "PPO,SAC", code=1)
    assert several["merged"]["verdict"] == "not comparable"
    assert several["merged"]["differences"][0]["other"]["start"] == 25
    assert [one["verdict"] for one in several["journals"]] == ["comparable", "not provable"]
    code, out, _ = run("compare", place, tmp_path / "other")
    assert code == 1 and "[25, 35)" in out


def test_compact(run: Run, place: Path) -> None:
    before = document(run, "totals", place)["agents"]
    files = sorted(str(path) for path in place.rglob("*"))
    told = document(run, "compact", place, "--dry-run")
    assert sorted(str(path) for path in place.rglob("*")) == files
    done = document(run, "compact", place)
    assert set(done) >= {"segments", "history", "snapshot", "bytes_before", "bytes_after"}
    assert (told["segments"], told["history"]) == (done["segments"], done["history"])
    assert (place / done["snapshot"]).exists() and all((place / path).exists() for path in done["history"])
    assert document(run, "totals", place)["agents"] == before
    assert "nothing to compact" in run("compact", place)[1]
    assert document(run, "verify", place, "--deep")["status"] == "clean"


def test_copy(run: Run, place: Path, tmp_path: Path) -> None:
    done = document(run, "copy", place, tmp_path / "copy")
    checked = document(run, "verify", tmp_path / "copy", "--deep")
    assert (done["events"], done["head"]) == (checked["events"], checked["head"])
    assert "events and 4 checkpoints" in run("copy", place, tmp_path / "again")[1]
    flip(place / "checkpoints" / "PPO-0", 0)
    code, out, _ = run("copy", place, tmp_path / "third")
    assert code == 1 and "not copied: checkpoints/PPO-0" in out


def test_runs_and_info(run: Run, place: Path) -> None:
    assert document(run, "runs", place)["runs"][0]["agents"] == ["PPO", "SAC"]
    assert "attempt 0 completed" in run("runs", place)[1]
    found = document(run, "info", place)
    assert found["files"]["checkpoints"]["count"] == 4 and found["writing"]["by"] in ("map", "pwrite")
    assert found["head"] == document(run, "verify", place)["head"]
    assert found["journal"] in run("info", place)[1]


def test_dump_shows_every_cell(run: Run, place: Path) -> None:
    cells = document(run, "dump", place)["cells"]
    assert [cells[0]["kind"], cells[-1]["kind"]] == ["SegmentOpened", "SegmentSealed"]
    positions = [cell["position"] for cell in cells]
    assert positions == sorted(set(positions))
    seen = next(cell for cell in cells if cell["kind"] == "BarsSeen")
    assert (seen["agent"], seen["instrument"], seen["stop"], len(seen["content_hash"])) == ("PPO", "EURUSD", 10, 32)
    _, out, _ = run("dump", place)
    assert len(out.splitlines()) == len(cells) and "content_hash=" + seen["content_hash"] in out


def test_dump_since_and_until(run: Run, place: Path) -> None:
    cells = [cell["seq"] for cell in document(run, "dump", place, "--since", 10, "--until", 12)["cells"]]
    assert set(cells) == {10, 11}
    assert document(run, "dump", place, "--until", "2001-01-01")["cells"] == []
    assert len(document(run, "dump", place, "--since", "2001-01-01")["cells"]) > 50


def test_dump_is_the_same_after_compaction(run: Run, place: Path) -> None:
    with journal.open(place) as log:
        log.rewards(log.agent("PPO"), 9, [0, 1, 2], [1.0, float("nan"), 3.0])
    before = document(run, "dump", place)["cells"]
    assert next(cell for cell in before if cell.get("count"))["step"] == [0, 1, 2]
    document(run, "compact", place)
    assert document(run, "dump", place)["cells"] == before


def test_dump_of_a_damaged_journal_shows_what_precedes(run: Run, place: Path) -> None:
    path = segments(place)[0]
    at = rewards_at(path)[20]
    seq = int.from_bytes(path.read_bytes()[at + 8 : at + 16], "little")
    whole = run("dump", place)[1].splitlines()
    flip(path, at + 60)
    code, out, err = run("dump", place)
    assert code == 2 and err.count("\n") == 1 and "does not check" in err
    assert out.splitlines() == whole[: len(out.splitlines())]
    assert out.splitlines()[-1].split()[1] == str(seq - 1)
    code, out, err = run("dump", place, "--json")
    assert code == 2 and json.loads(out)["cells"][-1]["seq"] == seq - 1
    assert run("dump", place, "--until", seq) == (0, "\n".join(whole[: len(json.loads(out)["cells"])]) + "\n", "")


@pytest.mark.parametrize("count", [0, 1, 10, 10_000])
def test_tail(run: Run, place: Path, count: int) -> None:
    code, out, _ = run("tail", "-n", count, place, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    last = replay.load(place).last_seq
    assert code == 0 and [event["seq"] for event in events] == list(range(max(0, last + 1 - count), last + 1))
    assert len(run("tail", "-n", count, place)[1].splitlines()) == len(events)


def test_tail_follows_a_training_over_segments_and_ends_with_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("journal.segment.SIZE_MIN", 256 << 10)
    monkeypatch.setattr("journal.segment.SIZE_MAX", 256 << 10)
    with ExitStack() as ending:
        with journal.open(tmp_path / "j") as log:
            agent = log.agent("PPO")
            log.append(journal.EpisodeStarted(agent="PPO", episode=0))
            following = ending.enter_context(process("tail", "-f", "-n", "1", "--json", tmp_path / "j"))
            ending.callback(following.kill)
            assert following.stdout is not None and following.stderr is not None
            seqs = [json.loads(following.stdout.readline())["seq"]]
            for step in range(9000):
                log.reward(agent, 0, step, 1.0)
            last = log.append(journal.Custom(name="last"))
            while seqs[-1] < last:
                seqs.append(json.loads(following.stdout.readline())["seq"])
        with journal.open(tmp_path / "j"):
            time.sleep(0.5)  # It is looked at, and goes away again without an event.
        with journal.open(tmp_path / "j") as log:
            last = log.append(journal.Custom(name="of another writer"))
            seqs.append(json.loads(following.stdout.readline())["seq"])
        assert seqs == list(range(1, last + 1))
        following.send_signal(signal.SIGINT)
        assert (following.wait(10), following.stderr.read()) == (0, "")


def test_demo_passes_arguments_and_exit_code_on() -> None:
    with process("demo", "--no-such-option") as done:
        assert done.communicate()[0] == ""
    with process("demo", "--help") as asked:
        assert "--keep" in asked.communicate()[0]
    assert (done.returncode, asked.returncode) == (2, 0)


# -- several journals --------------------------------------------------------------------------------------------------


def test_a_folder_of_journals(run: Run, tmp_path: Path) -> None:
    for name, agent in (("a", "PPO"), ("b", "SAC"), ("deep/c", "PPO")):
        train(tmp_path / "runs" / name, (agent,))
    found = document(run, "totals", tmp_path / "runs")
    names = [Path(one["path"]).relative_to(tmp_path / "runs").as_posix() for one in found["journals"]]
    assert names == ["a", "b", "deep/c"]
    assert found["merged"]["agents"]["PPO"]["total_episodes"] == 6 and found["errors"] == []
    assert document(run, "verify", tmp_path / "runs")["merged"]["status"] == "clean"
    assert document(run, "compare", tmp_path / "runs")["merged"]["verdict"] == "comparable"
    for verb in READING:
        code, out, err = run(verb, tmp_path / "runs")
        assert (code, err) == (0, "") and str(tmp_path / "runs" / "b") in out, verb


@pytest.mark.parametrize("verb", ["totals", "replay"])
def test_a_copy_is_not_counted_twice(run: Run, place: Path, tmp_path: Path, verb: str) -> None:
    with journal.open(place) as log:
        log.append(journal.RunStarted(run="rate unknown", config={"lr": float("nan")}))
    run("copy", place, tmp_path / "copy")
    with journal.open(place) as log:
        begin(log, "r2")
        play(log, "PPO", [50], first=3)
    document(run, "compact", place)
    run("copy", place, tmp_path / "later")
    found = document(run, verb, tmp_path / "copy", place, tmp_path / "later")
    assert found["merged"]["agents"]["PPO"]["total_episodes"] == 4 and found["errors"] == []
    counted = str(min(place, tmp_path / "later"))
    copies = {one["path"]: one["of"] for one in found["merged"]["copies"]}
    assert copies == dict.fromkeys({str(tmp_path / "copy"), str(place), str(tmp_path / "later")} - {counted}, counted)
    _, out, _ = run(verb, tmp_path / "copy", place)
    assert f"counted once: {tmp_path / 'copy'} is a copy of {place}" in out


def test_copies_that_went_on_by_themselves_are_told(run: Run, place: Path, tmp_path: Path) -> None:
    run("copy", place, tmp_path / "copy")
    for path, episodes in ((place, [50]), (tmp_path / "copy", [50, 60])):
        with journal.open(path) as log:
            begin(log, "r2")
            play(log, "PPO", episodes, first=3)
    train(tmp_path / "other", ("SAC",))
    code, out, err = run("totals", place, tmp_path / "copy", tmp_path / "other", "--json")
    found = json.loads(out)
    assert code == 2 and err.count("\n") == 1 and "went on by itself" in err
    assert [one["path"] for one in found["errors"]] == [str(place)]
    assert [one["path"] for one in found["journals"]] == [str(place), str(tmp_path / "copy"), str(tmp_path / "other")]
    agents = found["merged"]["agents"]
    assert (agents["PPO"]["total_episodes"], agents["SAC"]["total_episodes"]) == (5, 6)


def test_a_copy_of_what_can_no_longer_be_read_hides_nothing(run: Run, place: Path, tmp_path: Path) -> None:
    run("copy", place, tmp_path / "copy")
    with journal.open(place) as log:
        begin(log, "r2")
        play(log, "PPO", [50], first=3)
    document(run, "compact", place)
    next((place / "history").iterdir()).unlink()
    code, out, err = run("totals", place, tmp_path / "copy", "--json")
    found = json.loads(out)
    assert code == 2 and err.count("\n") == 1 and "earlier events cannot be read" in err
    assert found["merged"]["agents"]["PPO"]["total_episodes"] == 4 and len(found["journals"]) == 2
    assert [one["path"] for one in found["errors"]] == [str(tmp_path / "copy")]


def test_one_that_cannot_be_read_does_not_keep_others_from_it(run: Run, place: Path, tmp_path: Path) -> None:
    for verb in READING:
        code, out, err = run(verb, place, tmp_path / "nowhere", "--json")
        assert code == 2 and err.count("\n") == 1 and "nowhere" in err, verb
        if verb != "tail":
            found = json.loads(out)
            assert [one["path"] for one in found["journals"]][:1] == [str(place)]
            assert [one["path"] for one in found["errors"]] == [str(tmp_path / "nowhere")]


def test_the_worst_of_several_is_the_exit_code(run: Run, place: Path, tmp_path: Path) -> None:
    train(tmp_path / "bad")
    flip(segments(tmp_path / "bad")[0], rewards_at(segments(tmp_path / "bad")[0])[0])
    found = document(run, "verify", place, tmp_path / "bad", code=1)
    assert [one["status"] for one in found["journals"]] == ["clean", "corrupt"]
    assert found["merged"]["status"] == "corrupt"


# -- as a whole --------------------------------------------------------------------------------------------------------


def test_help_is_quick_and_names_every_verb(run: Run) -> None:
    code, out, err = run("--help")
    verbs = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert (code, err) == (0, "") and all(f"\n  {verb} " in out for verb in verbs)
    assert set(READING) | {"bench", "compact", "copy", "demo", "diff", "export", "import"} == set(verbs)
    assert "..." not in out.partition("Options")[2], "each verb's first line fits"
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, replay.cli; replay.cli.main(['--help']); print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"pandas", "pyarrow", "rich"} & set(loaded)


def test_every_reading_verb_writes_nothing(run: Run, place: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in place.rglob("*")}
    time.sleep(0.01)
    for verb in READING:
        assert run(verb, place)[0] == 0
        assert run(verb, place, "--json")[0] == 0
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in place.rglob("*")} == before


def test_bench_measures_a_disk_and_leaves_it_as_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from journal.speed import disk

    monkeypatch.setattr(disk.measure_disk, "__kwdefaults__", {**disk.measure_disk.__kwdefaults__, "seconds": 0.1})
    code, out, err = run("bench", tmp_path, "--json")
    found = json.loads(out)
    assert (code, err, found["schema"]) == (0, "", 1)
    assert {"machine", "rounds", "levels"} < found.keys()
    code, out, err = run("bench", tmp_path)
    assert (code, err) == (0, "") and 'log.reward, sync="always"' in out and "struct + os.write" in out
    assert not list(tmp_path.iterdir())
    code, out, err = run("bench", tmp_path / "nowhere")
    assert (code, out) == (2, "") and "no such directory" in err and err.count("\n") == 1
