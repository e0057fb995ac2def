"""The mutator itself: it makes what it says; a mutant that breaks the chain dies, one that nobody looks at lives."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mutant import Places
from steps import step_mutants

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

SAVE = '''"""Nothing here is a mutant."""
def save(storage, data, last: int | None = None):
    """Nor here."""
    assert data is not None
    if last and not data:
        raise ValueError("no data")
    storage.write(data)
    storage.sync()
    crc = crc32c(data, 7)
    return crc
'''


def made(source: str) -> list[tuple[str, str, str]]:
    return [(one.kind, one.before, one.after) for one in step_mutants("a.py", source)]


def test_each_step_is_left_out_put_after_the_next_and_done_without_asking() -> None:
    asked = "if last and (not data):"
    assert sorted(made(SAVE)) == sorted(
        [
            ("disarmed", asked, "if True:"),
            ("disarmed", asked, "if False:"),
            ("disarmed", "last and (not data)", "last"),
            ("disarmed", "last and (not data)", "not data"),
            ("disarmed", "raise ValueError('no data')", "(left out)"),
            ("swapped", asked + " …", "after storage.write(data)"),
            ("removed", "storage.write(data)", "(left out)"),
            ("swapped", "storage.write(data)", "after storage.sync()"),
            ("removed", "storage.sync()", "(left out)"),
            ("swapped", "storage.sync()", "after crc = crc32c(data, 7)"),
            ("emptied", "crc32c(data, 7)", "argument 1 empty"),
            ("emptied", "crc32c(data, 7)", "argument 2 empty"),
        ]
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a = 1", []),
        ("a = 1\na = 2", [("removed", "a = 2", "(left out)")]),
        ("x.a = f()", [("removed", "x.a = f()", "(left out)")]),
        ("n += 1", [("removed", "n += 1", "(left out)")]),
        ("a = f()\ng(a)", [("removed", "g(a)", "(left out)")]),
        ("while f():\n    pass", [("disarmed", "while f():", "while False:")]),
        ("with lock:\n    pass", [("disarmed", "with lock: …", "(its block only)")]),
        ("with f() as g:\n    pass", []),
        ("try:\n    pass\nexcept OSError:\n    pass", [("disarmed", "except OSError:", "(not caught)")]),
        ("a = [b for b in c if d]", [("disarmed", "d", "True")]),
        ("a = b if c else d", [("disarmed", "b if c else d", "b"), ("disarmed", "b if c else d", "d")]),
    ],
)
def test_a_change_is_made_and_nothing_else(source: str, found: list[tuple[str, str, str]]) -> None:
    assert made(source) == found


def test_a_mutant_is_the_module_with_one_thing_changed() -> None:
    removed = [one for one in step_mutants("a.py", SAVE) if (one.kind, one.before) == ("removed", "storage.sync()")]
    assert [one.line for one in removed] == [8] and [one.where for one in removed] == ["save"]
    assert "storage.write(data)" in removed[0].source and "storage.sync()" not in removed[0].source


def test_what_reads_the_same_has_names_of_its_own() -> None:
    names = [one.name for one in step_mutants("a.py", "def f():\n    g()\n    g()\n") if one.kind == "removed"]
    assert names == ["a.py f: g() → (left out)", "a.py f (2): g() → (left out)"]


def test_a_line_belongs_to_its_innermost_function() -> None:
    import ast

    places = Places(ast.parse("class A:\n    def f(self):\n        pass\n\nx = 1\n"))
    assert [places.at(line) for line in (1, 3, 5)] == ["A", "A.f", ""]


def tried(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process that has not imported this project."""
    command = [sys.executable, str(HERE / "run.py"), "--all", "--kind", "removed", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_chain_that_leaves_out_the_cells_dies() -> None:
    done = tried("journal.chain", "--tests", "tests/golden/test_golden.py", "--tests", "tests/journal/test_chain.py")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"journal\.chain removed: (\d+) made, \1 killed\n", done.stdout)


def test_a_mutant_that_no_test_looks_at_lives_and_is_named() -> None:
    done = tried("journal.chain", "--tests", "tests/journal/test_cells.py")
    assert done.returncode == 1, done.stderr
    name = "journal/chain.py Span.take: self._hasher.update(part) → (left out)"
    assert re.search(rf"journal/chain\.py:\d+: survived without a reason: {re.escape(name)}\n", done.stdout)
