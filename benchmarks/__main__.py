"""The benchmarks: ask all questions, or those that are named.

    python -m benchmarks [QUESTION …] [--quick] [--save] [--json] [--directory DIR]
    python -m benchmarks --draw          tables and charts anew, from the results that are there

`--save` (`make bench`) writes results/DATE.json, and makes the tables of README.md and the charts from the newest
answer to each question. Without it, what was found is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import charts, tables
from benchmarks.question import FULL, QUICK, say
from benchmarks.suite import BY_NAME_ONLY, QUESTIONS, RESULTS, ask, asks, newest, save
from journal.storage import replace
from journal.storage.disk import DiskStorage

HERE: Final = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all is answered; 1: a question could not be."""
    listed = "".join(f"\n  {name:15} {asks(name)}" for name in QUESTIONS)
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=f"Questions:{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="by name (all)")
    parser.add_argument("--quick", action="store_true", help="only to see that it runs: the figures say nothing")
    parser.add_argument("--save", action="store_true", help="write results, tables and charts")
    parser.add_argument("--json", action="store_true", help="one document instead of tables")
    parser.add_argument("--directory", default=".", help="where to write: its file system is what is measured (here)")
    parser.add_argument("--draw", action="store_true", help="ask nothing: make tables and charts anew")
    options = parser.parse_args(arguments)
    wrong = [name for name in options.questions if name not in QUESTIONS]
    if wrong:
        parser.error(f"no question {wrong[0]!r}; there are {', '.join(QUESTIONS)}")
    if options.save and options.quick:
        parser.error("the figures of --quick are not worth --save")
    if options.draw:
        draw(RESULTS, HERE)
        return 0
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=options.directory) as directory:
        asked = options.questions or [name for name in QUESTIONS if name not in BY_NAME_ONLY]
        document = ask(asked, directory, QUICK if options.quick else FULL)
    if options.save:
        say(f"saved: {save(document)}")
        draw(RESULTS, HERE)
    elif options.json:
        print(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        for name, answer in document["questions"].items():
            print(f"\n## {answer['asks']}\n\n{tables.figures(name, document['questions'])}")
    return int(any("error" in answer for answer in document["questions"].values()))


def draw(results: Path, target: Path) -> None:
    """The tables of `target`/README.md, and the charts beside it."""
    found = newest(results)
    storage = DiskStorage(target)
    readme = tables.fill((target / "README.md").read_text(encoding="utf-8"), found)
    replace(storage, "README.md", readme.encode())
    storage.make_directory("charts")
    for name, data in charts.drawn(found):
        replace(storage, f"charts/{name}.svg", data)


if __name__ == "__main__":
    sys.exit(main())
