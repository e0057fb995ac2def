"""A mutant: one module of the project with one thing changed, told so that it is the same one after unrelated edits."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

KINDS = ("removed", "swapped", "disarmed", "emptied", "operator", "number", "other")
"""removed: a statement that acts · swapped: two neighbours · disarmed: a guard · emptied: what a checksum or a promise
covers · the rest are cosmic-ray's."""

LENGTH = 72
"""Characters of code in a mutant's name."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`source` is the whole module as mutated; `line` says where, 1 for the first."""

    path: str
    kind: str
    where: str
    """The function or class, by its dotted name; "" for the module itself."""
    line: int
    before: str
    after: str
    source: str
    nth: int = 1
    """Tells mutants apart that read the same, in the order of the module."""

    @property
    def name(self) -> str:
        """What a survivor is called in docs/mutants.md."""
        again = f" ({self.nth})" if self.nth > 1 else ""
        return f"{self.path} {self.where or 'module'}{again}: {self.before} → {self.after}"


def numbered(mutants: Iterable[Mutant]) -> list[Mutant]:
    """The same, each with a name of its own."""
    seen: Counter[str] = Counter()
    told = []
    for one in mutants:
        seen[one.name] += 1
        told.append(replace(one, nth=seen[one.name]))
    return told


def short(node: ast.AST | str) -> str:
    """A piece of the module in one line."""
    text = node if isinstance(node, str) else ast.unparse(node)
    lines = [line.strip() for line in text.splitlines()]
    line = lines[0] + (" …" if len(lines) > 1 else "")
    return line if len(line) <= LENGTH else f"{line[: LENGTH - 1]}…"


def around(line: str, first: int, last: int) -> str:
    """A line, or where it is long, what stands around its characters from `first` to `last`."""
    if len(line) <= LENGTH:
        return line
    margin = max(10, (LENGTH - (last - first)) // 2)
    start, stop = max(0, first - margin), min(len(line), last + margin)
    return f"{'…' if start else ''}{line[start:stop]}{'…' if stop < len(line) else ''}"


class Places:
    """Which function or class each line of a module belongs to."""

    def __init__(self, tree: ast.Module) -> None:
        self._found: list[tuple[int, int, str]] = []
        self._add(tree, "")

    def _add(self, node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}.{child.name}".lstrip(".")
                first = min([child.lineno, *(one.lineno for one in child.decorator_list)])
                self._found.append((first, child.end_lineno or first, name))
            self._add(child, name)

    def at(self, line: int) -> str:
        """The innermost function or class around a line; "" outside of all."""
        around = [name for first, last, name in self._found if first <= line <= last]
        return max(around, key=len, default="")
