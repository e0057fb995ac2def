"""RocksDB, by rocksdict: LevelDB's heir, with and without its write-ahead log."""

from __future__ import annotations

from typing import Final

from benchmarks.peer import Peer, Totals
from benchmarks.peers.key_values import KeyValues, sum_up

NO_LOG, LOG, GROUP, SYNC = "no WAL", "WAL", "WAL, flush_wal(sync) every 50 ms", "WAL, sync=True"


def opened(directory: str, mode: str) -> KeyValues:
    from rocksdict import Options, Rdict, WriteOptions

    store = Rdict(directory, Options(raw_mode=True))
    options = WriteOptions()
    options.sync, options.disable_wal = mode == SYNC, mode == NO_LOG
    store.set_write_options(options)
    return KeyValues(store.put, store.close, (lambda: store.flush_wal(True)) if mode == GROUP else None)


def totals(directory: str) -> Totals:
    from rocksdict import Options, Rdict

    store = Rdict(directory, Options(raw_mode=True))
    found = sum_up(store.values())
    store.close()
    return found


PEER: Final = Peer(
    "RocksDB (rocksdict)",
    "rocksdict",
    opened,
    totals,
    {NO_LOG: "nothing", LOG: "kill -9", GROUP: "power cut, a moment later", SYNC: "power cut"},
    {LOG: "kill -9", SYNC: "power cut"},
)
