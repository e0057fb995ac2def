"""The table: events as an Arrow record batch, one row per event, as DuckDB, Polars and pandas take them.

    seq  time  run  kind  agent  phase  env_index  episode  step  value  fields      what people ask for
    code  flags  form  agent_number  payload                                         what an event is made from again

Rewards, which are nearly all events, cost no Python per row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from journal import cell, events
from journal.nesting import NESTED_MAX, deeper
from replay.arrow import coded, numbers, sparse
from replay.batch import Batch
from replay.totals import PHASES

_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
SCHEMA: Final = pa.schema(
    [
        pa.field("seq", pa.uint64(), nullable=False),
        pa.field("time", pa.timestamp("ns", tz="UTC"), nullable=False),
        pa.field("run", _TEXT),
        pa.field("kind", _TEXT, nullable=False),
        pa.field("agent", _TEXT),
        pa.field("phase", _TEXT, nullable=False),
        pa.field("env_index", pa.uint32(), nullable=False),
        pa.field("episode", pa.uint64(), nullable=False),
        pa.field("step", pa.uint64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("fields", pa.string()),
    ]
)
"""`value` is a reward, a metric, or (EpisodeStarted, EpisodeEnded) monotonic seconds; 0 for other kinds.

`fields` holds the kind's own fields as JSON text: bytes in hexadecimal, null for a number JSON lacks (NaN, infinite).
"""
EXACT: Final = pa.schema(
    [
        *SCHEMA,
        pa.field("code", pa.uint16(), nullable=False),
        pa.field("flags", pa.uint8(), nullable=False),
        pa.field("form", pa.uint16(), nullable=False),
        pa.field("agent_number", pa.uint32(), nullable=False),
        pa.field("payload", pa.binary()),
    ]
)
"""With what an event can be made from again: the numbers behind the names of kind and agent, which last longer, and the
payload as it was (msgpack)."""

_COLUMNS: Final[dict[str, Callable[[Batch], pa.Array]]] = {
    "seq": lambda batch: numbers(batch.seq),
    "time": lambda batch: numbers(batch.time_ns, pa.timestamp("ns", tz="UTC")),
    "run": lambda batch: coded(batch.run, batch.runs),
    "kind": lambda batch: kinds(batch.kind),
    "agent": lambda batch: _agents(batch),
    "phase": lambda batch: coded((batch.flags & cell.EVAL).astype(np.int32), PHASES),
    "env_index": lambda batch: numbers(batch.env_index),
    "episode": lambda batch: numbers(batch.episode),
    "step": lambda batch: numbers(batch.step),
    "value": lambda batch: numbers(batch.value),
    "fields": lambda batch: _fields(batch),
    "code": lambda batch: numbers(batch.kind),
    "flags": lambda batch: numbers(batch.flags),
    "form": lambda batch: numbers(batch.form),
    "agent_number": lambda batch: numbers(batch.agent),
    "payload": lambda batch: sparse(len(batch), batch.payloads, pa.binary()),
}


def select(columns: Sequence[str]) -> pa.Schema:
    """The schema of these columns of `EXACT`, in this order."""
    return pa.schema([EXACT.field(name) for name in columns])


def record_batch(batch: Batch, schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    """The rows of `batch` as Arrow, in the columns that `schema` has of `EXACT`. Numbers are not copied."""
    return pa.RecordBatch.from_arrays([_COLUMNS[name](batch) for name in schema.names], schema=schema)


def kinds(kind: NDArray[np.uint16]) -> pa.DictionaryArray:
    """Kinds as the events' class names."""
    present = np.flatnonzero(np.bincount(kind))
    index = np.zeros(int(present[-1]) + 1 if len(present) else 0, dtype=np.int32)
    index[present] = np.arange(len(present))
    return coded(index[kind], [events.kind_name(one) for one in present.tolist()])


def as_json(payload: bytes) -> str:
    """A payload as JSON text, on one line; as hexadecimal where it is no msgpack (of a kind that is not known).

    Or where it nests deeper than an event may: how deep Python itself follows depends on who calls.
    """
    try:
        content = events.unpack(payload)
        if deeper(content, NESTED_MAX):
            return json.dumps(payload.hex())
        try:
            return json.dumps(content, default=_plain, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            return json.dumps(_plain(content), ensure_ascii=False)
    except (ValueError, RecursionError):
        return json.dumps(payload.hex())


def _agents(batch: Batch) -> pa.DictionaryArray:
    if int(batch.agent.max(initial=0)) <= len(batch.names):
        return coded(batch.agent.astype(np.int32) - 1, batch.names)
    # Numbers that the log never gave: no writer of ours does that, but what is there can be looked at.
    numbers, inverse = np.unique(batch.agent, return_inverse=True)
    index = np.where(batch.agent == 0, -1, inverse).astype(np.int32)
    return coded(index, [batch.name(number) for number in numbers.tolist()])


def _fields(batch: Batch) -> pa.Array:
    metrics = np.flatnonzero(batch.kind == cell.METRIC_LOGGED).tolist()
    texts: dict[int, bytes] = {}
    if metrics:
        as_text = {
            number: json.dumps({"metric": batch.name(number)}, ensure_ascii=False).encode()
            for number in np.unique(batch.form[metrics]).tolist()
        }
        texts = {row: as_text[number] for row, number in zip(metrics, batch.form[metrics].tolist(), strict=True)}
    texts |= {row: as_json(payload).encode() for row, payload in batch.payloads.items()}
    return sparse(len(batch), texts, pa.string())


def _plain(value: Any) -> Any:
    """What msgpack holds and JSON does not, as what JSON holds."""
    if isinstance(value, dict):
        return {key.hex() if isinstance(key, bytes) else str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
