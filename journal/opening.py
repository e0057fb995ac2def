"""Opening a journal for writing: what may be opened, the writer's lock, and who holds it when it is not ours."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from journal.errors import JournalLocked, NotAJournal
from journal.live import failure
from journal.manifest import PATH as MANIFEST_PATH
from journal.manifest import Manifest
from journal.segment import DIRECTORY
from journal.storage import LockHeld, Storage
from journal.tail import Clock
from journal.writer import LOCK_PATH, Log, Sync


def open_log(
    directory: str | os.PathLike[str],
    *,
    sync: Sync = "group",
    sync_interval: float = 0.05,
    storage: Storage | None = None,
    clock: Clock = time,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Log:
    """Open the journal in `directory` for writing, making it if there is none, and recover it if it was not closed.

    `sync="group"`: every event survives the process at once, and a power cut after `sync_interval` seconds;
    `"always"`: each append returns when its event survives a power cut; `"close"`: synced at `sync()` and `close()`.
    What recovery found is in `Log.recovered`. `clock` and `entropy` (n random bytes: the journal's id and the segments'
    salts) are for tests.

    Raises `JournalLocked` (another process writes it), `CorruptJournal`, `UnsupportedFormat`, `NotAJournal` (the path
    holds something else), `JournalFailed` and its child `DiskFull`. Where it raises, nothing was lost or half-changed.
    """
    if sync not in ("group", "always", "close"):
        raise ValueError(f"sync is {sync!r}: use 'group', 'always' or 'close'")
    if not sync_interval > 0:
        raise ValueError(f"sync_interval is {sync_interval!r}: give seconds, more than 0")
    from journal.storage.disk import DiskStorage  # An import of `journal` is to stay quick.

    if storage is None:
        if os.path.lexists(directory) and not os.path.isdir(directory):
            raise NotAJournal(f"{os.fspath(directory)}: a file, not a directory; give the directory of a journal")
        storage = DiskStorage(directory)
    try:
        _prepare(storage)
        lock = storage.lock(LOCK_PATH)
    except LockHeld as held:
        who = ", ".join(str(pid) for pid in held.pids) or "unknown"
        raise JournalLocked(
            f"{storage.name}: process {who} writes this journal; wait for it, stop it, or use another directory",
            held.pids,
        ) from None
    except OSError as error:
        raise failure(error, f"opening {storage.name}") from error
    try:
        return Log(storage, lock, sync, sync_interval, clock, entropy)
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError):
            raise failure(error, f"opening {storage.name}") from error
        raise


def _prepare(storage: Storage) -> None:
    """Refuse a directory that holds something else before anything is made in it."""
    if not storage.exists(MANIFEST_PATH):
        names = set(storage.list(""))
        if any(storage.list(directory) for directory in names & {DIRECTORY, "history", "snapshots"}):
            Manifest.read(storage)  # It says that journal.json is missing.
        strange = names - {LOCK_PATH, DIRECTORY, f"{MANIFEST_PATH}.tmp"}
        if strange:
            raise NotAJournal(
                f"{storage.name}: not a journal, and not empty ({', '.join(sorted(strange)[:3])} …); "
                "give a new or empty directory"
            )
    storage.make_directory("")
