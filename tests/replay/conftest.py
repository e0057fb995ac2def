"""What the tests of the command line share: how it is called, and a training that was recorded once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from replay.cli import main

sys.path.insert(0, str(Path(__file__).parent))
from commands import Run
from trainings import train


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, to be copied."""
    directory = tmp_path_factory.mktemp("trained") / "j"
    train(directory)
    return directory


@pytest.fixture
def place(tmp_path: Path, trained: Path) -> Path:
    """A completed run of two agents on the same bars."""
    return shutil.copytree(trained, tmp_path / "j")
