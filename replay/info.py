"""Info: what lies where in a journal's directory, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import journal
from journal import segment
from journal.manifest import Manifest
from journal.recovery import QUARANTINE
from journal.storage import Storage
from journal.storage.disk import DiskStorage
from journal.walk import Walk
from journal.writer import LOCK_PATH
from replay.frames import dropped_document
from replay.loading import Place, storage_of
from replay.promises import Head


def info(place: Place) -> dict[str, Any]:
    """The document of `journal info`. Sizes are bytes. Raises `NotAJournal`, `CorruptJournal`, `UnsupportedFormat`."""
    storage = storage_of(place)
    manifest = Manifest.read(storage)
    live = storage.locked(LOCK_PATH)
    walk = Walk(storage, manifest, live=live).run()
    files = {
        directory: sizes(storage, directory)
        for directory in (segment.DIRECTORY, "history", "snapshots", "checkpoints", QUARANTINE)
    }
    return {
        "journal": manifest.journal_id.hex(),
        "format": segment.FORMAT,
        "version": journal.__version__,
        "live": live,
        "events": walk.seq,
        "cells": walk.position,
        "compacted_events": manifest.base.seq,
        "head": Head.of(walk.promise)._asdict(),
        "run": walk.context().run,
        "dropped": dropped_document(manifest),
        "bytes": sum(sum(found.values()) for found in files.values()),
        "files": {directory: {"count": len(found), "bytes": sum(found.values())} for directory, found in files.items()},
        "writing": _writing(storage),
    }


def merged(counted: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Several journals, by path: the events of those that are `counted`, the bytes of all that were `found`."""
    return {
        "journals": len(counted),
        "live": any(one["live"] for one in found.values()),
        "events": sum(one["events"] for one in counted.values()),
        "compacted_events": sum(one["compacted_events"] for one in counted.values()),
        "bytes": sum(one["bytes"] for one in found.values()),
    }


def sizes(storage: Storage, directory: str) -> dict[str, int]:
    """Path → bytes of the files in a directory and below; what goes away in between is left out."""
    found: dict[str, int] = {}
    for name in storage.list(directory):
        path = f"{directory}/{name}"
        try:
            found |= sizes(storage, path)
        except NotADirectoryError:
            try:
                found[path] = storage.size(path)
            except FileNotFoundError:
                continue
    return found


def _writing(storage: Storage) -> dict[str, Any] | None:
    """How a writer would write here; `sync="always"` uses pwrite everywhere."""
    if not isinstance(storage, DiskStorage):
        return None
    return {
        "file_system": storage.file_system,
        "network": storage.networked,
        "by": "map" if storage.mappable else "pwrite",
    }
