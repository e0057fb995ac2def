"""Checkpoints: an agent's state in a file that is whole and durable before the event that names it is written.

    temp → fsync → rename → fsync directory → CheckpointSaved → promise → only then older files are removed

Wherever a save stops, the log names only files that are there, and the checkpoint a resume would need is one of them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from agents_adapter import codec
from journal import CheckpointSaved, Log
from journal.errors import EventRejected, ResumeImpossible
from journal.events import check_count
from journal.live import failure
from journal.reentrant import refuse
from journal.storage import Storage, inside, replace

DIRECTORY: Final = "checkpoints"
_ENDING: Final = ".ckpt"
_NAME_PART: Final = 60
"""Characters of an agent's name in a file name; whose file it is, is told by the event."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is durable, and the seq of the event that names it."""

    seq: int
    path: str
    sha256: str
    size: int
    retired: tuple[str, ...]


class CheckpointStore:
    """The checkpoints of one journal. Of each agent the newest `keep` files stay.

    One agent is saved by one thread at a time; several agents may be by several.

    Raises `EventRejected` where `keep` is not an integer of 1 or more.
    """

    def __init__(self, storage: Storage, *, keep: int = 3) -> None:
        check_count(keep, "keep")
        if keep == 0:
            raise EventRejected("keep is 0: give the number of checkpoints to keep, 1 or more")
        self._storage = storage
        self._keep = keep
        self._kept: dict[str, list[str]] = {}
        self._to_remove: list[str] = []
        self._retiring = Lock()  # Agents may be trained and saved in threads of one process.

    def adopt(self, agent: str, paths: Iterable[str]) -> None:
        """The checkpoints `agent` has from before, oldest first, the one it was resumed from last.

        Only what was adopted or saved here is ever removed; what is no checkpoint's path is not adopted, whatever an
        event says.
        """
        self._kept[agent] = [path for path in paths if _is_checkpoint(path)]

    def sweep(self, named: AbstractSet[str]) -> None:
        """Remove the checkpoints that are not in `named`: of saves that were cut off, and of superseded work."""
        for name in self._storage.list(DIRECTORY):
            path = f"{DIRECTORY}/{name}"
            if name.endswith(_ENDING) and path not in named:
                self._remove(path)

    def save(self, log: Log, agent: str, episode: int, content: Any, members: Sequence[str] | None = None) -> Saved:
        """Save `content` as the state of `agent` before train episode `episode`.

        File and event survive a power cut when it returns, and only then are older files removed. Raises
        `EventRejected` for a content the codec cannot hold, `DiskFull`, `JournalFailed`, `JournalClosed`,
        `ReentrantCall`. Where it raises, no half file is there, older checkpoints are untouched, and, unless the event
        was already written (its promise failed, or an interrupt came after it), there is neither file nor event.
        """
        if self._retiring.locked():
            refuse(self._storage.name, self._retiring)
        data = codec.encode(content, name="")
        path = f"{DIRECTORY}/{_safe(agent)}-{episode}-{secrets.token_hex(8)}{_ENDING}"
        kept = [*self._kept.get(agent, ()), path]
        retired = kept[: -self._keep]
        event = CheckpointSaved(
            agent=agent,
            episode=episode,
            path=path,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            members=None if members is None else list(members),
            retired=retired or None,
        )
        seq = self._write(log, event, data)
        self._kept[agent] = kept[-self._keep :]
        with self._retiring:
            _held = self._retiring
            self._to_remove += retired
        log.sync()
        with self._retiring:
            _held = self._retiring
            self._remove_retired()
        return Saved(seq, path, event.sha256, event.size, tuple(retired))

    def load(self, path: str, sha256: str) -> Any:
        """The content of the checkpoint at `path`, whose bytes must hash to `sha256` (hex) before they are decoded.

        Raises `ResumeImpossible` where it is missing, altered, not a checkpoint's path, or does not decode;
        `JournalFailed` where reading fails.
        """
        if not _is_checkpoint(path):
            raise ResumeImpossible(f"path {path!r:.200} is not in {DIRECTORY}/: the journal names no such checkpoint")
        try:
            data = self._storage.read(path)
        except FileNotFoundError:
            raise ResumeImpossible(f"{path} is missing: {_INSTEAD}") from None
        except OSError as error:
            raise failure(error, f"reading {path}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ResumeImpossible(
                f"{path} was altered: its SHA-256 is {found[:16]}…, the journal says {sha256[:16]}…: {_INSTEAD}"
            )
        try:
            return codec.decode(data)
        except ValueError as error:
            raise ResumeImpossible(f"{path}: {error}") from error

    def _write(self, log: Log, event: CheckpointSaved, data: bytes) -> int:
        path = event.path
        before = log.tail()[2]
        try:
            try:
                self._storage.make_directory(DIRECTORY)
                replace(self._storage, path, data)
            except OSError as error:
                raise failure(error, f"saving {path}") from error
            return log.append(event)
        except BaseException:
            # An interrupted append may have counted its event; then the file it names must stay.
            if log.tail()[2] == before:
                self._remove(path)
            raise

    def _remove_retired(self) -> None:
        while self._to_remove:
            self._remove(self._to_remove[-1])
            self._to_remove.pop()

    def _remove(self, path: str) -> None:
        try:
            self._storage.remove(path)
        except OSError:
            pass  # It is not there, or cannot be removed: a file that no resume reads does no harm.


_INSTEAD = "restore it from a copy, or resume from an older checkpoint"


def _is_checkpoint(path: str) -> bool:
    try:
        return inside(path).rpartition("/")[0] == DIRECTORY
    except ValueError:
        return False


def _safe(agent: str) -> str:
    """`agent` as part of a file name on any file system. Not unique: the random part is."""
    return re.sub(r"[^A-Za-z0-9_.+#=-]|^[.-]", "_", agent)[:_NAME_PART]
