"""The repository polices itself: who may import whom, the one door to the disk, nothing that executes what it reads.

All rules are checked on the syntax trees, so a lazy import or a write in a branch that no test enters counts as well. A
rule that finds nothing may be broken, so each is shown here to find what it looks for.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("journal", "replay", "agents_adapter")
"""Lowest layer first: each may import only those before it."""
SOURCE_FOLDERS = (*PACKAGES, "examples", "benchmarks")
LINES_MAX = 450
DEMO_BARS = "gym_anytrading"
"""Not a framework that is adapted but where the demo's bars come from: only `demo` may import it."""

STREAM_NAMES = {"stream", "sink", "buffer", "stdout"}
"""What a file object is called that `journal.storage.replacing` gave, or that is no file on disk."""

EXEMPT = {
    "benchmarks/peers/arrow_ipc.py": {"os.fdatasync"},
    "benchmarks/peers/json_lines.py": {"os.fdatasync"},
    "benchmarks/peers/msgpack_write.py": {"os.fdatasync", "os.write"},
}
"""Peers of the benchmarks that write by hand, as their users do; their files, too, are made by `DiskStorage`."""

DOOR = "journal/storage/"


def files(*folders: str) -> list[str]:
    """All Python files below the folders, as paths relative to the repository."""
    return [path.relative_to(ROOT).as_posix() for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


SOURCES = files(*SOURCE_FOLDERS)
PACKAGE_FILES = files(*PACKAGES)
ALL_FILES = files(*SOURCE_FOLDERS, "tests")


def tree_of(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


def dotted(node: ast.expr) -> str:
    """`a.b.c` for names and attributes; what is not a name is left out, as in `().open` → `.open`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def argument(call: ast.Call, place: int, *names: str) -> ast.expr | None:
    """A call's argument by place or by name."""
    for keyword in call.keywords:
        if keyword.arg in names:
            return keyword.value
    return call.args[place] if place < len(call.args) else None


# -- imports -----------------------------------------------------------------------------------------------------------


def imported(tree: ast.AST, path: str = "") -> set[str]:
    """The modules that are imported anywhere in the file, also inside functions and by `import_module("name")`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = path.split("/")[: -node.level] if node.level else []
            module = ".".join([*here, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
        elif isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in ("import_module", "__import__"):
            name = argument(node, 0, "name")
            assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: import by a name that cannot be checked"
            found.add(str(name.value))
    return found


def tops(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def distributions() -> dict[str, str]:
    """Each core dependency, and why it is there: the comment on its line in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text[text.index("\ndependencies = [") :]
    lines = block[: block.index("\n]")].splitlines()[2:]
    matches = [re.fullmatch(r'\s*"([\w-]+)[^"]*",\s*(?:# (.+))?', line) for line in lines]
    return {match[1]: match[2] or "" for match in matches if match}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import replay.scan", {"replay.scan"}),
        ("def f():\n    from agents_adapter import Plan", {"agents_adapter", "agents_adapter.Plan"}),
        ("from ..replay import scan", {"replay", "replay.scan"}),
        ("import_module('replay.cli')", {"replay.cli"}),
        ("importlib.import_module(name='torch')", {"torch"}),
    ],
)
def test_imports_are_seen(source: str, found: set[str]) -> None:
    assert imported(ast.parse(source), "journal/storage.py") == found


@pytest.mark.parametrize("path", PACKAGE_FILES)
def test_imports_go_one_way(path: str) -> None:
    layer = PACKAGES.index(path.partition("/")[0])
    above = {*PACKAGES[layer + 1 :], "examples", "benchmarks", "tests"}
    assert not tops(imported(tree_of(path), path)) & above, f"{path} imports a layer above it"


@pytest.mark.parametrize("path", PACKAGE_FILES)
def test_a_framework_is_imported_in_its_own_file_only(path: str) -> None:
    known = set(sys.stdlib_module_names) | set(PACKAGES) | set(distributions())
    parts = path.removesuffix(".py").split("/")
    own = {parts[-1]} if parts[0] == "agents_adapter" else set()
    own |= {DEMO_BARS} if "demo" in parts else set()
    assert not tops(imported(tree_of(path), path)) - known - own, f"{path} imports what is not a core dependency"


def test_the_log_knows_no_tables_and_no_command_line() -> None:
    for path in files("journal"):
        assert not tops(imported(tree_of(path), path)) & {"pandas", "pyarrow", "typer", "rich"}, path


def test_each_core_dependency_is_used_and_says_why() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert len(distributions()) == len(declared) > 0
    used = set[str]().union(*(tops(imported(tree_of(path), path)) for path in PACKAGE_FILES))
    for name, reason in distributions().items():
        assert name in used, f"{name} is declared and never imported"
        assert reason, f"{name} has no comment that says why it is needed"


# -- the one door to the operating system ------------------------------------------------------------------------------

OS_WRITES = {
    *(
        "write",
        "writev",
        "pwrite",
        "pwritev",
        "sendfile",
        "copy_file_range",
        "truncate",
        "ftruncate",
        "posix_fallocate",
    ),
    *("fsync", "fdatasync", "rename", "renames", "replace", "remove", "unlink", "link", "symlink", "mknod", "mkfifo"),
    *("fdopen", "O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"),
}
MODULE_WRITES = {
    "shutil": {"copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "make_archive", "unpack_archive"},
    "tempfile": {"NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "mkstemp"},
    "np": {"save", "savez", "savez_compressed", "savetxt"},
    "numpy": {"save", "savez", "savez_compressed", "savetxt"},
    "pa": {"OSFile", "memory_map", "create_memory_map", "output_stream"},
    "pyarrow": {"OSFile", "memory_map", "create_memory_map", "output_stream"},
    "torch": {"save"},
}
OPENERS = {"open", "FileIO", "GzipFile", "ZipFile", "TarFile", "BZ2File", "LZMAFile"}
PATH_WRITES = {
    "write_text",
    "write_bytes",
    "touch",
    "unlink",
    "hardlink_to",
    "symlink_to",
    "tofile",
    "memmap",
    "open_memmap",
}
TABLE_WRITES = {
    **dict.fromkeys(("write_table", "write_feather", "write_csv"), (1, ("where", "dest", "output_file"))),
    **dict.fromkeys(("ParquetWriter", "CSVWriter", "new_file", "new_stream"), (0, ("where", "sink"))),
    **dict.fromkeys(("to_parquet", "to_csv", "to_json", "to_feather", "to_excel", "to_hdf", "to_html"), (0, ())),
}
"""Functions that write a table, and where in their arguments the target stands."""


def writes(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, what) of everything that may open a file for writing or change a name in a directory."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [(node.lineno, name) for name in _imported_writes(node)]
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            module, _, attribute = name.rpartition(".")
            if (module in ("os", "posix") and attribute in OS_WRITES) or attribute in MODULE_WRITES.get(module, ()):
                found.append((node.lineno, name))
    found += [(call.lineno, name) for call, name in calls(tree) if _opens(call, name) or _writes_to_a_path(call, name)]
    return sorted(set(found))


def _imported_writes(node: ast.Import | ast.ImportFrom) -> set[str]:
    """`from os import rename` is the same as `os.rename`; locks and maps are the storage's altogether."""
    if isinstance(node, ast.Import):
        # Under another name the rules above would not see them.
        renamed = {a.name for a in node.names if a.name in ("os", "shutil", "tempfile") and a.asname}
        return renamed | {a.name for a in node.names if a.name in ("fcntl", "mmap", "posix")}
    if node.module in ("fcntl", "mmap", "posix"):
        return {node.module}
    banned = OS_WRITES | {"open"} if node.module == "os" else MODULE_WRITES.get(node.module or "", set())
    return {f"{node.module}.{alias.name}" for alias in node.names if alias.name in banned}


def _opens(call: ast.Call, name: str) -> bool:
    """`open(path, "w")`, `path.open("ab")`, `gzip.open(path, mode)`: any mode but a literal one that only reads."""
    if name.rpartition(".")[2] not in OPENERS or name in ("os.open", "journal.open"):
        return False
    is_function = "." not in name or name.partition(".")[0] in (
        "io",
        "codecs",
        "gzip",
        "bz2",
        "lzma",
        "zipfile",
        "tarfile",
    )
    mode = argument(call, 1 if is_function else 0, "mode")
    if isinstance(mode, ast.Constant) and isinstance(mode.value, str):
        return bool(re.fullmatch(r"[rwaxbtU+]+", mode.value)) and bool(set(mode.value) & set("wax+"))
    return is_function and mode is not None


def _writes_to_a_path(call: ast.Call, name: str) -> bool:
    _, dot, method = name.rpartition(".")
    if method in TABLE_WRITES:
        target = argument(
            call, TABLE_WRITES[method][0], *TABLE_WRITES[method][1], "path", "path_or_buf", "excel_writer"
        )
        return target is not None and dotted(target).rpartition(".")[2] not in STREAM_NAMES
    if method in PATH_WRITES:
        return True
    # `Path.rename` and `Path.replace` take one path; `str.replace` and `Storage.rename` take two arguments.
    return bool(dot) and method in ("rename", "replace") and len(call.args) == 1 and not call.keywords


@pytest.mark.parametrize(
    "source",
    [
        'open("f", "w")',
        'open("f", mode="xb")',
        'open("f", "r+b")',
        "open(f, mode)",
        'Path("f").open("a")',
        'path.open(mode="w")',
        'gzip.open("f", "wb")',
        'io.FileIO(fd, "w")',
        'zipfile.ZipFile("f", "a")',
        'os.open("f", os.O_WRONLY)',
        'os.open("f", os.O_RDWR)',
        "move = os.replace",
        "from os import replace",
        "from os import open",
        "import os as system",
        "import fcntl",
        "from mmap import mmap",
        'path.write_text("x")',
        '(root / "f").write_bytes(b"")',
        "path.rename(target)",
        "path.replace(target)",
        "path.unlink()",
        'np.save("f", x)',
        "numpy.savez(f, x)",
        "np.memmap(f)",
        "from numpy import memmap; memmap(f)",
        'x.tofile("f")',
        'torch.save(x, "f")',
        'frame.to_parquet("f")',
        "frame.to_csv(path_or_buf=path)",
        "pq.write_table(table, path)",
        'pq.write_table(table, where="f")',
        "pq.ParquetWriter(path, schema)",
        'pa.OSFile("f", "w")',
        "shutil.copyfile(a, b)",
        "tempfile.NamedTemporaryFile()",
    ],
)
def test_a_write_is_seen(source: str) -> None:
    assert writes(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        'open("f")',
        'open("f", "rb")',
        'Path("f").open()',
        'Path("f").open("rb")',
        'journal.open("runs/fx", sync="group")',
        'storage.open("segments/00000000.seg")',
        'os.open("f", os.O_RDONLY)',
        "os.path.join(a, b)",
        'replace(storage, "journal.json", data)',
        'text.replace("a", "b")',
        "storage.rename(a, b)",
        "frame.rename(columns=names)",
        "frame.to_csv()",
        "frame.to_parquet(stream)",
        "pq.write_table(table, stream)",
        "pq.ParquetWriter(self.stream, schema)",
        "type(x) is np.memmap",
        "print(x, file=sys.stdout)",
    ],
)
def test_reading_and_writing_to_a_stream_is_not_taken_for_a_write(source: str) -> None:
    assert not writes(ast.parse(source))


@pytest.mark.parametrize("path", [path for path in SOURCES if not path.startswith(DOOR)])
def test_only_storage_opens_files_for_writing(path: str) -> None:
    found = [f"{path}:{line}: {what}" for line, what in writes(tree_of(path)) if what not in EXEMPT.get(path, ())]
    assert not found, f"{found}: use journal.storage.replace, or replacing(...) and call what it gives `stream`"


def test_every_exemption_is_needed() -> None:
    for path, names in EXEMPT.items():
        assert names == {what for _, what in writes(tree_of(path))}


def test_the_door_itself_is_found_to_write() -> None:
    assert writes(tree_of("journal/storage/disk.py"))


# -- nothing that is read is executed ----------------------------------------------------------------------------------

EXECUTING_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "code",
    "runpy",
}
EXECUTING_CALLS = {"eval", "exec", "compile", "__import__", "read_pickle", "to_pickle"}


def executions(tree: ast.Module) -> set[str]:
    """Whatever could run what is read: pickle and its relatives, eval, exec, and loaders that unpickle."""
    found = tops(imported(tree)) & EXECUTING_MODULES
    for call, name in calls(tree):
        method = name.rpartition(".")[2]
        if name in EXECUTING_CALLS or method in ("read_pickle", "to_pickle"):
            found.add(name)
        allowing = argument(call, len(call.args), "allow_pickle")
        if allowing is not None and not (isinstance(allowing, ast.Constant) and allowing.value is False):
            found.add(f"{name}(allow_pickle=…)")
        safe = argument(call, len(call.args), "weights_only")
        if name == "torch.load" and not (isinstance(safe, ast.Constant) and safe.value is True):
            found.add("torch.load without weights_only=True")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from marshal import loads",
        "import_module('dill')",
        "eval(x)",
        "exec(x)",
        "compile(x, 'f', 'exec')",
        "pd.read_pickle(f)",
        "frame.to_pickle(f)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=option)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
    ],
)
def test_an_execution_is_seen(source: str) -> None:
    assert executions(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    ["model.eval()", "re.compile('a')", "np.load(f, allow_pickle=False)", "torch.load(f, weights_only=True)"],
)
def test_what_only_sounds_like_one_is_not_taken_for_an_execution(source: str) -> None:
    assert not executions(ast.parse(source))


@pytest.mark.parametrize("path", SOURCES)
def test_nothing_that_is_read_is_executed(path: str) -> None:
    assert not executions(tree_of(path)), path


# -- files one can find and read ---------------------------------------------------------------------------------------

VAGUE = re.compile(r"(.*_)?(utils?|utilities|helpers?|common|misc|managers?|stuff)(_.*)?")
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(tmp|wor[k]|root|home|Users)/[A-Za-z]")
"""A path of one machine. In brackets, so that the pattern is not one itself."""


def test_a_vague_name_is_seen() -> None:
    assert all(map(VAGUE.fullmatch, ("utils", "io_utils", "helpers", "common", "misc", "checkpoint_manager")))
    assert not any(map(VAGUE.fullmatch, ("commit", "scan", "management", "storage", "miscount")))


@pytest.mark.parametrize("path", ALL_FILES)
def test_a_file_is_one_idea_told_in_its_first_lines(path: str) -> None:
    parts = path.removesuffix(".py").split("/")
    assert not [part for part in parts if VAGUE.fullmatch(part)], "a name that does not say what is in it"
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count("\n") <= LINES_MAX, f"{path}: which second idea has moved in?"
    assert (ast.get_docstring(ast.parse(text)) or "").strip(), f"{path} has no docstring"


def test_no_file_names_a_path_of_one_machine() -> None:
    assert all(MACHINE_PATH.search(f'open("/{folder}/x")') for folder in ("tmp", "work", "root", "home", "Users"))
    assert not MACHINE_PATH.search("https://example.org/work/x and docs/home/x")
    names = (".py", ".md", ".toml", ".sh", ".json", ".yml")
    folders = [ROOT / folder for folder in (*SOURCE_FOLDERS, "tests", "docs", ".ci")]
    paths = [path for path in ROOT.iterdir() if path.is_file()] + [
        p for f in folders for p in f.rglob("*") if p.is_file()
    ]
    told = [path for path in paths if path.suffix in names or path.name in ("Makefile", "run")]
    assert len(told) > len(ALL_FILES)
    for path in told:
        found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(ROOT)} names a path of one machine: {found}"


def test_no_test_folder_is_a_package() -> None:
    """A tests/journal/__init__.py could be taken for the package `journal`."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
