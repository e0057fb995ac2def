"""The checkpoint store: whatever stops a save, the log names only whole files, and the one a resume needs stays."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import journal
from agents_adapter.checkpoint import CheckpointStore
from journal.errors import DiskFull, EventRejected, JournalFailed, ResumeImpossible
from journal.storage.disk import DiskStorage


@pytest.fixture
def log(tmp_path: Path) -> Any:
    with journal.open(tmp_path / "runs") as log:
        yield log


def files(log: journal.Log) -> list[str]:
    return log.storage.list("checkpoints")


class Recording:
    """A storage that writes down what is done through it, and can fail at one call."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.calls: list[str] = []
        self.fail: dict[str, BaseException] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        if not callable(method):
            return method

        def call(*args: Any, **more: Any) -> Any:
            self.calls.append(name)
            if name in self.fail:
                raise self.fail[name]
            return method(*args, **more)

        return call


def test_what_was_saved_is_loaded(log: journal.Log) -> None:
    store = CheckpointStore(log.storage)
    content = {"state": {"w": np.arange(3.0)}, "vars": {"eps": 0.1}}
    saved = store.save(log, "PPO", 4, content, members=["A", "B"])
    assert log.promised.seq >= saved.seq
    data = log.storage.read(saved.path)
    assert hashlib.sha256(data).hexdigest() == saved.sha256 and len(data) == saved.size
    back = store.load(saved.path, saved.sha256)
    assert back["vars"] == {"eps": 0.1} and back["state"]["w"].tolist() == [0, 1, 2]


def test_the_file_is_durable_before_its_event_and_removals_come_after_the_promise(log: journal.Log) -> None:
    storage = Recording(log.storage)
    done = storage.calls

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        def append(self, event: Any) -> int:
            done.append("event")
            return log.append(event)

        def sync(self) -> Any:
            receipt = log.sync()
            done.append("promise")
            return receipt

    store = CheckpointStore(storage, keep=1)
    watched: Any = Watched()
    store.save(watched, "PPO", 0, {})
    done.clear()
    store.save(watched, "PPO", 1, {})
    assert done == ["make_directory", "stream", "rename", "sync_directory", "event", "promise", "remove"]


def test_the_newest_keep_files_of_each_agent_stay(log: journal.Log) -> None:
    store = CheckpointStore(log.storage, keep=2)
    saves = {name: [store.save(log, name, n, {"n": n}) for n in range(4)] for name in ("PPO", "SAC")}
    assert sorted(files(log)) == sorted(s.path.partition("/")[2] for all_ in saves.values() for s in all_[-2:])
    for one in saves.values():
        assert [s.retired for s in one] == [(), (), (one[0].path,), (one[1].path,)]
        assert store.load(one[-2].path, one[-2].sha256) == {"n": 2}


def test_three_stay_where_nothing_is_said(log: journal.Log) -> None:
    """What the docs say a run keeps; a user's disk is planned by it."""
    store = CheckpointStore(log.storage)
    for n in range(5):
        store.save(log, "PPO", n, n)
    assert len(files(log)) == 3


@pytest.mark.parametrize(
    "path", ["segments/00000000.seg", "journal.json", "../x", "/x", "checkpoints/../journal.json", ""]
)
def test_what_is_no_checkpoint_is_not_retired_whatever_an_event_says(log: journal.Log, path: str) -> None:
    """An event that named a segment as its checkpoint had the training that resumed from it remove that segment."""
    outside = Path(log.storage.name).parent / "x"  # type: ignore[attr-defined]
    outside.write_text("mine")
    store = CheckpointStore(log.storage, keep=1)
    old = store.save(log, "PPO", 0, "old")
    store.adopt("PPO", [path, old.path])
    assert store.save(log, "PPO", 1, "new").retired == (old.path,)
    assert log.storage.exists("segments/00000000.seg") and log.storage.exists("journal.json") and outside.exists()


def test_only_what_was_adopted_is_retired(log: journal.Log) -> None:
    first = CheckpointStore(log.storage)
    old = [first.save(log, "PPO", n, n) for n in range(3)]
    stranger = first.save(log, "SAC", 0, 0)
    store = CheckpointStore(log.storage, keep=2)
    store.adopt("PPO", [s.path for s in old])
    new = store.save(log, "PPO", 3, 3)
    assert new.retired == (old[0].path, old[1].path)
    assert {f"checkpoints/{f}" for f in files(log)} == {old[2].path, new.path, stranger.path}


def test_a_promise_that_fails_removes_nothing(log: journal.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(log.storage, keep=1)
    old = store.save(log, "PPO", 0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(log, "sync", lambda: (_ for _ in ()).throw(JournalFailed("no sync")))
        with pytest.raises(JournalFailed):
            store.save(log, "PPO", 1, 1)
    assert len(files(log)) == 2
    assert store.load(old.path, old.sha256) == 0
    store.save(log, "PPO", 2, 2)
    assert len(files(log)) == 1


@pytest.mark.parametrize(
    "agent", ["PPO", "ä" * 200, "x" * 200, "..", "a b:c*?", ".hidden", "-rf", "PPO#1", "名前", "CON", "a'\"`$(x)"]
)
def test_any_legal_name_gives_a_safe_file(log: journal.Log, agent: str) -> None:
    if agent == "..":
        with pytest.raises(EventRejected):
            CheckpointStore(log.storage).save(log, agent, 0, {})
        return
    saved = CheckpointStore(log.storage).save(log, agent, 0, {"a": 1})
    name = saved.path.removeprefix("checkpoints/")
    assert name.isascii() and len(name) < 120 and name[0] not in ".-" and not set(name) & set("/\\: *?'\"`$")
    assert CheckpointStore(log.storage).load(saved.path, saved.sha256) == {"a": 1}


def test_a_name_that_is_none_or_a_content_that_cannot_be_saved_leaves_nothing(log: journal.Log) -> None:
    store = CheckpointStore(log.storage)
    seq = log.sync().seq
    for agent, content in (("", {}), ("a/b", {}), ("PPO", {"state": {"f": print}})):
        with pytest.raises(EventRejected):
            store.save(log, agent, 0, content)
    with pytest.raises(EventRejected, match=r"^state\['f'\] is"):
        store.save(log, "PPO", 0, {"state": {"f": print}})
    assert files(log) == [] and log.sync().seq == seq


@pytest.mark.parametrize("step", ["make_directory", "stream", "rename", "sync_directory"])
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (OSError(errno.ENOSPC, "No space left"), DiskFull),
        (OSError(errno.EDQUOT, "Quota"), DiskFull),
        (OSError(errno.EIO, "I/O error"), JournalFailed),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_save_that_fails_or_is_interrupted_leaves_no_event_and_no_file(
    log: journal.Log, step: str, failure: BaseException, error: type[BaseException]
) -> None:
    storage = Recording(log.storage)
    store = CheckpointStore(storage, keep=1)
    old = store.save(log, "PPO", 0, "old")
    seq = log.sync().seq
    storage.fail = {step: failure}
    with pytest.raises(error):
        store.save(log, "PPO", 1, "new")
    storage.fail = {}
    assert files(log) == [old.path.removeprefix("checkpoints/")]
    assert log.sync().seq == seq
    assert store.load(old.path, old.sha256) == "old"
    assert store.save(log, "PPO", 1, "new").retired == (old.path,), "the file that failed is not counted"


def test_a_really_full_disk(log: journal.Log, tmp_path: Path) -> None:
    """A write that fails in its middle: /dev/full gives the error a full disk gives."""

    class Full(DiskStorage):
        def stream(self, path: str) -> Any:
            super().stream(path).close()
            return open("/dev/full", "wb")

    store = CheckpointStore(Full(tmp_path / "runs"))
    with pytest.raises(DiskFull, match="free some space"):
        store.save(log, "PPO", 0, np.random.default_rng(0).bytes(1 << 20))
    assert files(log) == []


@pytest.mark.parametrize("counted", [False, True])
def test_an_interrupted_append_keeps_the_file_only_if_its_event_is_there(
    log: journal.Log, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = log.append

    def interrupted(event: Any) -> int:
        if counted:
            append(event)
        raise KeyboardInterrupt

    log.agent("PPO")
    with monkeypatch.context() as patch:
        patch.setattr(log, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            CheckpointStore(log.storage).save(log, "PPO", 0, {})
    assert len(files(log)) == counted


def test_the_event_says_what_was_saved_whose_it_is_and_what_goes(
    log: journal.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, append, told = CheckpointStore(log.storage, keep=1), log.append, list[Any]()
    monkeypatch.setattr(log, "append", lambda event: (told.append(event), append(event))[1])
    saves = [store.save(log, "team", 4, {}), store.save(log, "team", 5, {}, members=["A", "B"])]
    assert [(e.agent, e.episode, e.path, e.sha256, e.size, e.members, e.retired) for e in told] == [
        ("team", 4, saves[0].path, saves[0].sha256, saves[0].size, None, None),
        ("team", 5, saves[1].path, saves[1].sha256, saves[1].size, ["A", "B"], [saves[0].path]),
    ]
    assert [one.seq for one in saves] == [1, 2]


def test_what_no_event_names_is_swept(log: journal.Log) -> None:
    store = CheckpointStore(log.storage)
    named, unnamed = (store.save(log, name, 0, {}) for name in ("PPO", "SAC"))
    log.storage.create("checkpoints/notes.txt").close()
    store.sweep({named.path})
    assert files(log) == sorted([named.path.partition("/")[2], "notes.txt"])
    assert unnamed.path not in files(log)


def test_a_file_that_cannot_be_removed_fails_no_save(log: journal.Log) -> None:
    storage = Recording(log.storage)
    store = CheckpointStore(storage, keep=1)
    store.save(log, "PPO", 0, 0)
    storage.fail = {"remove": OSError(errno.EACCES, "Permission denied")}
    saved = store.save(log, "PPO", 1, 1)
    assert store.load(saved.path, saved.sha256) == 1 and len(saved.retired) == 1
    storage.fail = {}
    store.save(log, "PPO", 2, 2)
    assert len(files(log)) == 2, "it is tried once: the next attempt's sweep takes what is left"


def test_two_agents_that_save_at_once_leave_no_retired_file_behind(log: journal.Log) -> None:
    """While one removes what it retired, the other retires: nothing may be taken from the list that was not removed."""
    storage = Recording(log.storage)
    store = CheckpointStore(storage, keep=1)
    for agent in ("PPO", "SAC"):
        store.save(log, agent, 0, 0)
    other = Thread(target=lambda: store.save(log, "SAC", 1, 1))
    remove = log.storage.remove

    def removing(path: str) -> None:
        if other.ident is None:
            other.start()
            other.join(0.3)  # It waits for this removal: nobody else may be there now.
        remove(path)

    storage.remove = removing  # type: ignore[attr-defined]
    store.save(log, "PPO", 1, 1)
    other.join()
    assert len(files(log)) == 2 and store._to_remove == []


# -- loading -----------------------------------------------------------------------------------------------------------


def test_an_altered_cut_or_missing_checkpoint_is_told(log: journal.Log, tmp_path: Path) -> None:
    store = CheckpointStore(log.storage)
    saved = store.save(log, "PPO", 0, {"w": list(range(20))})
    file = tmp_path / "runs" / saved.path
    data = file.read_bytes()
    for bad in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b""):
        file.write_bytes(bad)
        with pytest.raises(ResumeImpossible, match="was altered"):
            store.load(saved.path, saved.sha256)
    file.unlink()
    with pytest.raises(ResumeImpossible, match="is missing"):
        store.load(saved.path, saved.sha256)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "checkpoints/../journal.json", "journal.json", "checkpoints/a/b", "checkpoints", ""]
)
def test_a_path_outside_the_checkpoints_is_not_read(log: journal.Log, path: str) -> None:
    with pytest.raises(ResumeImpossible, match="no such checkpoint"):
        CheckpointStore(log.storage).load(path, "0" * 64)


def test_a_link_is_not_followed(log: journal.Log, tmp_path: Path) -> None:
    store = CheckpointStore(log.storage)
    saved = store.save(log, "PPO", 0, {})
    file = tmp_path / "runs" / saved.path
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalFailed):
        store.load(saved.path, saved.sha256)


def test_what_is_no_state_is_told(log: journal.Log) -> None:
    log.storage.make_directory("checkpoints")
    with log.storage.stream("checkpoints/x.ckpt") as stream:
        stream.write(b"cos\nsystem\n(S'true'\ntR.")
    sha256 = hashlib.sha256(log.storage.read("checkpoints/x.ckpt")).hexdigest()
    with pytest.raises(ResumeImpossible, match="no state"):
        CheckpointStore(log.storage).load("checkpoints/x.ckpt", sha256)


@pytest.mark.parametrize("keep", [0, -1, True, 1.5, None])
def test_keep_is_a_number_of_files(log: journal.Log, keep: Any) -> None:
    with pytest.raises(EventRejected, match="keep"):
        CheckpointStore(log.storage, keep=keep)


def test_a_save_in_the_middle_of_anothers_last_step_is_refused(log: journal.Log) -> None:
    """As of a signal handler: it would wait for its own thread. Before that step, both are saved."""
    refused = []

    class Handled(Recording):
        def remove(self, path: str) -> None:
            try:
                store.save(log, "A", 9, {"x": 9})
            except journal.ReentrantCall as error:
                refused.append(str(error))
            log.storage.remove(path)

    store = CheckpointStore(Handled(log.storage), keep=1)  # type: ignore[arg-type]
    for episode in range(3):
        store.save(log, "A", episode, {"x": episode})
    assert len(refused) == 2 and all("nothing was done" in one and "\n" not in one for one in refused)
    assert len(files(log)) == 1
    assert store.load(
        f"checkpoints/{files(log)[0]}", hashlib.sha256(log.storage.read(f"checkpoints/{files(log)[0]}")).hexdigest()
    ) == {"x": 2}
