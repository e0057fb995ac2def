"""What a long life leaves lying about: damaged snapshots, history missing or altered, journals of other formats."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import journal
import replay
from journal.manifest import Manifest
from journal.storage.faulty import FaultyStorage, Killed
from replay import history
from replay.compaction import compact

sys.path.insert(0, str(Path(__file__).parent))
from commands import Run, process
from logs import EPISODE, fresh, record, segments
from trainings import flip, newer, train


@pytest.fixture
def old(place: Path, run: Run) -> Path:
    """A journal of two trainings, each compacted: two history files, two snapshots."""
    run("compact", place)
    train(place)
    assert run("compact", place)[0] == 0
    return place


def by_seq(directory: Path) -> list[Path]:
    """Files named by their last seq, oldest first."""
    return sorted(directory.iterdir(), key=lambda path: int(path.stem.rpartition("-")[2]))


def totals(run: Run, place: Path) -> tuple[int, dict[str, object], str]:
    code, out, err = run("totals", place, "--json")
    return code, json.loads(out)["agents"] if out else {}, err


def test_the_older_snapshot_and_the_history_serve_and_it_says_so(run: Run, old: Path) -> None:
    _, before, _ = totals(run, old)
    damaged = by_seq(old / "snapshots")[-1]
    flip(damaged, 50)
    # In a process of its own: here a warning is an error.
    with process("totals", old, "--json") as asked:
        out, err = asked.communicate()
    assert (asked.returncode, json.loads(out)["agents"]) == (0, before)
    assert err.count("\n") == 1 and damaged.name in err and "passed over" in err and "journal compact" in err
    with process("compact", old) as mended:
        mended.communicate()
    assert mended.returncode == 0
    assert totals(run, old) == (0, before, ""), "compaction has made it anew"


def test_without_any_snapshot_the_history_serves(run: Run, old: Path) -> None:
    _, before, _ = totals(run, old)
    shutil.rmtree(old / "snapshots")
    assert totals(run, old) == (0, before, "")
    names = run("compact", old)[1]
    assert "snapshot:" in names and len(list((old / "snapshots").iterdir())) == 1
    assert run("verify", old, "--deep")[0] == 0


def test_a_snapshot_newer_than_the_log_is_not_believed(run: Run, place: Path, old: Path, tmp_path: Path) -> None:
    """The journal was set back, its snapshots were not."""
    run_of_one = tmp_path / "earlier"
    train(run_of_one)
    _, before, _ = totals(run, run_of_one)
    (run_of_one / "snapshots").mkdir()
    shutil.copy(by_seq(old / "snapshots")[-1], run_of_one / "snapshots")
    assert totals(run, run_of_one) == (0, before, "")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_history_that_is_missing_or_altered(run: Run, old: Path, which: int, harm: str) -> None:
    """The totals stand on the snapshot; verify finds the file; what needs it says which, in one line."""
    _, before, _ = totals(run, old)
    victim = by_seq(old / "history")[which]
    if harm == "missing":
        victim.unlink()
    else:
        flip(victim, 60)
    assert totals(run, old) == (0, before, "")
    code, out, _ = run("verify", old, "--deep")
    assert code == 1
    assert victim.name.partition("-")[0] in out if harm == "missing" else victim.name in out
    shutil.rmtree(old / "snapshots")
    code, _, err = run("totals", old)
    assert code == 2 and err.count("\n") == 1 and "history" in err
    files = {path: path.read_bytes() for path in old.rglob("*.parquet")}
    assert run("compact", old)[0] == 2, "no snapshot is made of what is not there"
    assert {path: path.read_bytes() for path in old.rglob("*.parquet")} == files


def test_what_comes_after_a_lost_history_file_is_still_read(run: Run, old: Path) -> None:
    lost, kept = by_seq(old / "history")[:2]
    since = int(kept.stem.partition("-")[0])
    whole = [line for line in run("dump", old)[1].splitlines() if f" {since - 1} " not in line]
    lost.unlink()
    code, out, err = run("dump", old, "--since", since)
    assert (code, err) == (0, "") and out.splitlines() == whole[-len(out.splitlines()) :]
    assert run("tail", old, "-n", 3)[0] == 0 and run("export", old, "--to", "csv", "--since", since)[0] == 0
    assert next(replay.events(old, since=since))["seq"][0].as_py() == since
    assert next(replay.follow(old, since=since, timeout=0))["seq"][0].as_py() == since
    for verb in (["dump"], ["dump", "--since", since - 1], ["export", "--to", "csv"], ["tail", "-n", 1000]):
        code, _, err = run(verb[0], old, *verb[1:])
        assert code == 2 and err.count("\n") == 1 and "begins with seq 0 is missing" in err, verb


def test_of_several_journals_it_says_whose_snapshot_was_passed_over(run: Run, old: Path, tmp_path: Path) -> None:
    train(tmp_path / "other")
    flip(by_seq(old / "snapshots")[-1], 50)
    for verb in ("totals", "runs", "trends", "compare", "diverge", "replay"):
        with process(verb, old, tmp_path / "other") as asked:
            _, err = asked.communicate()
        assert asked.returncode in (0, 1) and err.count("\n") == 1 and str(old) in err and "passed over" in err, verb


def test_a_journal_of_a_newer_format_does_not_hide_the_others(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        train(tmp_path / name)
    newer(tmp_path / "b")
    _, alone, _ = totals(run, tmp_path / "a")
    code, out, _ = run("totals", tmp_path, "--json")
    document = json.loads(out)
    assert code == 2
    assert [Path(one["path"]).name for one in document["journals"]] == ["a", "c"]
    assert len(document["errors"]) == 1 and "upgrade" in str(document["errors"][0])
    assert document["merged"]["agents"].keys() == alone.keys()


def test_time_travel_below_the_snapshots_and_past_the_end(run: Run, old: Path) -> None:
    last = replay.load(old).last_seq
    for at in (0, last // 3, last):
        code, out, err = run("totals", old, "--at", at, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["last_seq"] == at
    with process("totals", old, "--at", last + 1000, "--json") as asked:
        out, err = asked.communicate()
    assert (asked.returncode, json.loads(out)["last_seq"]) == (0, last)
    assert err.count("\n") == 1 and f"ends at seq {last}" in err
    assert totals(run, old)[1] == json.loads(out)["agents"]


@pytest.mark.parametrize("lost", [None, 0, 1])
def test_leftover_segments_stay_where_their_history_is_lost(lost: int | None) -> None:
    """Killed before it removed what it had compacted; then somebody lost a history file. Recovery looks first."""
    storage = fresh()
    record(storage, EPISODE)
    compact(storage)
    record(storage, EPISODE)
    before = segments(storage)
    faulty = FaultyStorage(storage)
    faulty.fail("remove", path="segments/*", kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    after = storage.kill()
    assert segments(after) == before
    after.create("history/somebody's notes").close()
    if lost is not None:
        after.remove(history.all_spans(after)[lost].path)
        end = Manifest.read(after).base.seq
        after.create(f"history/{end}-{end - 1}.parquet").close()  # Begins behind its end: it leads nowhere.
    journal.open("a journal", storage=after).close()
    left = [raw for raw in segments(after) if raw in before]
    assert left == ([] if lost is None else before)
