"""Where an attempt comes from is told fully, quickly, and without ever failing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import journal
from agents_adapter import provenance
from agents_adapter.provenance import Provenance

SCRIPT = """
import json, sys
from agents_adapter.provenance import Provenance
print(json.dumps(Provenance.capture().as_fields()))
"""
ROOT = Path(provenance.__file__).parents[1]


def run(*command: str, cwd: Path, **env: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return json.loads(subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=True).stdout)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def test_a_script_tells_its_command_line_code_and_place(script: Path) -> None:
    told = run(sys.executable, "-X", "utf8", str(script), "--fast", "ä", cwd=script.parent)
    assert told["argv"] == [sys.executable, "-X", "utf8", str(script), "--fast", "ä"]
    assert told["code"] == hashlib.sha256(SCRIPT.encode()).hexdigest()
    assert told["cwd"] == os.path.realpath(script.parent)
    assert told["versions"]["training-journal"] == journal.__version__
    assert told["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "numpy" in told["versions"] and "gymnasium" not in told["versions"]


def test_at_the_prompt_there_is_no_code(tmp_path: Path) -> None:
    assert run(sys.executable, "-c", SCRIPT, cwd=tmp_path)["code"] is None


def test_imported_frameworks_tell_their_versions(tmp_path: Path) -> None:
    told = run(sys.executable, "-c", "import pandas" + SCRIPT, cwd=tmp_path)
    import pandas

    assert told["versions"]["pandas"] == pandas.__version__


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_scripts_repository(script: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def git(*args: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        return subprocess.run(
            ["git", *identity, *args], cwd=script.parent, check=True, capture_output=True, text=True
        ).stdout.strip()

    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def told() -> tuple[str | None, bool | None]:
        fields = run(sys.executable, str(script), cwd=elsewhere)
        return fields["git_commit"], fields["git_dirty"]

    git("init", "-q")
    assert told() == (None, None)
    git("add", "train.py")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "HEAD")
    assert told() == (commit, False)
    (script.parent / "untracked").write_text("x")
    assert told() == (commit, False)
    script.write_text(SCRIPT + "# changed\n")
    assert told() == (commit, True)


def test_without_git_nothing_is_told(script: Path) -> None:
    told = run(sys.executable, str(script), cwd=script.parent, PATH="/nowhere")
    assert told["git_commit"] is None and told["git_dirty"] is None


def test_a_git_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "git"
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "_GIT_PATIENCE", 0.2)
    before = time.monotonic()
    assert Provenance.capture().git_commit is None
    assert time.monotonic() - before < 5


def test_a_removed_directory_and_odd_bytes_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "orig_argv", ["python", "\udcff.py"])
    told = Provenance.capture(code="given")
    assert told.cwd == "" and told.argv == ["python", "\\udcff.py"] and told.code == "given"


def test_it_fills_the_event(tmp_path: Path) -> None:
    with journal.open(tmp_path / "runs") as log:
        log.append(journal.RunStarted(run="r", config={}))
        log.append(journal.AttemptStarted(run="r", attempt=0, **Provenance.capture().as_fields()))


def test_it_is_quick() -> None:
    """Under 50 ms on an idle machine; the best of several, because this one may be busy."""
    best = min(_timed() for _ in range(5))
    assert best < 0.2


def _timed() -> float:
    before = time.perf_counter()
    Provenance.capture()
    return time.perf_counter() - before
