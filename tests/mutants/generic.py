"""Generic mutants, made by cosmic-ray: another operator, another comparison, another number, a loop that never runs.

Of its some 200 operators those are taken whose mutants differ in what they do: each arithmetic operator becomes one or
two others, each comparison its opposite and its neighbour (`<` and `<=`), `^`, which stands in checksums, three others.
What `steps` does more thoroughly is left to it (conditions, `and`, `or`, exceptions).

Not made: mutants in annotations, decorators, docstrings, assertions, and inside f-strings (what a message says).
"""

from __future__ import annotations

import ast

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from mutant import Mutant, Places, around, numbered

_BINARY = {
    "Add": ("Sub", "Mul"),
    "Sub": ("Add",),
    "Mul": ("Add", "FloorDiv"),
    "FloorDiv": ("Mul",),
    "Div": ("Mul",),
    "Mod": ("FloorDiv",),
    "LShift": ("RShift",),
    "RShift": ("LShift",),
    "BitAnd": ("BitOr",),
    "BitOr": ("BitAnd",),
    "BitXor": ("BitAnd", "BitOr", "Add"),
}
_COMPARED = {
    "Eq": ("NotEq", "LtE", "GtE"),
    "NotEq": ("Eq", "Lt", "Gt"),
    "Lt": ("LtE", "GtE"),
    "LtE": ("Lt", "Gt"),
    "Gt": ("GtE", "LtE"),
    "GtE": ("Gt", "Lt"),
    "Is": ("IsNot",),
    "IsNot": ("Is",),
}
OPERATORS = {
    **{f"core/ReplaceBinaryOperator_{a}_{b}": "operator" for a, others in _BINARY.items() for b in others},
    **{f"core/ReplaceComparisonOperator_{a}_{b}": "operator" for a, others in _COMPARED.items() for b in others},
    **dict.fromkeys(("core/ReplaceUnaryOperator_Delete_USub", "core/ReplaceUnaryOperator_Delete_Not"), "operator"),
    "core/NumberReplacer": "number",
    **dict.fromkeys(("core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue"), "other"),
    **dict.fromkeys(("core/ReplaceBreakWithContinue", "core/ReplaceContinueWithBreak"), "other"),
    "core/ZeroIterationForLoop": "other",
}
"""cosmic-ray's operator → the kind it is counted as."""


def generic_mutants(path: str, source: str) -> list[Mutant]:
    """All of a module, in the order of its lines."""
    tree = ast.parse(source)
    places, quiet = Places(tree), _quiet(tree)
    found = []
    for name, kind in OPERATORS.items():
        occurrence = 0
        while (mutated := mutate_code(source, get_operator(name)(), occurrence)) is not None:
            occurrence += 1
            line, column, before, after = _difference(source, mutated)
            same = _parsed(mutated)
            if (
                same is None
                or ast.dump(same) == ast.dump(tree)
                or any(one <= (line, column) < end for one, end in quiet)
            ):
                continue
            found.append((line, column, Mutant(path, kind, places.at(line), line, before, after, mutated)))
    return numbered(one for *_, one in sorted(found, key=lambda place: place[:2]))


def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except SyntaxError:  # Such as a `|` of types that became another operator.
        return None


def _difference(source: str, mutated: str) -> tuple[int, int, str, str]:
    """(line, column, the line before, the line after) of the first difference."""
    for number, (old, new) in enumerate(zip(source.splitlines(), mutated.splitlines(), strict=True), 1):
        if old != new:
            first = _alike(old, new)
            rest = _alike(old[first:][::-1], new[first:][::-1])
            indent = len(old) - len(old.lstrip())
            told = [
                around(line.strip(), first - indent, len(line) - rest - indent).replace("[ ", "[")
                for line in (old, new)
            ]
            return number, first, *told
    return 1, 0, "", ""


def _alike(one: str, other: str) -> int:
    """How many characters they begin with together."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


Place = tuple[int, int]


def _quiet(tree: ast.Module) -> list[tuple[Place, Place]]:
    """From where to where nothing is mutated: (line, column) pairs."""
    found = []
    for node in ast.walk(tree):
        parts = [node] if isinstance(node, ast.JoinedStr | ast.Assert) else []
        parts += [getattr(node, "annotation", None), getattr(node, "returns", None)]  # type: ignore[list-item]
        parts += getattr(node, "decorator_list", ())
        for part in parts:
            if isinstance(part, ast.expr | ast.Assert):
                end = (part.end_lineno or part.lineno, part.end_col_offset or 0)
                found.append(((part.lineno, part.col_offset), end))
    return found
