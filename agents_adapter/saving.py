"""Saving files of one's own: old or new, never between, whatever happens meanwhile.

    atomic_json("results.json", {"sharpe": 1.3}, backups=3)
    atomic_parquet("trades.parquet", frame)
    with atomic_write("report.txt") as file:                    # "wb" for bytes
        file.write("…")

    draft beside the file → fsync → (the old one copied: backup) → rename → fsync directory → older backups removed

The draft of a process that died is swept by the next save of that file. Unlike what is in a journal, a result is its
user's own: it keeps the permissions that it has, and a new one has those that the umask leaves.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Literal, overload

import numpy as np

from journal.errors import DiskFull, EventRejected, JournalFailed
from journal.events import check_count
from journal.live import no_space
from journal.storage import Buffer, File, Storage, inside
from journal.storage.disk import DiskStorage
from journal.storage.stream import lent

_CHUNK: Final = 1 << 20
_NAME_PART: Final = 40
"""Characters of a file's name in its draft's, which must not become too long."""


@overload
def atomic_write(
    path: str | os.PathLike[str], mode: Literal["w"] = "w", *, backups: int = 0
) -> AbstractContextManager[IO[str]]: ...
@overload
def atomic_write(
    path: str | os.PathLike[str], mode: Literal["wb"], *, backups: int = 0
) -> AbstractContextManager[IO[bytes]]: ...
def atomic_write(
    path: str | os.PathLike[str], mode: Literal["w", "wb"] = "w", *, backups: int = 0
) -> AbstractContextManager[IO[Any]]:
    """A file object, for text (UTF-8) or bytes, whose content becomes that of `path` when the block ends well.

    Survives a power cut when the block has ended. Missing directories are made. With `backups` what was there before
    stays beside it as `path.backup-7`, counted up, the newest `backups` of them. A link is followed: what it leads to
    is replaced, and the link stays.

    Where the block raises, that is raised, and the file is as it was; so it is after `DiskFull` and `JournalFailed`
    (unless the message says otherwise: only the last sync can fail behind the new file), and where the process is
    killed. Raises `EventRejected` for a bad argument.
    """
    if mode not in ("w", "wb"):
        raise EventRejected(f"mode is {mode!r:.40}: use 'w' for text or 'wb' for bytes")
    check_count(backups, "backups")
    directory, name = _place(path)
    return saved(DiskStorage(directory, private=False), name, mode, int(backups))


def atomic_json(path: str | os.PathLike[str], value: Any, *, backups: int = 0, indent: int | None = 2) -> None:
    """Save `value` as JSON, as `atomic_write` does: dicts, lists, text, numbers, None; numpy's too, arrays as lists.

    Raises `EventRejected`, naming the place, for what JSON does not hold (NaN and infinite numbers among them), before
    anything is touched; else as `atomic_write`.
    """
    try:
        text = json.dumps(_plain(value, "it"), indent=indent, allow_nan=False)
    except EventRejected as error:
        raise EventRejected(f"{os.fspath(path)} was not saved: {error}") from None
    except RecursionError:
        raise EventRejected(f"{os.fspath(path)} was not saved: it is nested too deep, or holds itself") from None
    with atomic_write(path, "w", backups=backups) as file:
        file.write(text + "\n")


def atomic_parquet(path: str | os.PathLike[str], table: Any, *, backups: int = 0) -> None:
    """Save a DataFrame, an Arrow table or a dict of columns as Parquet, as `atomic_write` does.

    Pages have checksums. Raises `EventRejected` for what Parquet does not hold, before anything is touched; else as
    `atomic_write`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pa.table(table)
        with atomic_write(path, "wb", backups=backups) as stream:
            pq.write_table(columns, stream, compression="zstd", write_page_checksum=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        if isinstance(error, EventRejected):
            raise
        told = " ".join(str(error).split())
        raise EventRejected(
            f"{os.fspath(path)} was not saved: it is no table that Parquet holds: {told:.300}"
        ) from error


def backups(path: str | os.PathLike[str]) -> list[Path]:
    """The backups of `path` that are there, oldest first. To restore one, save its bytes as `path`."""
    directory, name = _place(path)
    return [Path(directory, one) for one in _backups(DiskStorage(directory), name)]


@contextmanager
def saved(storage: Storage, name: str, mode: str = "wb", keep: int = 0) -> Iterator[IO[Any]]:
    """What `atomic_write` does, in any storage, to the file `name` of its first directory; `keep` backups stay."""
    path = f"{storage.name}/{name}"
    with _told(path):
        storage.make_directory("")
        _sweep(storage, name)
        draft, file = _draft(storage, name)
    content = _Content(file, path)
    stream = lent(content)
    try:
        text = stream if mode == "wb" else io.TextIOWrapper(stream, encoding="utf-8", newline="")
        yield text
        text.close()  # Flushes, unless the block did it.
        with _told(path):
            file.sync()
            if keep and storage.exists(name):
                _back_up(storage, name)
            storage.rename(draft, name)
    except BaseException:
        content.over = True
        with suppress(OSError):  # What stays behind is swept by the next save; hiding the first error is worse.
            storage.remove(draft)
        raise
    finally:
        with suppress(OSError):  # It is synced, or given up.
            file.close()
    try:
        storage.sync_directory("")
    except OSError as error:
        raise JournalFailed(
            f"{path} is the new one, but may not survive a power cut: syncing its directory failed: "
            f"{error.strerror or error}; remove the cause and save again"
        ) from error
    for old in _backups(storage, name)[:-keep] if keep else ():
        with suppress(OSError):  # One too many does no harm; the next save tries again.
            storage.remove(old)


class _Content:
    """The draft as what the block writes into, whose errors say which file was not saved."""

    def __init__(self, file: File, path: str) -> None:
        self._file = file
        self._path = path
        self.over = False
        """Given up: what a stream still holds goes nowhere."""

    def write(self, offset: int, data: Buffer) -> None:
        if not self.over:
            with _told(self._path):
                self._file.write(offset, data)


def _place(path: str | os.PathLike[str]) -> tuple[str, str]:
    """(directory, name) of what `path` leads to."""
    if not isinstance(path, (str, os.PathLike)):
        raise EventRejected(f"path is {path!r:.60}: give a text or a Path")
    try:
        directory, name = os.path.split(os.path.realpath(path))
        return directory, inside(name)
    except ValueError:
        raise EventRejected(f"{os.fspath(path)!r:.200} cannot be saved: give the path of a file") from None


def _draft(storage: Storage, target: str) -> tuple[str, File]:
    """A draft of its own for each save, so that two at a time cannot mix."""
    draft = f".{target[:_NAME_PART]}.{secrets.token_hex(4)}.tmp"
    return draft, storage.draft(draft, target)


def _sweep(storage: Storage, target: str) -> None:
    pattern = re.compile(re.escape(f".{target[:_NAME_PART]}.") + r"[0-9a-f]{8}\.tmp")
    with suppress(OSError):  # Who may not list a directory may still save into it.
        for name in storage.list(""):
            if pattern.fullmatch(name):
                with suppress(OSError):  # Another user's, or gone already.
                    storage.sweep(name)


def _backups(storage: Storage, target: str) -> list[str]:
    pattern = re.compile(re.escape(target) + r"\.backup-([1-9]\d{0,17})")
    try:
        found = [match for match in map(pattern.fullmatch, storage.list("")) if match]
    except OSError:
        return []
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))]


def _back_up(storage: Storage, target: str) -> None:
    """Copy it to the next number, durably. The old file keeps its name meanwhile: there is always one."""
    last = _backups(storage, target)[-1:]
    number = int(last[0].rpartition("-")[2]) + 1 if last else 1
    draft, file = _draft(storage, target)
    try:
        at = 0
        while data := storage.read(target, at, _CHUNK):
            file.write(at, data)
            at += len(data)
        file.sync()
        storage.rename(draft, f"{target}.backup-{number}")
    except BaseException:
        with suppress(OSError):
            storage.remove(draft)
        raise
    finally:
        with suppress(OSError):
            file.close()
    storage.sync_directory("")


@contextmanager
def _told(path: str) -> Iterator[None]:
    """The system's errors as the journal's: which file was not saved, and that the old one is as it was."""
    try:
        yield
    except OSError as error:
        if no_space(error):
            raise DiskFull(f"no space left to save {path}: it is as it was; free some space and save again") from error
        raise JournalFailed(
            f"saving {path} failed: {error.strerror or error}; it is as it was: remove the cause and save again"
        ) from error


def _plain(value: Any, where: str) -> Any:
    """`value` as what JSON holds, the same when it is read again; `where` it lies, for a message."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise EventRejected(f"{where} is {value}, which JSON does not hold: give None or a text")
        return value
    if isinstance(value, list | tuple):
        return [_plain(one, f"{where}[{index}]") for index, one in enumerate(value)]
    if isinstance(value, Mapping):
        plain = {}
        for key, one in value.items():
            name = str(int(key)) if isinstance(key, int | np.integer) and not isinstance(key, bool) else key
            if not isinstance(name, str) or name in plain:
                raise EventRejected(f"{where} has the key {key!r:.60}, which is no text or is there twice: rename it")
            plain[name] = _plain(one, f"{where}[{name!r:.60}]")
        return plain
    raise EventRejected(f"{where} is of type {type(value).__name__}, which JSON does not hold: give numbers, text, …")
