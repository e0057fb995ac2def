"""Where an attempt comes from: command line, code, git commit, versions. Taken once at the start, in milliseconds."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

import journal

_FRAMEWORKS: Final = (
    "gym",
    "gymnasium",
    "jax",
    "keras",
    "lightgbm",
    "pandas",
    "polars",
    "pyarrow",
    "ray",
    "sb3_contrib",
    "scipy",
    "sklearn",
    "stable_baselines3",
    "tensorflow",
    "torch",
    "xgboost",
)
_GIT_PATIENCE: Final = 2.0
"""Seconds; a repository that answers later is recorded as unknown."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The fields of `AttemptStarted` that tell where it comes from.

    `argv` is the whole command line, interpreter first. `code` is the SHA-256 of the main script, None in a notebook or
    at the prompt. `git_commit` and `git_dirty` (a tracked file differs from it) are those of the script's repository,
    None where there is none. All text is valid UTF-8.
    """

    argv: list[str]
    cwd: str
    code: str | None
    git_commit: str | None
    git_dirty: bool | None
    versions: dict[str, str]
    host: str
    pid: int

    @classmethod
    def capture(cls, code: str | None = None) -> Provenance:
        """As of now, of this process; `code` overrides the hash of the main script. Never raises."""
        script = main_script()
        commit, dirty = _git(os.path.dirname(script) if script else os.curdir)
        return cls(
            argv=[_text(part) for part in sys.orig_argv],
            cwd=_cwd(),
            code=code if code is not None else _hash(script),
            git_commit=commit,
            git_dirty=dirty,
            versions=_versions(),
            host=_text(socket.gethostname()),
            pid=os.getpid(),
        )

    def as_fields(self) -> dict[str, Any]:
        """Keyword arguments for `AttemptStarted`."""
        return asdict(self)


def main_script() -> str | None:
    """The path of the script that Python runs; None in a notebook or at the prompt."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.abspath(path) if isinstance(path, str) and os.path.isfile(path) else None


def _hash(script: str | None) -> str | None:
    if script is None:
        return None
    try:
        with open(script, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _git(directory: str) -> tuple[str | None, bool | None]:
    """(commit, dirty) in one call of git, which is told neither to write nor to start anything."""
    command = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        answer = subprocess.run(
            command,
            cwd=directory or os.curdir,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_GIT_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    lines = answer.stdout.decode("utf-8", "replace").splitlines()
    named = next((line for line in lines if line.startswith("# branch.oid ")), "")
    commit = named.removeprefix("# branch.oid ")
    if not commit or commit.startswith("("):
        return None, None
    return commit, any(not line.startswith("#") for line in lines)


def _versions() -> dict[str, str]:
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "training-journal": journal.__version__,
    }
    for name in _FRAMEWORKS:
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            versions[name] = _text(version)
    return versions


def _cwd() -> str:
    try:
        return _text(os.getcwd())
    except OSError:
        return ""


def _text(text: str) -> str:
    """Valid UTF-8: a command line may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
