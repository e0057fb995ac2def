"""Step mutants: what is done is left out, done in another order, or done without asking. Mutation tools lack these.

A journal is right because of what happens before what: a sync before a rename, a receipt after its sync, a check before
a change. So, of each statement and expression of a module:

    removed    a call, an assignment to an attribute or an item or anew to a name, a `+=`, a `del`
    swapped    two neighbouring statements that act, unless the second needs a name that the first binds; nor two
               assignments in `__init__`, where nobody else has the object yet
    disarmed   a `raise` left out; an `if` always or never taken; one side of `and`, `or`, `… if … else …`
               left out; a comprehension's `if`, an `except`, a `finally`, a `with` without `as` left out
    emptied    an argument of a checksum, a hash or a promise replaced by the empty value of its type

Left out: docstrings, annotations, decorators, definitions; `assert`, which states what holds and decides nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mutant import Mutant, Places, numbered, short

CHECKING = frozenset(
    {
        *("crc32c", "checksum", "extend", "blake3", "sha256", "update", "genesis", "to_bytes"),
        *("pack_promise", "pack_head", "opened"),
    }
)
"""What these are given is what a checksum, the chain or a promise covers."""
_BLOCKS = ("body", "orelse", "finalbody")
_STAYING = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass, ast.AnnAssign)
_LEAVING = (ast.Return, ast.Raise, ast.Continue, ast.Break)


Make = Callable[[], Callable[[], None]]


class Change(NamedTuple):
    """One thing that can be changed in a tree; `make` changes it, and returns what changes it back."""

    kind: str
    line: int
    before: str
    after: str
    make: Make


def step_mutants(path: str, source: str) -> list[Mutant]:
    """All of a module, in the order of its lines."""
    tree = ast.parse(source)
    places = Places(tree)
    found = []
    for one in list(_changes(tree)):
        undo = one.make()
        text = ast.unparse(ast.fix_missing_locations(tree))
        undo()
        found.append(Mutant(path, one.kind, places.at(one.line), one.line, one.before, one.after, text))
    return numbered(sorted(found, key=lambda mutant: mutant.line))


def _changes(tree: ast.Module) -> Iterator[Change]:
    left_out = _told_only(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
        for field in _BLOCKS:
            block = getattr(node, field, None)
            if isinstance(block, list):
                yield from _of_statements(block, begun=isinstance(node, ast.FunctionDef) and node.name == "__init__")
        if isinstance(node, ast.Try):
            yield from _of_handlers(node)
        yield from _of_expressions(node)
        if isinstance(node, ast.Call) and _last_name(node.func) in CHECKING:
            yield from _of_arguments(node)


def _of_statements(block: list[ast.stmt], *, begun: bool) -> Iterator[Change]:
    """`begun`: it is the block of an object's `__init__`."""
    for at, one in enumerate(block):

        def put(*new: ast.stmt, first: int = at, last: int = at) -> Make:
            return _setting_part(block, first, last, list(new))

        def change(kind: str, before: str, after: str, make: Make, line: int = one.lineno) -> Change:
            return Change(kind, line, short(before), short(after), make)

        text = ast.unparse(one)
        if _acts(one, block[:at]):
            yield change("removed", text, "(left out)", put(ast.Pass()))
        if isinstance(one, ast.Raise):
            yield change("disarmed", text, "(left out)", put(ast.Pass()))
        if isinstance(one, ast.If):
            for value in (True, False):
                asked = f"if {ast.unparse(one.test)}:"
                yield change("disarmed", asked, f"if {value}:", _setting(one, "test", ast.Constant(value)))
        if isinstance(one, ast.While) and not isinstance(one.test, ast.Constant):
            asked = f"while {ast.unparse(one.test)}:"
            yield change("disarmed", asked, "while False:", _setting(one, "test", ast.Constant(False)))
        if isinstance(one, ast.With) and all(item.optional_vars is None for item in one.items):
            yield change("disarmed", text, "(its block only)", put(*one.body))
        pair = [one, block[at - 1]]
        assigned = begun and all(isinstance(each, ast.Assign | ast.AnnAssign) for each in pair)
        if at and not assigned and _swappable(block[at - 1], one):
            yield change("swapped", ast.unparse(pair[1]), f"after {text}", put(*pair, first=at - 1), pair[1].lineno)


def _of_handlers(one: ast.Try) -> Iterator[Change]:
    for handler in one.handlers:
        # Raised again at once: as if it had not been caught.
        named = f"except {ast.unparse(handler.type) if handler.type else ''}:"
        make = _setting(handler, "body", [ast.Raise()])
        yield Change("disarmed", handler.lineno, short(named), "(not caught)", make)
    if one.finalbody:
        text = f"finally: {ast.unparse(one.finalbody[0])}"
        yield Change(
            "disarmed",
            one.finalbody[0].lineno,
            short(text),
            "(left out)",
            _setting(one, "finalbody", [ast.Pass()]),
        )


def _of_expressions(parent: ast.AST) -> Iterator[Change]:
    for field, value in ast.iter_fields(parent):
        for at, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            instead: list[ast.expr] = []
            if isinstance(child, ast.IfExp):
                instead = [child.body, child.orelse]
            elif isinstance(child, ast.BoolOp):
                rests = [[*child.values[:n], *child.values[n + 1 :]] for n in range(len(child.values))]
                instead = [rest[0] if len(rest) == 1 else ast.BoolOp(child.op, rest) for rest in rests]
            elif isinstance(parent, ast.comprehension) and field == "ifs":
                instead = [ast.Constant(True)]
            for new in instead:
                make = _setting(parent, field, new) if at is None else _setting_item(value, at, new)
                yield Change("disarmed", child.lineno, short(child), short(new), make)


def _of_arguments(call: ast.Call) -> Iterator[Change]:
    places: list[tuple[str, ast.expr, Callable[[ast.expr], Make]]] = [
        (str(at + 1), value, lambda new, at=at: _setting_item(call.args, at, new)) for at, value in enumerate(call.args)
    ]
    places += [(one.arg or "", one.value, lambda new, one=one: _setting(one, "value", new)) for one in call.keywords]
    for name, value, setting in places:
        if isinstance(value, ast.Starred):
            continue
        # Of its own type, so that nothing but the value is wrong; a memoryview has no empty one.
        text = f"(lambda it: b'' if isinstance(it, memoryview) else type(it)())({ast.unparse(value)})"
        empty = ast.parse(text, mode="eval").body
        yield Change("emptied", value.lineno, short(call), f"argument {name} empty", setting(empty))


def _setting(node: ast.AST, name: str, value: object) -> Make:
    def make() -> Callable[[], None]:
        old = getattr(node, name)
        setattr(node, name, value)
        return lambda: setattr(node, name, old)

    return make


def _setting_item(values: list[ast.expr], at: int, new: ast.expr) -> Make:
    return _setting_part(values, at, at, [new])


def _setting_part(values: list[Any], first: int, last: int, new: list[Any]) -> Make:
    """In the place of the items from `first` to `last`."""

    def make() -> Callable[[], None]:
        old = values[:]
        values[first : last + 1] = new
        return lambda: values.__setitem__(slice(None), old)

    return make


def _acts(one: ast.stmt, earlier: list[ast.stmt]) -> bool:
    """Does this statement change something, rather than only give it a name?"""
    if isinstance(one, ast.Expr):
        return isinstance(one.value, ast.Call)
    if isinstance(one, ast.AnnAssign):
        return one.value is not None and _changed(one.target)
    if isinstance(one, ast.Assign):
        bound = _loaded(one).union(*map(_stored, earlier))
        return any(_changed(target) or _stored(target) & bound for target in one.targets)
    return isinstance(one, ast.AugAssign | ast.Delete)


def _swappable(first: ast.stmt, second: ast.stmt) -> bool:
    if isinstance(first, (*_STAYING, *_LEAVING)) or isinstance(second, (*_STAYING, *_LEAVING)):
        return False
    return _does(first) and _does(second) and not _stored(first) & _loaded(second)


def _does(one: ast.stmt) -> bool:
    """Is there a call in it, or does it change an attribute, an item or a count?"""
    return (
        isinstance(one, ast.AugAssign)
        or (isinstance(one, ast.Assign) and any(map(_changed, one.targets)))
        or any(isinstance(node, ast.Call) for node in ast.walk(one))
    )


def _changed(target: ast.expr) -> bool:
    """Is it an attribute or an item (or a pair that holds one), rather than a name?"""
    return any(isinstance(node, ast.Attribute | ast.Subscript) for node in ast.walk(target))


def _stored(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}


def _loaded(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _told_only(tree: ast.Module) -> set[ast.AST]:
    """Everything in annotations, decorators and assertions."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        parts = [node] if isinstance(node, ast.Assert) else []
        parts += [getattr(node, name, None) for name in ("annotation", "returns")]
        for part in [*parts, *getattr(node, "decorator_list", ())]:
            if isinstance(part, ast.AST):
                found |= set(ast.walk(part))
    return found
