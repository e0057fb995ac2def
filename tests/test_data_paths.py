"""No example, test or benchmark says where market data lies: options, the environment or an ini file do.

Text in a program that leads into a folder of data, or to a place of one machine, is found on its syntax tree.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = [
    path.relative_to(ROOT).as_posix()
    for folder in ("examples", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__)
]
PLACE = re.compile(r"(?:~|/home|/Users|/mnt|/data|[A-Za-z]:\\|\\\\)[/\\\w].*")
FILE = re.compile(
    r"(?!history/|snapshots/|checkpoints/).*[/\\].*\.(?:csv|tsv|txt|parquet|feather|h5|hdf5)", re.IGNORECASE
)
"""A data file in a folder; those of a journal are not market data."""


def data_paths(tree: ast.Module) -> list[str]:
    """What leads to data, in order."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    words = [text for text in texts if not re.search(r"\s", text)]
    return [text for text in words if PLACE.fullmatch(text) or FILE.fullmatch(text)]


@pytest.mark.parametrize(
    "text", ["data/XAUUSD_H1.csv", "/mnt/bars", "~/bars", r"C:\bars\x.csv", "../bars/x.parquet", "/data/x.feather"]
)
def test_a_path_of_data_is_seen(text: str) -> None:
    assert data_paths(ast.parse(f"bars = load({text!r})")) == [text]


@pytest.mark.parametrize(
    "text", ["XAUUSD_H1.csv", "history/0-24.parquet", "segments/00000000.seg", "a/b", "see x/y.csv"]
)
def test_other_text_is_not_taken_for_one(text: str) -> None:
    assert not data_paths(ast.parse(f"bars = load({text!r})"))


@pytest.mark.parametrize("path", PROGRAMS)
def test_no_program_says_where_market_data_lies(path: str) -> None:
    assert not data_paths(ast.parse((ROOT / path).read_text(encoding="utf-8"), path))
