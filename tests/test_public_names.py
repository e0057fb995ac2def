"""What a user imports: names, signatures, errors and docstrings that others rely on, and what an import costs."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import journal
from journal import errors, events

ROOT = Path(__file__).parent.parent
PACKAGES = ("journal", "replay", "agents_adapter")

SIGNATURES = {
    "journal": {
        "open": "directory *sync",
        "Log.append": "event",
        "Log.agent": "name",
        "Log.reward": "agent episode step value",
        "Log.rewards": "agent episodes steps values",
        "Log.sync": "",
        "Log.close": "",
    },
    "replay": {
        "load": "dir *at",
        "verify": "dir",
        "events": "dir",
        "diverge": "dir",
        "diff": "a b",
        "State.resume": "agent",
    },
    "agents_adapter": {
        "start": "dir *config *resume *on_failure *shard *checkpoint_every *keep *sync *seeding *continue_from "
        "*tolerance",
        "Run.agent": "name *state *save *restore *stateless *replicate",
        "Run.team": "name members",
        "Run.finish": "",
        "Track.episodes": "plan",
        "Track.evaluate": "plan",
        "Track.loop": "n",
        "Track.wrap": "env *bars",
        "Track.log": "values *step",
        "Episode.step": "reward *terminated *truncated",
        "Episode.end": "reason **metrics",
        "Episode.observe": "bars",
        "atomic_write": "path mode *backups",
        "atomic_json": "path value *backups",
        "atomic_parquet": "path table *backups",
    },
}
"""What user code may pass: in this order, and where marked `*` by name. The first argument's name is free."""


def package(name: str) -> ModuleType:
    return importlib.import_module(name)


def public(module: ModuleType) -> dict[str, Any]:
    return {name: getattr(module, name) for name in module.__all__}


def find(module: ModuleType, path: str) -> Any:
    """`Log.append` in a package; classes that users do not make themselves need not be exported, only be there."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted_complete_and_documented(name: str) -> None:
    module = package(name)
    assert module.__doc__ and len(module.__all__) == len(set(module.__all__))
    assert list(module.__all__) == sorted(module.__all__)
    for exported, thing in public(module).items():
        assert not exported.startswith("_")
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert (thing.__doc__ or "").strip(), f"{name}.{exported} has no docstring"


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_method_says_what_it_does(name: str) -> None:
    for exported, thing in public(package(name)).items():
        if not inspect.isclass(thing) or not thing.__module__.startswith(name):
            continue
        for attribute, member in vars(thing).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if inspect.isfunction(function) and not attribute.startswith("_"):
                assert (function.__doc__ or "").strip(), f"{name}.{exported}.{attribute} has no docstring"


@pytest.mark.parametrize("name", PACKAGES)
def test_an_import_gives_nothing_by_accident(name: str) -> None:
    """What is not in `__all__` is a submodule or private; an import that leaks would become somebody's dependency."""
    module = package(name)
    leaked = {
        attribute
        for attribute, value in vars(module).items()
        if not attribute.startswith("_") and attribute not in module.__all__ and not inspect.ismodule(value)
    }
    assert leaked <= {"annotations", "TYPE_CHECKING", "Any"}


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in SIGNATURES.items() for path in paths])
def test_what_the_documentation_shows_can_be_called(name: str, path: str) -> None:
    signature = inspect.signature(find(package(name), path))
    parameters = {key: value for key, value in signature.parameters.items() if key != "self"}
    wanted = SIGNATURES[name][path].split()
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for place, one in enumerate(one for one in wanted if not one.startswith("*")):
        assert place < len(positional), f"{name}.{path} takes no argument {one}"
        assert place == 0 or positional[place].name == one
    for one in wanted:
        if one.startswith("**"):
            assert any(p.kind is p.VAR_KEYWORD for p in parameters.values()), f"{name}.{path} takes no {one}"
        elif one.startswith("*"):
            assert one[1:] in parameters, f"{name}.{path} takes no {one[1:]}="
    required = [
        p for p in parameters.values() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    assert len(required) <= len([one for one in wanted if not one.startswith("*")])


def test_every_error_is_exported_and_in_one_tree() -> None:
    defined = {name for name, thing in vars(errors).items() if inspect.isclass(thing)}
    assert defined <= set(journal.__all__)
    for name in defined:
        assert issubclass(getattr(journal, name), journal.JournalError)
        assert name in (errors.__doc__ or ""), f"{name} is missing in the tree on top of journal/errors.py"


def test_every_kind_of_event_is_exported() -> None:
    assert {event.__name__ for event in events.REGISTRY.values()} <= set(journal.__all__)


def test_the_version_is_told_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert metadata.version("training-journal") == journal.__version__
    assert f"## {journal.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_console_script_can_be_called() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="journal")
    assert script.value == "replay.cli:main"
    assert callable(script.load())


def test_the_installed_packages_are_typed_and_named() -> None:
    """Automatic discovery refuses three top-level packages, so they are named, and a folder counts by its __init__."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert set(setup["packages"]["find"]["include"]) == {f"{name}{rest}" for name in PACKAGES for rest in ("", ".*")}
    for name in PACKAGES:
        assert setup["package-data"][name] == ["py.typed"] and (ROOT / name / "py.typed").exists()
        for path in (ROOT / name).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent.relative_to(ROOT)} would not be installed"


@pytest.mark.parametrize(
    ("name", "too_early"),
    [
        ("journal", {"numpy", "pandas", "pyarrow", "typer", "rich", "email", "zipfile", "argparse"}),
        ("replay", {"numpy", "pandas", "pyarrow", "typer", "rich"}),
        ("replay.cli", {"numpy", "pandas", "pyarrow", "rich"}),
        ("agents_adapter", {"pandas", "pyarrow", "typer", "rich", "gymnasium", "torch", "matplotlib"}),
    ],
)
def test_importing_a_package_is_quick(name: str, too_early: set[str]) -> None:
    """What takes long to import, or much memory, is imported when it is needed."""
    result = _python(f"import sys, {name}; assert {name}.__file__; print(*sys.modules)", ROOT)
    assert result.returncode == 0, result.stderr
    assert not {module.partition(".")[0] for module in result.stdout.split()} & too_early


@pytest.mark.parametrize(("foreign", "imported"), [("journal", "replay"), ("replay", "agents_adapter")])
def test_a_package_of_somebody_else_with_our_name_is_named(tmp_path: Path, foreign: str, imported: str) -> None:
    (tmp_path / foreign).mkdir()
    stranger = tmp_path / foreign / "__init__.py"
    stranger.write_text('"""A diary."""\n')
    result = _python(f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\nimport {imported}", tmp_path)
    assert result.returncode, f"import {imported} took the stranger for ours"
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and str(stranger) in last


def _python(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_writer_is_imported_when_it_is_first_asked_for() -> None:
    result = _python(
        "import sys, journal; journal.Custom(name='x'); print('journal.writer' in sys.modules, 'open' in dir(journal));"
        "print(journal.Log.__module__, journal.open.__name__, journal.Receipt.__name__); journal.opem",
        ROOT,
    )
    assert result.stdout.split() == ["False", "True", "journal.writer", "open_log", "Receipt"]
    assert "AttributeError: module 'journal' has no attribute 'opem'" in result.stderr


@pytest.mark.parametrize(
    "first", ["import replay.fold, replay.verify", "from replay.fold import fold", "replay.verify"]
)
def test_what_replay_calls_fold_and_verify_are_functions_whatever_was_imported_first(first: str) -> None:
    result = _python(
        f"import sys, replay; {first}; from replay.fold import fold; import replay.verify;"
        "print(replay.fold is fold, replay.fold.__name__, replay.verify.__name__, 'verify' in dir(replay));"
        "print(type(sys.modules['replay.fold']).__name__, replay.State.__name__); replay.flod",
        ROOT,
    )
    assert result.stdout.split() == ["True", "fold", "verify", "True", "module", "State"]
    assert "AttributeError: module 'replay' has no attribute 'flod'" in result.stderr
