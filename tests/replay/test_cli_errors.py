"""The command line where something is wrong: one clear line, no traceback, and nothing is changed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import journal
from journal.storage.disk import DiskStorage
from replay.cli import main

sys.path.insert(0, str(Path(__file__).parent))
from commands import READING, Run, process
from trainings import (
    flip,
    newer,
    rewards_at,
    segments,
    training,
)


def no_journal(place: Path) -> Path:
    shutil.rmtree(place)
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    return place


def nothing(place: Path) -> Path:
    return place / "nowhere"


def a_file(place: Path) -> Path:
    return place / "journal.json"


def a_newer_format(place: Path) -> Path:
    newer(place)
    return place


def damage(place: Path) -> Path:
    flip(segments(place)[0], rewards_at(segments(place)[0])[0])
    return place


def a_missing_segment(place: Path) -> Path:
    segments(place)[0].unlink()
    return place


def a_missing_manifest(place: Path) -> Path:
    (place / "journal.json").unlink()
    return place


def an_endless_manifest(place: Path) -> Path:
    (place / "journal.json").write_text("[" * 100_000)
    return place


MORE = ["compact", "drop", "copy", "export", "diff"]
"""What else reads a journal, and writes something, or reads two."""


def arguments(verb: str, place: Path, beside: Path) -> list[object]:
    """A verb with all that it needs."""
    if verb == "drop":
        return ["compact", place, "--drop-history"]
    more = {"diff": [place], "copy": [beside / "copy"], "export": ["--to", "csv", "--output", beside / "out"]}
    return [verb, place, *more.get(verb, [])]


BAD = [no_journal, nothing, a_file, a_newer_format, damage, a_missing_segment, a_missing_manifest, an_endless_manifest]
SAYS = {
    no_journal: "not a journal",
    nothing: "no such directory",
    a_file: "a file, not a directory",
    a_newer_format: "format 2",
    damage: "does not check",
    a_missing_segment: "missing",
    a_missing_manifest: "missing",
    an_endless_manifest: "damaged",
}


@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["people", "json"])
@pytest.mark.parametrize("verb", [*READING, *MORE])
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_clear_line_and_nothing_is_changed(
    run: Run, place: Path, tmp_path: Path, verb: str, bad: Callable[[Path], Path], as_json: tuple[str, ...]
) -> None:
    given = bad(place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.name != "writer.lock"}
    code, out, err = run(*arguments(verb, given, tmp_path), *as_json)
    is_finding = verb == "verify" and bad in (damage, a_missing_segment, a_missing_manifest, an_endless_manifest)
    assert code == (1 if is_finding else 2)
    told = out if is_finding else err
    assert SAYS[bad] in told and "Traceback" not in out + err and "bug" not in err
    if not is_finding:
        assert err.startswith("journal: ") and err.count("\n") == 1
        assert out == "" or (verb == "dump" and bad is damage)
    assert before == {
        path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.name != "writer.lock"
    }
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", [*READING, *MORE])
def test_no_permission(run: Run, place: Path, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: DiskStorage, path: str, *rest: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(place / path))

    monkeypatch.setattr(DiskStorage, "read", denied)  # Root may read everything, so chmod would show nothing.
    code, out, err = run(*arguments(verb, place, tmp_path))
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "Permission denied" in err and "journal.json" in err and "bug" not in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frobnicate", "j"], "No such command"),
        (["verify"], "DIR"),
        (["verify", "j", "--no-such-option"], "--no-such-option"),
        (["verify", "j", "--expect", "17"], "SEQ:CHAIN"),
        (["totals", "j", "--at", "yesterday"], "2026-01-31"),
        (["dump", "j", "--since", "-x"], "-x"),
        (["tail", "j", "-n", "many"], "-n"),
        (["tail", "-f", "j", "j2"], "one journal"),
        (["copy", "j"], "TARGET"),
        (["diff", "j"], "B"),
        (["compare", "j", "--agents", "Nobody"], "PPO, SAC"),
        (["compare", "j", "--run", "r9"], "r1"),
    ],
)
def test_wrong_arguments_are_one_line(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(place.parent)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1


def test_a_locked_journal_is_not_compacted(run: Run, tmp_path: Path) -> None:
    with training(tmp_path / "j"):
        code, _, err = run("compact", tmp_path / "j")
    assert code == 2 and err.count("\n") == 1


def test_what_nobody_expected_is_one_line_too(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("replay.loading.load", fails)
    code, out, err = run("totals", place)
    assert (code, out) == (2, "") and err == (
        "journal: ZeroDivisionError: oh no; this is a bug in training-journal: report it, please\n"
    )


@pytest.mark.parametrize("wrong", [OSError(5, "Input/output error", "x.seg"), OSError("no number")])
def test_a_failing_system_is_one_line(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, wrong: OSError) -> None:
    def fails(*_: object, **__: object) -> None:
        raise wrong

    monkeypatch.setattr(DiskStorage, "list", fails)
    code, out, err = run("verify", place)
    assert (code, out) == (2, "") and err.count("\n") == 1 and (wrong.strerror or "no number") in err


def test_ctrl_c_is_one_line(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["replay.verify"], "verify", interrupted)  # `replay.verify` is the function.
    assert run("verify", place) == (130, "", "journal: interrupted\n")


@pytest.mark.parametrize("verb", ["dump", "tail", "totals", "verify"])
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["people", "json"])
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, verb: str, as_json: tuple[str, ...]) -> None:
    with journal.open(tmp_path / "j") as log:
        agent = log.agent("PPO")
        for step in range(5000):
            log.reward(agent, 0, step, 1.0)
    many = ("-n", "5000") if verb == "tail" else ()
    with process(verb, tmp_path / "j", *many, *as_json) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        if verb in ("dump", "tail"):
            writer.stdout.readline()
        writer.stdout.close()
        assert (writer.stderr.read(), writer.wait(30)) == ("", 0)


def test_a_damaged_snapshot_is_passed_over_with_one_line(place: Path) -> None:
    main(["compact", str(place)])
    flip(next(iter((place / "snapshots").iterdir())), 50)
    with process("totals", place, "--json") as done:
        out, err = done.communicate()
    assert done.returncode == 0 and json.loads(out)["agents"]["PPO"]["total_episodes"] == 3
    assert err.count("\n") == 1 and "passed over" in err and "Warning" not in err
