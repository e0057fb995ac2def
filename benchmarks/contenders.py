"""All peers, by name. Their libraries are imported by those who use them."""

from __future__ import annotations

from typing import Final

from benchmarks.peer import Peer
from benchmarks.peers import (
    arrow_ipc,
    duck,
    event_sourcing,
    json_lines,
    leveldb,
    lmdb_store,
    msgpack_write,
    optuna_journal,
    rocksdb,
    sqlite,
    tensorboard_files,
    training_journal,
    wandb_offline,
)

JOURNAL: Final = training_journal.PEER
PEERS: Final[dict[str, Peer]] = {
    one.PEER.name: one.PEER
    for one in (
        training_journal,
        msgpack_write,
        json_lines,
        lmdb_store,
        leveldb,
        rocksdb,
        sqlite,
        arrow_ipc,
        duck,
        tensorboard_files,
        optuna_journal,
        event_sourcing,
        wandb_offline,
    )
}
"""The journal is the first."""
