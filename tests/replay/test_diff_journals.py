"""Two journals as they come: dropped history, one being written, a killed one, copies, damage; and the command."""

from __future__ import annotations

import json
import math
import shutil
import sys
import threading
from pathlib import Path

import pytest

import journal
import replay
from journal.errors import CorruptJournal
from journal.storage.disk import DiskStorage
from journal.storage.memory import MemoryStorage
from replay.compaction import compact
from replay.differences import diff

sys.path.insert(0, str(Path(__file__).parent))
from commands import Run, document
from test_diff import recorded, row_of
from test_divergence import back, checkpoint, episode
from trainings import begin, end, flip, killed, play, rewards_at, save, segments, train, training

# -- the journals as they come -----------------------------------------------------------------------------------------


def test_what_was_dropped_can_no_longer_be_compared_and_it_says_so(run: Run, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    train(a)
    train(b)
    document(run, "compact", a, "--drop-history")
    found = document(run, "diff", a, b, code=1)
    assert (found["verdict"], found["dropped"]) == ("not provable", {"a": replay.load(a).events, "b": 0})
    assert [row["unreadable"] for row in found["episodes"]] == [{"a": 3, "b": 0}] * 2
    code, out, _ = run("diff", a, b)
    assert code == 1 and "not provable" in out and "6 of its episodes were in them and can no longer be compared" in out
    for place, starts in ((a, [30, 40]), (b, [30, 41])):
        with journal.open(place) as log:
            begin(log, "r2")
            play(log, "PPO", starts, first=3)
            end(log, "r2")
    found = document(run, "diff", a, b, code=1)
    row = found["episodes"][0]
    assert (row["same"], row["task"], row["unreadable"]) == (1, 1, {"a": 3, "b": 0}) and not found["settings"]
    document(run, "compact", b, "--drop-history")
    with journal.open(b) as log:
        play(log, "SAC", [70], first=3)
    settings_ = document(run, "diff", a, b, code=1)["settings"]
    assert [one["what"] for one in settings_] == ["totals of SAC, train"] and "4 episodes" in settings_[0]["b"]


@pytest.mark.parametrize(("to", "missing"), [(0, {0, 1, 2}), (1, {1, 2}), (2, {2})])
def test_what_was_dropped_and_then_superseded_is_missing_for_certain(to: int, missing: set[int]) -> None:
    """The first journal drops three episodes and goes back behind some of them: those do not count, and never will."""
    episodes = [{"rewards": [1.0], "number": number} for number in range(3)]
    one = MemoryStorage()
    with journal.open("j", storage=one) as log:
        begin(log)
        saved = [checkpoint(log)]
        for told_ in episodes:
            episode(log, **told_)
            saved.append(checkpoint(log))
    compact(one, drop_history=True)
    with journal.open("j", storage=one) as log:
        back(log, saved[to])
        end(log)
    row = row_of(found := diff(one, recorded(*episodes)))
    assert found.verdict == "different" and set(row.only["b"]) == missing
    assert (row.unreadable["a"], row.unanswered["b"]) == (to, to)


def test_history_dropped_of_both_is_not_called_equal(run: Run, tmp_path: Path) -> None:
    for name in "ab":
        train(tmp_path / name)
        document(run, "compact", tmp_path / name, "--drop-history")
    assert document(run, "diff", tmp_path / "a", tmp_path / "b", code=1)["verdict"] == "not provable"


def test_a_journal_that_is_being_written_is_a_prefix(tmp_path: Path) -> None:
    train(tmp_path / "whole", ("PPO",), range(0, 200, 10))
    going, enough = threading.Event(), threading.Event()

    def write() -> None:
        with journal.open(tmp_path / "live") as log:
            begin(log)
            save(log, "PPO", 0)
            for number in range(20):
                play(log, "PPO", [10 * number], first=number)
                going.set()
                if number == 15:
                    enough.wait(30)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        going.wait(30)
        for _ in range(5):
            found = diff(tmp_path / "live", tmp_path / "whole")
            row = row_of(found)
            assert (row.rewards, row.task, row.only_count["a"]) == (0, 0, 0) and row.same >= 1
            assert row.same + row.unfinished + row.only_count["b"] == 20
    finally:
        enough.set()
        writer.join()


def test_a_killed_training_is_equal_as_far_as_it_went(run: Run, tmp_path: Path) -> None:
    train(tmp_path / "whole", ("PPO",))
    with training(tmp_path / "live") as log:
        play(log, "PPO", [0, 10])
        log.append(journal.EpisodeStarted(agent="PPO", episode=2, entry=2))
        log.reward(log.agent("PPO"), 2, 0, 1.0)
        dead = killed(tmp_path / "live", tmp_path / "dead")
    found = document(run, "diff", tmp_path / "whole", dead, code=1)
    (row,) = found["episodes"]
    assert (row["same"], row["rewards"], row["unfinished"], row["only"]) == (2, 0, 1, {"a": 0, "b": 0})
    assert "no end in B" in found["findings"][0]["words"]
    assert [(one["what"], one["a"], one["b"]) for one in found["settings"]] == [("status", "completed", "unfinished")]


def test_a_copy_that_went_on_differs_in_what_it_has_more(run: Run, place: Path, tmp_path: Path) -> None:
    run("copy", place, tmp_path / "copy")
    assert document(run, "diff", place, tmp_path / "copy")["verdict"] == "equal"
    document(run, "compact", tmp_path / "copy")
    assert document(run, "diff", place, tmp_path / "copy")["verdict"] == "equal"
    with journal.open(tmp_path / "copy") as log:
        begin(log, "r2")
        play(log, "PPO", [50], first=3)
    found = document(run, "diff", place, tmp_path / "copy", code=1)
    assert found["runs"] == {"a": [], "b": ["r2"]} and found["episodes"][0]["numbers"] == {"a": [], "b": [[3, 3]]}


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_verb_tells_people_in_a_table_and_in_words(run: Run, place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train(other)
    code, out, err = run("diff", place, other)
    assert (code, err) == (0, "") and "equal" in out and str(place) in out and str(other) in out
    with journal.open(place) as one, journal.open(other) as two:
        for log, value in ((one, 1.0), (two, 2.0)):
            begin(log, "r2")
            episode(log, [0.5, value], number=3)
            end(log, "r2")
    code, out, _ = run("diff", place, other)
    assert code == 1 and "differs first at step 1, where the reward is 1.0 in A and 2.0 in B" in out
    (row,) = [
        line.split() for line in out.splitlines() if line.startswith("PPO") and "train " in line and "," not in line
    ]
    assert row == ["PPO", "train", "3", "1", "0", "0", "0", "0"]
    found = document(run, "diff", place, other, code=1)
    assert (found["a"], found["b"], found["verdict"]) == (str(place), str(other), "different")
    (finding,) = found["findings"]
    assert (finding["agent"], finding["episode"], finding["step"], finding["a"], finding["b"]) == (
        "PPO",
        3,
        1,
        1.0,
        2.0,
    )


@pytest.mark.parametrize("damaged", ["a", "b"])
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["people", "json"])
def test_a_damaged_journal_is_one_line_that_names_it(
    run: Run, place: Path, tmp_path: Path, damaged: str, as_json: tuple[str, ...]
) -> None:
    shutil.copytree(place, tmp_path / "bad")
    path = segments(tmp_path / "bad")[0]
    flip(path, rewards_at(path)[-1])
    pair = (tmp_path / "bad", place) if damaged == "a" else (place, tmp_path / "bad")
    code, out, err = run("diff", *pair, *as_json)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert f"{tmp_path / 'bad'}/segments/00000000.seg" in err and "does not check" in err
    with pytest.raises(CorruptJournal) as raised:
        replay.diff(*pair)
    assert raised.value.path.endswith("bad/segments/00000000.seg") and raised.value.seq > 0
    code, _, err = run("diff", place, tmp_path / "nowhere", *as_json)
    assert code == 2 and str(tmp_path / "nowhere") in err and err.count("\n") == 1


def test_damaged_history_is_one_line_that_names_it(run: Run, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "bad")
    document(run, "compact", tmp_path / "bad")
    (path,) = (tmp_path / "bad" / "history").iterdir()
    flip(path, path.stat().st_size // 2)
    code, out, err = run("diff", place, tmp_path / "bad")
    assert (code, out) == (2, "") and err.count("\n") == 1 and f"bad/history/{path.name}" in err


def test_nan_in_a_config_or_a_reward_is_null_in_json(run: Run, tmp_path: Path) -> None:
    for name, rate, value in (("a", math.nan, math.nan), ("b", math.inf, 1.0)):
        with journal.open(tmp_path / name) as log:
            log.append(journal.RunStarted(run="r1", config={"lr": rate}))
            episode(log, [value])
    found = document(run, "diff", tmp_path / "a", tmp_path / "b", code=1)
    assert json.dumps([found["settings"][0]["a"], found["findings"][0]["a"]]) == "[null, null]"


def test_it_is_one_line_of_python(place: Path) -> None:
    assert replay.diff(place, DiskStorage(place)).verdict == "equal"
    assert replay.diff is diff
