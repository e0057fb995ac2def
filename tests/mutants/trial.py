"""One trial: the chosen tests against one mutant, in a process of its own, forked from one where all is ready.

The first process has imported pytest, numpy, pyarrow and the like, but nothing of this project. From it is forked, for
one module, a *bench*: a pytest that has collected the tests and runs none. For each mutant the bench forks itself; the
fork gives one function of the module its mutated code and runs the tests. Where more than a function's body is mutated
(a constant, a default), a fork of the first process imports the mutated module in place of the real one. So a trial
costs no start of an interpreter and mostly no import, and no file is ever changed.

The time of each test is measured in what it computes, not by the clock: on a busy machine nothing is taken for an
endless loop. A trial that sleeps throughout a quarter of a minute waits for what does not come. A test
that does not end is set aside, in case another one fails; where none does, a computing one gets four times the time.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from tempfile import TemporaryFile
from types import CodeType, FrameType, FunctionType
from typing import IO, Any

ROOT = Path(__file__).parent.parent.parent
WARM = (
    *("pytest", "hypothesis", "numpy", "pandas", "pyarrow.parquet", "pyarrow.compute", "msgpack", "zstandard"),
    *("blake3", "crc32c", "typer", "rich.progress", "rich.table"),
)
MEMORY = 8 << 30
"""Bytes a trial may take: a mutated size must not bring the machine down."""
PATIENCE = (2.0, 5.0)
"""Seconds that a test may compute, and how many times what it takes on the module as it is."""
MORE_PATIENCE = 4
"""So many times that, for the one that did not end when no other test failed."""
SET_ASIDE = 2
"""How many tests may not end before the others are no longer asked."""
SILENCE = 15.0
"""Seconds which the main thread mostly sleeps through, before the trial is called hung, …"""
IDLE = 0.2
"""… and no thread computes for so many seconds."""

KILLED, SURVIVED, TIMED_OUT, HUNG, BROKEN = "killed", "survived", "timed out", "hung", "broken"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`by` is the test that failed first, or did not end; `seconds` is what was computed."""

    status: str
    by: str
    seconds: float


def path_of(module: str) -> str:
    """`journal/cell.py` of `journal.cell`; a package's `__init__.py`."""
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def warm_up() -> None:
    """What every trial needs, imported once."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.dont_write_bytecode = True
    os.chdir(ROOT)
    for name in WARM:
        import_module(name)
    gc.freeze()  # What is ready is not garbage: pytest looks for that five times at the end of each trial.
    from hypothesis import Phase, settings

    # The same examples each time; a mutant's failing example need not be made small, nor be kept for later.
    settings.register_profile(
        "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
    )
    settings.load_profile("mutants")


class Bench:
    """The tests of one module, collected, and what is known of each: how long it takes, which functions it enters.

    All tests run once, on the module as it is, and what they took is noted in the file `notes`: where it is there
    already, it is believed. Raises `RuntimeError` where a test fails.
    """

    def __init__(self, module: str, files: Sequence[str], notes: Path) -> None:
        self.module, self.files = module, tuple(files)
        ask, self._asking = os.pipe()
        self._answers, answer = os.pipe()
        self._sink = TemporaryFile()  # noqa: SIM115
        if not os.fork():
            os.close(self._asking)
            os.close(self._answers)
            _say_into(self._sink)
            server = _Server(module, os.fdopen(ask), answer)
            code = _pytest(self.files, server)
            server.child.end(code, server.selection.failed, server.watch) if server.child else os._exit(0)
        os.close(ask)
        os.close(answer)
        self._heard = os.fdopen(self._answers)
        told = json.loads(notes.read_text()) if notes.exists() else self._ask({"watch": True})
        if told is None or told["status"] != SURVIVED:
            self._sink.seek(0)
            output = self._sink.read().decode(errors="replace")[-4000:]
            raise RuntimeError(f"the tests of {module} do not pass as they are:\n{output}")
        notes.write_text(json.dumps(told))
        self.seconds: dict[str, float] = told["took"]
        self._entered: dict[str, list[int]] = told["entered"]

    def reaching(self, lines: range | None) -> list[str]:
        """The tests that enter a function which begins on one of `lines`; None: all."""
        return [test for test in self.seconds if lines is None or any(at in lines for at in self._entered[test])]

    def trial(self, source: str, chosen: Sequence[str]) -> Outcome:
        """What becomes of one mutant. Timed out or hung: no test fails, and the one named does not end."""
        endless: list[Outcome] = []
        left = list(chosen)
        while left and len(endless) < SET_ASIDE:
            outcome = self._once(source, left)
            if outcome.status not in (TIMED_OUT, HUNG):
                break
            endless.append(outcome)
            left = [test for test in left if test != outcome.by]
        if not endless or outcome.status in (KILLED, BROKEN):
            return outcome
        if endless[0].status == HUNG:
            return endless[0]  # It would be as silent again.
        return self._once(source, [endless[0].by], MORE_PATIENCE) if endless[0].by else endless[0]

    def _once(self, source: str, chosen: Sequence[str], patience: int = 1) -> Outcome:
        limits = {test: patience * (PATIENCE[0] + PATIENCE[1] * self.seconds[test]) for test in chosen}
        told = self._ask({"source": source, "limits": limits})
        if told is None:
            return Outcome(BROKEN, "", 0.0)
        if told["status"] == "whole":
            told = self._imported(source, limits)
        return Outcome(told["status"], told["by"], told["seconds"])

    def close(self) -> None:
        """No more trials."""
        os.close(self._asking)
        self._heard.close()
        self._sink.close()
        os.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        data = json.dumps(request).encode() + b"\n"
        while data:
            data = data[os.write(self._asking, data) :]
        line = self._heard.readline()
        return json.loads(line) if line else None

    def _imported(self, source: str, limits: dict[str, float]) -> dict[str, Any]:
        """A trial whose fork imports everything anew."""
        child = _fork()
        if not child.here:
            return child.outcome()
        path = ROOT / path_of(self.module)
        sys.meta_path.insert(0, _Transplant(self.module, path, compile(source, str(path), "exec", dont_inherit=True)))
        _say_into(self._sink)
        wanted = {test.partition("::")[0] for test in limits}
        selection = _Selection(limits, child)
        # pytest rewrites the asserts of a package that brings a plugin: it would read the module as it is.
        files = ("--assert=plain", *(file for file in self.files if file in wanted))
        code = _pytest(files, selection)
        if code == 3 and not selection.collected:
            code = 2  # This project's plugin, which pytest loads before any test, cannot be imported.
        child.end(code, selection.failed, None)
        raise AssertionError("unreachable")


class _Selection:
    """Of what pytest collected only the chosen tests, in their order, each with its limit; and which one failed."""

    def __init__(self, limits: dict[str, float], child: _Child | None = None) -> None:
        self._limits, self._child = limits, child
        self.failed = ""
        self.collected = False

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        self.collected = True
        places = {test: place for place, test in enumerate(self._limits)}
        items[:] = sorted((one for one in items if one.nodeid in places), key=lambda one: places[one.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._child is not None:
            self._child.begin(nodeid)
        used = math.ceil(time.process_time() + self._limits[nodeid])
        resource.setrlimit(resource.RLIMIT_CPU, (used, resource.RLIM_INFINITY))

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """The first failure is the end: telling where it is takes pytest longer than most tests."""
        if self._child is not None and call.excinfo is not None and call.excinfo.typename != "Skipped":
            self._child.end(1, item.nodeid, None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


class _Server:
    """Within the bench's pytest, once it has collected: forks for each request; only the fork runs tests."""

    def __init__(self, module: str, requests: IO[str], answer: int) -> None:
        self._module, self._requests, self._answer = module, requests, answer
        self.child: _Child | None = None
        self.watch: _Watch | None = None
        self.selection = _Selection({})

    def pytest_runtestloop(self, session: Any) -> bool | None:
        """True: done, and nothing was run. None: pytest itself is to run what is left in `session.items`."""
        path = str(ROOT / path_of(self._module))
        functions, original = _functions_of(path), Path(path).read_text()
        gc.freeze()
        for line in self._requests:
            request = json.loads(line)
            new = _changed_functions(path, original, request["source"]) if "source" in request else {}
            if new is None or not new.keys() <= functions.keys():
                told: dict[str, Any] = {"status": "whole"}
            else:
                child = _fork()
                if child.here:
                    self.child = child
                    for name, code in new.items():
                        for function in functions[name]:
                            function.__code__ = code
                    if "watch" in request:
                        self.watch = _Watch(path)
                        session.config.pluginmanager.register(self.watch)
                    else:
                        self.selection = _Selection(request["limits"], child)
                        session.config.pluginmanager.register(self.selection)
                        self.selection.pytest_collection_modifyitems(session.items)
                    return None
                told = child.outcome()
            os.write(self._answer, json.dumps(told).encode() + b"\n")
        return True


def _functions_of(path: str) -> dict[str, list[FunctionType]]:
    """The functions and methods of one file, by qualified name."""
    found: dict[str, list[FunctionType]] = {}
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename == path:
            found.setdefault(one.__code__.co_qualname, []).append(one)
    return found


def _changed_functions(path: str, original: str, source: str) -> dict[str, CodeType] | None:
    """The functions whose code is another one in the mutated source; None where it is not only functions' code."""
    old, new = (list(_codes(compile(text, path, "exec", dont_inherit=True))) for text in (original, source))
    if [name for name, *_ in old] != [name for name, *_ in new]:
        return None
    named = Counter(name for name, *_ in old)
    changed = {}
    for (_, was, _), (name, code, is_function) in zip(old, new, strict=True):
        if not _same(was, code, deep=is_function):
            if not is_function or was.co_freevars != code.co_freevars or named[name] > 1:
                return None
            changed[name] = code
    return changed or None


def _codes(code: CodeType, is_function: bool = False) -> Iterator[tuple[str, CodeType, bool]]:
    """(name, code, is it a function's?) of a module, its classes and their functions; not of what is inside these.

    What is computed where a module or a class is made is no function; two of the same name are told by their place.
    """
    yield code.co_qualname, code, is_function
    if not is_function:
        for one in code.co_consts:
            if isinstance(one, CodeType):
                # Class bodies set their own name; they are run once, at the import.
                yield from _codes(one, "__qualname__" not in one.co_names[:3])


def _same(one: CodeType, other: CodeType, *, deep: bool) -> bool:
    """Do they the same, wherever they stand? `deep`: and the functions inside them."""
    parts = [
        [part for part in code.co_consts if not isinstance(part, CodeType)] + [code.co_code, code.co_names]
        for code in (one, other)
    ]
    if list(map(repr, parts[0])) != list(map(repr, parts[1])):
        return False
    inside = [[part for part in code.co_consts if isinstance(part, CodeType)] for code in (one, other)]
    return len(inside[0]) == len(inside[1]) and (
        not deep or all(_same(*pair, deep=True) for pair in zip(*inside, strict=True))
    )


class _Transplant(MetaPathFinder):
    """Gives one module the mutated code, and all others what they are."""

    def __init__(self, module: str, path: Path, code: CodeType) -> None:
        self._module, self._path, self._code = module, path, code

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        code = self._code

        class Loader(SourceFileLoader):
            def get_code(self, _name: str) -> CodeType:
                return code

        where = [str(self._path.parent)] if self._path.name == "__init__.py" else None
        loader = Loader(fullname, str(self._path))
        return importlib.util.spec_from_file_location(
            fullname, self._path, loader=loader, submodule_search_locations=where
        )


class _Watch:
    """How long each test takes, and which functions of one file it enters (their first lines)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._now: set[int] = set()
        self.took: dict[str, float] = {}
        self.entered: dict[str, list[int]] = {}

    def _enter(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename == self._path:
            self._now.add(frame.f_code.co_firstlineno)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._now = set()
        self._began = time.process_time()
        threading.setprofile(self._enter)  # Not as a tracer: some tests have one of their own.
        sys.setprofile(self._enter)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.setprofile(None)
        self.took[nodeid] = time.process_time() - self._began
        self.entered[nodeid] = sorted(self._now)


def _pytest(files: Sequence[str], plugin: object) -> int:
    import pytest

    quiet = ("-x", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=short")
    # Plugins that were imported before pytest could rewrite their asserts are none of the tests' business.
    quiet += ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    return int(pytest.main([*files, *quiet], plugins=[plugin]))


def _say_into(sink: IO[bytes]) -> None:
    sys.stdout.flush()
    os.dup2(sink.fileno(), 1)
    os.dup2(sink.fileno(), 2)


@dataclass(slots=True)
class _Child:
    """A forked process, seen from itself (`here`) or from its parent."""

    pid: int
    pipe: int

    @property
    def here(self) -> bool:
        return self.pid == 0

    def begin(self, test: str) -> None:
        """In the child: say which test is next. Where it does not end, that is the last that is heard."""
        os.write(self.pipe, test.encode() + b"\n")

    def end(self, code: int, failed: str, watch: _Watch | None) -> None:
        """In the child: say what came of it, and end."""
        status = {0: SURVIVED, 1: KILLED, 2: KILLED, 4: KILLED}.get(code, BROKEN)  # 4: conftest cannot be imported.
        told = {"status": status, "by": failed or ("its import" if code else "")}
        if watch is not None:
            told |= {"took": watch.took, "entered": watch.entered}
        data = json.dumps(told).encode()
        while data:
            data = data[os.write(self.pipe, data) :]
        os._exit(0)

    def outcome(self) -> dict[str, Any]:
        """In the parent: what came of it, waited for."""
        chunks: list[bytes] = []
        os.set_blocking(self.pipe, False)
        hung = _wait_for(self.pid, lambda: chunks.extend(_there(self.pipe)))
        _, status, used = os.wait4(self.pid, 0)
        chunks += _there(self.pipe)
        os.close(self.pipe)
        seconds = used.ru_utime + used.ru_stime
        *begun, told = b"".join(chunks).split(b"\n")
        if told:
            return {**json.loads(told), "seconds": seconds}
        over = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        by = begun[-1].decode() if begun else ""
        return {"status": HUNG if hung else TIMED_OUT if over else BROKEN, "by": by, "seconds": seconds}


def _fork() -> _Child:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Child(pid, reading)
    os.close(reading)
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    return _Child(0, writing)


def _there(pipe: int) -> list[bytes]:
    """What can be read at once; a pipe holds little, so this is called again and again."""
    chunks = []
    try:
        while chunk := os.read(pipe, 1 << 16):
            chunks.append(chunk)
    except BlockingIOError:
        pass
    return chunks


def _wait_for(pid: int, meanwhile: Callable[[], None]) -> bool:
    """Return when the process has ended; True where it had to be ended because it only waited."""
    since = None
    pause = 0.003
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(pause)
        meanwhile()
        pause = min(0.1, pause * 1.3)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        computed = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        # Who looks again and again for what does not come is mostly asleep, though often in line for a processor.
        awake = sum(map(int, Path(f"/proc/{pid}/schedstat").read_text().split()[:2])) / 1e9
        now = time.monotonic()
        if since is None or computed - since[1] > IDLE:
            since = now, computed, awake
        elif now - since[0] > SILENCE:
            if awake - since[2] < SILENCE / 2:
                os.killpg(pid, signal.SIGKILL)
                return True
            since = now, computed, awake
    return False
