"""How many mutants of the modules that promise do the tests kill?

    make mutants                                        # of all of them
    python tests/mutants/run.py journal.recovery
    python tests/mutants/run.py journal.recovery --kind removed --kind swapped
    python tests/mutants/run.py journal.recovery --only sync_directory
    python tests/mutants/run.py --list journal.chain

What a mutant is: steps.py and generic.py. A survivor must be in explained.txt, under its reason; others are findings
(exit 1), and so is an entry there that no longer applies: no such mutant, or one that is killed. A mutant with which
the tests never end is noticed, as one that makes them fail.

What was noticed is noted in build/mutants/ and not tried again while the module stays as it is, and what is explained
is believed to live, so after a test was added the same command tries only what is left; `--all` tries everything.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Container, Iterable
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mutant import KINDS, Mutant
from steps import step_mutants
from targets import TARGETS
from trial import BROKEN, HUNG, KILLED, ROOT, SURVIVED, TIMED_OUT, Bench, Outcome, path_of, warm_up

NOTES = ROOT / "build" / "mutants"
EXPLAINED = Path(__file__).parent / "explained.txt"
NOTICED = (KILLED, TIMED_OUT, HUNG)
"""Each of them is a suite that does not pass."""


def mutants_of(module: str, kinds: tuple[str, ...] = KINDS, only: str = "") -> list[Mutant]:
    """The mutants of a module, step mutants first: they are worth the most."""
    path = path_of(module)
    source = (ROOT / path).read_text(encoding="utf-8")
    found = [*step_mutants(path, source)]
    if set(kinds) - {"removed", "swapped", "disarmed", "emptied"}:
        from generic import generic_mutants  # Late: only these need cosmic-ray.

        found += generic_mutants(path, source)
    return [one for one in found if one.kind in kinds and only in one.name]


def explained(text: str) -> dict[str, str]:
    """Name of a survivor → why it may live. Raises `ValueError` for a name without a reason, or told twice.

    A reason begins its line; indented below it are the mutants. `#` begins a comment.
    """
    found: dict[str, str] = {}
    reason = ""
    for line in text.splitlines():
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name == line.rstrip():
            reason = name
        elif not reason or name in found:
            raise ValueError(f"{EXPLAINED.name}: {'told twice' if name in found else 'no reason above'}: {name}")
        else:
            found[name] = reason
    return found


def outdated(names: Iterable[str], path: str, found: list[Mutant], outcomes: dict[str, Outcome]) -> list[str]:
    """What is wrong with the entries of one module, whose mutants are `found`: one line each."""
    made = {one.name for one in found}
    entries = [name for name in names if name.partition(" ")[0] == path]
    return [f"no such mutant: {name}" for name in entries if name not in made] + [
        f"{outcomes[name].status}, needs no reason: {name}"
        for name in entries
        if name in outcomes and outcomes[name].status in NOTICED
    ]


def main() -> int:
    """0: every mutant is killed or explained; 1: some are not; 2: the tests fail as they are."""
    arguments = _arguments()
    modules = arguments.modules or list(TARGETS)
    kinds = tuple(arguments.kind or KINDS)
    if arguments.list:
        for module in modules:
            for one in mutants_of(module, kinds, arguments.only):
                print(f"{one.line:4} {one.kind:9} {one.name}")
        return 0
    os.nice(max(0, 10 - os.nice(0)))
    warm_up()
    reasons = explained(EXPLAINED.read_text(encoding="utf-8"))
    findings = 0
    for module in modules:
        found = mutants_of(module, kinds, arguments.only)
        try:
            files = tuple(arguments.tests or TARGETS.get(module, ()))
            listed = () if arguments.all else reasons
            outcomes = _try_all(module, found, files, again=arguments.all, within=arguments.within, listed=listed)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 2
        findings += _report(module, found, outcomes, reasons)
        if kinds == KINDS and not arguments.only:
            wrong = outdated(reasons, path_of(module), found, outcomes)
            findings += len(wrong)
            print(*(f"  {EXPLAINED.name}: {line}" for line in wrong), sep="\n", end="\n" if wrong else "")
    return 1 if findings else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"such as {', '.join(TARGETS)}; all of them")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; may be given again")
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants whose name holds this")
    parser.add_argument("--tests", action="append", metavar="FILE", help="these test files instead of the chosen ones")
    parser.add_argument(
        "--within", type=float, default=math.inf, metavar="SECONDS", help="only tests that take at most so long"
    )
    parser.add_argument("--all", action="store_true", help="also what was killed before")
    parser.add_argument("--list", action="store_true", help="name the mutants and try none")
    return parser.parse_args()


def _try_all(
    module: str, found: list[Mutant], files: tuple[str, ...], *, again: bool, within: float, listed: Container[str]
) -> dict[str, Outcome]:
    source = (ROOT / path_of(module)).read_bytes()
    notes = NOTES / f"{module}-{sha256(source).hexdigest()[:12]}.jsonl"
    notes.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, Outcome] = {}
    if notes.exists() and not again:
        for line in notes.read_text().splitlines():
            told = json.loads(line)
            name = told.pop("name")
            known[name] = Outcome(**told)
    outcomes = {one.name: known[one.name] for one in found if one.name in known and known[one.name].status in NOTICED}
    outcomes |= {
        one.name: Outcome(SURVIVED, "", 0.0) for one in found if one.name in listed and one.name not in outcomes
    }
    left = [one for one in found if one.name not in outcomes]
    if not left:
        return outcomes
    files = tuple(file for file in files if (ROOT / file).exists())
    texts = b"".join((ROOT / file).read_bytes() for file in files)
    bench = Bench(module, files, notes.with_suffix(f".{sha256(texts).hexdigest()[:12]}.json"))
    functions = _functions(source.decode())
    began, kills = time.monotonic(), Counter[str]()
    with notes.open("a") as log:
        for number, one in enumerate(left, 1):
            around = next((lines for lines in functions if one.line in lines), None)
            # What killed others in this function first: most mutants die by few bench.
            reaching = [test for test in bench.reaching(around) if bench.seconds[test] <= within]
            chosen = sorted(reaching, key=lambda test: bench.seconds[test] / (1 + 10 * kills[test]))
            outcome = Outcome(SURVIVED, "", 0.0)
            if chosen:
                outcome = bench.trial(one.source, chosen)
            kills[outcome.by] += outcome.status == KILLED
            outcomes[one.name] = outcome
            print(json.dumps({"name": one.name, **{s: getattr(outcome, s) for s in Outcome.__slots__}}), file=log)
            log.flush()
            if outcome.status != KILLED or sys.stderr.isatty():
                print(f"{number}/{len(left)} {time.monotonic() - began:.0f} s {outcome.status}: {one.line} {one.name}")
                sys.stdout.flush()
    bench.close()
    return outcomes


def _functions(source: str) -> list[range]:
    """The lines of each function or method that is not inside another one; a mutant elsewhere concerns all bench."""
    import ast

    found: list[range] = []
    for node in ast.walk(ast.parse(source)):  # Breadth first: outer ones come first.
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if not any(first in lines for lines in found):
                found.append(range(first, (node.end_lineno or first) + 1))
    return found


def _report(module: str, found: list[Mutant], outcomes: dict[str, Outcome], reasons: dict[str, str]) -> int:
    """Print a line for each kind; returns how many mutants lived without a reason."""
    bad = 0
    for kind in KINDS:
        of_kind = [one for one in found if one.kind == kind]
        if not of_kind:
            continue
        count = Counter(outcomes[one.name].status for one in of_kind)
        living = [one for one in of_kind if outcomes[one.name].status not in NOTICED]
        without = [one for one in living if one.name not in reasons]
        bad += len(without)
        ends = ", ".join(f"{count[status]} {status}" for status in (SURVIVED, TIMED_OUT, HUNG, BROKEN) if count[status])
        print(f"{module} {kind}: {len(of_kind)} made, {count[KILLED]} killed{', ' + ends if ends else ''}")
        for one in without:
            print(f"  {path_of(module)}:{one.line}: {outcomes[one.name].status} without a reason: {one.name}")
    return bad


if __name__ == "__main__":
    sys.exit(main())
