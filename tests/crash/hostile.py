"""Journals that no writer of ours would leave: every checksum is right, and what it covers makes no sense.

Each maker takes the files of a good journal and a random generator, and returns the files of a hostile one. Checksums,
chain, and the files' hashes of themselves are made anew, so that reading gets past them.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from crc32c import crc32c

from agents_adapter import codec
from journal import cell, chain, events, segment
from journal.cell import CELL
from replay import parquet

Files = dict[str, bytes]

NUMBERS = (0, 1, 2, 3, 63, 64, 65, 255, 2**16 - 1, 2**16, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = ("", "r1", "PPO", "train", "../../etc/passwd", "/etc/passwd", "a\0b", "checkpoints/../../x", "é" * 300, "\n")
FIELDS = sorted({name for fields in events._PAYLOAD_FIELDS.values() for name, _ in fields})
KINDS = (*events.REGISTRY, cell.REWARDS, 16, 77, 0x8000, 0xFEFF, 0xFF00, 0xFF04, 0xFFFF)


def value(rng: Random, depth: int = 3) -> Any:
    """Anything that msgpack and JSON hold."""
    kind = rng.randrange(10 if depth else 7)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind == 2:
        return -rng.choice(NUMBERS) // 2
    if kind == 3:
        return rng.choice(TEXTS)
    if kind == 4:
        return rng.choice((None, True, False))
    if kind == 5:
        return rng.choice((0.5, -0.0, float("nan"), float("inf"), 1e308))
    if kind == 6:
        return rng.choice(TEXTS)
    if kind < 9:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice((*FIELDS, *TEXTS)): value(rng, depth - 1) for _ in range(rng.randrange(4))}


def payload(rng: Random) -> bytes:
    """A map of an event's fields with any values, or no map, or no msgpack."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return b"\x91" * rng.choice((10, 600, 5000)) + b"\xc0"  # Lists in lists.
    if kind == 2:
        return rng.choice(
            (b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff")
        )
    if kind == 3:
        return bytes(msgpack.packb(value(rng)))
    return bytes(msgpack.packb({rng.choice(FIELDS): value(rng, 2) for _ in range(rng.randrange(1, 7))}))


class Forger:
    """Writes cells with right checksums behind a segment opened mark, and promises with the right chain."""

    def __init__(self, header: segment.Header, start: bytes, position: int, seq: int, content: bytes) -> None:
        self.header, self.position, self.seq, self.chain = header, position, seq, start
        self.cells = bytearray(segment.opened(content, seq, 1, salt=header.salt, position=position))
        self._done = 0

    def at(self) -> int:
        return self.position + len(self.cells) // CELL

    def put(
        self,
        kind: int,
        raw: bytes = b"",
        *,
        takes: int = 1,
        time_ns: int = 1,
        wrong: Random | None = None,
        **fields: Any,
    ) -> None:
        """A head and its payload. `wrong`: a field of it is, under right checksums."""
        at, salt = self.at(), self.header.salt
        head = bytearray(cell.pack_head(kind, self.seq, time_ns, raw, salt=salt, at=at, **fields))
        if wrong is not None:
            _spoil(head, wrong)
        struct.pack_into("<I", head, 0, cell.checksum(bytes(head[4:]), salt, at))
        self.cells += head + raw + bytes(-len(raw) % CELL)
        self.seq = (self.seq + takes) % 2**64

    def spoil_mark(self, rng: Random) -> None:
        """A field of the segment opened mark is wrong, or its payload goes on behind all that there is."""
        head = self.cells[:CELL]
        _spoil(head, rng)
        struct.pack_into("<I", head, 0, cell.checksum(bytes(head[4:]), self.header.salt, self.position))
        self.cells[:CELL] = head

    def promise(self, kind: int = cell.RECEIPT, wrong: Random | None = None) -> None:
        at = self.at()
        self.chain = chain.extend(self.chain, (bytes(self.cells[self._done :]),))
        self._done = len(self.cells)
        position, count, hashed = at, self.seq, self.chain
        if wrong is not None:
            position, count = wrong.choice((position, *NUMBERS)), wrong.choice((count, *NUMBERS))
            hashed = wrong.choice((hashed, wrong.randbytes(24)))
        self.cells += cell.pack_promise(kind, self.seq, 1, position, count, hashed, salt=self.header.salt, at=at)

    def behind(self, salt: int, size: int, content: bytes) -> Forger:
        """One for the segment behind this one, which ends with its seal."""
        header = segment.Header(self.header.journal_id, self.header.ordinal + 1, salt, size, 1)
        value = chain.extend(self.chain, (bytes(self.cells[-CELL:]),))
        return Forger(header, value, self.at(), self.seq, content)

    def file(self, size: int) -> bytes:
        return (self.header.pack() + bytes(self.cells)).ljust(size, b"\0")


def _spoil(head: bytearray, rng: Random) -> None:
    offset, form = rng.choice(
        ((6, "<H"), (8, "<Q"), (16, "<Q"), (24, "<B"), (26, "<H"), (28, "<I"), (40, "<Q"), (56, "<Q"))
    )
    struct.pack_into(form, head, offset, rng.choice(NUMBERS) % 256 ** struct.calcsize(form))


def segments(files: Files, rng: Random) -> Files:
    """Live segments in place of all: cells with any field, promised or not, behind a base that may be anywhere."""
    manifest = json.loads(files["journal.json"])
    base = manifest["base"]
    if rng.random() < 0.1:
        base[rng.choice(("ordinal", "position", "seq"))] = rng.choice((2**62 - 1, 2**62, 98_999_999, *NUMBERS))
        if not all(type(base[name]) is int and base[name] < 2**63 for name in ("ordinal", "position", "seq")):
            return {**files, "journal.json": _manifest(manifest)}
    content = events.pack(base["context"], "") if rng.random() < 0.8 else payload(rng)
    sizes = [rng.choice((2048, 8192, 1 << 16)) for _ in range(rng.choice((1, 1, 2, 3)))]
    header = segment.Header(bytes.fromhex(manifest["journal"]), base["ordinal"], rng.randrange(2**32), sizes[0], 1)
    forger = Forger(header, bytes.fromhex(base["chain"]), base["position"], base["seq"], content)
    made = {}
    for number, size in enumerate(sizes):
        if number:
            forger = forger.behind(rng.randrange(2**32), size, content)
        if rng.random() < 0.03:
            forger.spoil_mark(rng)
        _cells(forger, rng)
        sealed = number < len(sizes) - 1 or rng.random() < 0.3
        if sealed or rng.random() < 0.8:
            forger.promise(cell.SEGMENT_SEALED if sealed else cell.RECEIPT, rng if rng.random() < 0.1 else None)
        made[segment.path_of(forger.header.ordinal)] = forger.file(0 if sealed else size)[: segment.SIZE_LIMIT]
    listed = list(made)
    manifest["segments"] = listed if rng.random() < 0.8 else listed[: rng.randrange(len(listed) + 1)]
    kept = {name: raw for name, raw in files.items() if not name.startswith("segments/")}
    return {**kept, **made, "journal.json": _manifest(manifest)}


def _cells(forger: Forger, rng: Random) -> None:
    for _ in range(rng.randrange(1, 20)):
        wrong = rng if rng.random() < 0.1 else None
        kind = rng.choice(KINDS)
        if rng.random() < 0.15:
            forger.promise(wrong=wrong)
        elif kind == cell.REWARDS:
            _batch(forger, rng, wrong)
        else:
            agent = rng.choice((0, 1, 1, 1, 2, 3, *NUMBERS)) % 2**32
            where = {name: rng.choice((0, 1, *NUMBERS)) for name in ("episode", "step")}
            number = rng.choice((0.0, 1.0, float("nan"), float("inf"), -1e308, 1e-310, 1e299))
            raw = payload(rng) if rng.random() < 0.8 else b""
            takes = int(kind < cell.MARK_FIRST)
            few = {"env_index": rng.choice((0, 0, *NUMBERS)) % 2**32, "flags": rng.choice((0, 1, 255))}
            forger.put(
                kind,
                raw,
                takes=takes,
                time_ns=rng.choice((1, 1, *NUMBERS[:-2], -(2**63))),
                wrong=wrong,
                agent=agent,
                value=number,
                form=rng.choice((0, 1, 2, 65535)),
                **where,
                **few,
            )


def _batch(forger: Forger, rng: Random, wrong: Random | None) -> None:
    """Of a batch no more is counted than it can hold: so what follows it is reached, whatever it claims."""
    count = rng.choice((0, 1, 2, 7, *NUMBERS))
    form = rng.choice((0, 1, 2, 3, 21, 42, 63, 64, 65535))
    columns = sum(form >> shift & 3 == 1 for shift in (0, 2, 4))
    raw = rng.randbytes(min(count, 50) * (8 + 4 * columns) if rng.random() < 0.8 else rng.randrange(300))
    number = struct.unpack("<d", struct.pack("<Q", count))[0]
    where = {name: rng.choice(NUMBERS) for name in ("episode", "step")}
    takes = min(count, cell.extent_of(len(raw))[0] * CELL // 8) if rng.random() < 0.9 else count
    few = {"env_index": rng.choice(NUMBERS) % 2**32, "time_ns": rng.choice((1, 2**63 - 1, -(2**63)))}
    forger.put(cell.REWARDS, raw, takes=takes, wrong=wrong, agent=1, form=form, value=number, **where, **few)


def manifest(files: Files, rng: Random) -> Files:
    """A journal.json with any values in it."""
    document = json.loads(files["journal.json"])
    if rng.random() < 0.3:
        told = {"path": "history/0-9.parquet", "size": 1, "sha256": ""}
        base = document["base"]
        one = {"first": 0, "last": base["seq"] - 1, "chain": base["chain"], "time_ns": 1, "files": [told]}
        _change(one, rng)
        document["dropped"] = [one]
    else:
        for _ in range(rng.randrange(1, 3)):
            _change(document, rng)
    return {**files, "journal.json": _manifest(document)}


def _manifest(document: Any) -> bytes:
    if not isinstance(document, dict):
        return json.dumps(document).encode()
    document.pop("crc32c", None)
    document["crc32c"] = f"{crc32c(json.dumps(document, sort_keys=True, separators=(',', ':')).encode()):08x}"
    return json.dumps(document).encode()


def _change(document: Any, rng: Random) -> None:
    """Put any value into any place of a nested document."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = document[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.15:
            document[key] = value(rng)
            return
        document = inner


def _rewritten(
    data: bytes, rng: Random, change: Callable[[dict[str, Any]], Any], table: Callable[[pa.Table], pa.Table]
) -> bytes:
    """A Parquet file with another document and other rows, whose SHA-256 of itself is right."""
    file = pq.ParquetFile(io.BytesIO(data))
    document = json.loads(file.metadata.metadata[parquet.DOCUMENT])
    change(document)
    document = json.loads(
        json.dumps(document).replace("NaN", "null").replace("-Infinity", "0").replace("Infinity", "0")
    )
    rows = table(file.read().replace_schema_metadata(None))
    out = io.BytesIO()
    with parquet.Writer(out, rows.schema) as writer:
        if rows.num_rows:
            writer.write(rows)
        document.pop("format", None) if rng.random() < 0.1 else None
        begins = list(parquet._BEGIN.finditer(data))
        if begins:  # The bars of a snapshot: they stay where its state says, unless its rows have another size now.
            footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
            writer.set_apart(data[int(begins[-1][1], 16) : footer])
        writer.close({key: one for key, one in document.items() if isinstance(key, str)})
    return out.getvalue()


def _rows(rng: Random) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        kind = rng.randrange(6)
        if kind == 0:
            return table.slice(rng.randrange(table.num_rows + 1))
        if kind == 1 and table.num_rows:
            return table.take([rng.randrange(table.num_rows) for _ in range(table.num_rows)])
        if kind == 2:
            return table.drop_columns([rng.choice(table.column_names)])
        if kind < 5 and table.num_rows:
            name = rng.choice(table.column_names)
            field = table.schema.field(name)
            made = [_item(field.type, rng) for _ in range(table.num_rows)]
            column = pa.array(made, type=field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
            if pa.types.is_dictionary(field.type):
                column = column.dictionary_encode()
            return table.set_column(table.column_names.index(name), field, column.cast(field.type))
        return table

    return change


def _item(kind: pa.DataType, rng: Random) -> Any:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        bits = kind.bit_width - pa.types.is_signed_integer(kind)
        return rng.choice(NUMBERS) % 2**bits
    if pa.types.is_floating(kind):
        return rng.choice((0.0, float("nan"), float("inf"), -1e308))
    if pa.types.is_timestamp(kind):
        return rng.choice(NUMBERS) % 2**62
    if pa.types.is_binary(kind):
        return rng.choice((b"", payload(rng), rng.randbytes(64), bytes(64)))
    return rng.choice(TEXTS) if pa.types.is_string(kind) else None


def history(files: Files, rng: Random) -> Files:
    """A history file of any rows and any description of itself."""
    path = rng.choice([path for path in files if path.startswith("history/")])
    change = (lambda document: _change(document, rng)) if rng.random() < 0.6 else (lambda document: None)
    table = _rows(rng) if rng.random() < 0.6 else (lambda table: table)
    return {**files, path: _rewritten(files[path], rng, change, table)}


def snapshots(files: Files, rng: Random) -> Files:
    """A snapshot of any state."""
    path = rng.choice([path for path in files if path.startswith("snapshots/")])

    def change(document: dict[str, Any]) -> None:
        state = msgpack.unpackb(zstandard.decompress(base64.b64decode(document["state"]["zstd"])), strict_map_key=False)
        kind = rng.randrange(5)
        if kind == 0:
            _change(document, rng)
            return
        for _ in range(rng.randrange(1, 4)):
            _change(state, rng)
        raw = payload(rng) if kind == 1 else msgpack.packb(state)
        size = len(raw) if kind < 4 else rng.choice((100 << 30, *NUMBERS))
        frame = bomb(size) if kind == 4 else zstandard.compress(raw)
        document["state"] = {"size": size, "zstd": base64.b64encode(frame).decode()}

    return {**files, path: _rewritten(files[path], rng, change, lambda table: table)}


def bomb(size: int, blocks: int = 2000) -> bytes:
    """A zstd frame that claims `size` bytes, and really gives 128 KiB for each 4 bytes of it."""
    # Magic; descriptor: single segment, 8-byte content size; then blocks of one repeated byte.
    head = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size)
    length = 128 << 10
    block, last = ((length << 3 | 1 << 1 | end).to_bytes(3, "little") + b"\0" for end in (0, 1))
    return head + block * (blocks - 1) + last


def checkpoints(files: Files, rng: Random) -> Files:
    """Checkpoints with right checksums (that the log names another SHA-256 is not to save who decodes them)."""
    path = rng.choice([path for path in files if path.startswith("checkpoints/")])
    return {**files, path: checkpoint(rng)}


def checkpoint(rng: Random) -> bytes:
    """An agent's state with any content, any claim of its size."""
    kind = rng.randrange(6)
    form, plain = 0, payload(rng)
    if kind == 0:
        plain = _extension(rng)
    size = len(plain)
    if kind == 1:
        size = rng.choice(NUMBERS)
    body = plain
    if kind == 2:
        form, body = 1, zstandard.compress(plain)
    if kind == 3:
        size = rng.choice((100 << 30, 60 << 30, 256 << 20))
        form, body = 1, bomb(size)
    header = codec._HEADER.pack(
        codec.MAGIC, rng.choice((1, 1, 1, 2)), form, rng.choice((0, 0, 0, 1)), crc32c(body), size, len(body)
    )
    return header + struct.pack("<I", crc32c(header)) + body


def _extension(rng: Random) -> bytes:
    """The codec's own types: tags, arrays, tensors with any dtype and shape."""
    if rng.random() < 0.4:
        tag = rng.choice(("tuple", "set", "deque", "defaultdict", "OrderedDict", "frozenset", "eval", "os.system"))
        return bytes(
            msgpack.packb([msgpack.ExtType(0, tag.encode()), *(value(rng, 2) for _ in range(rng.randrange(4)))])
        )
    dtype = rng.choice(
        (
            "<f8",
            "|O",
            "|V0",
            "<U4000000",
            "|S1",
            "<M8[ns]",
            "__import__('os')",
            "float32",
            [["a", "<f8"]],
            value(rng, 2),
        )
    )
    head = msgpack.packb([dtype, rng.choice(([2**40], [2**62, 4], [1], [-1], [0] * 70, value(rng, 2)))])
    return bytes(
        msgpack.packb(
            msgpack.ExtType(
                rng.randrange(8), struct.pack("<I", rng.choice((len(head), 2**32 - 1, 0))) + head + rng.randbytes(16)
            )
        )
    )


def noise(files: Files, rng: Random) -> Files:
    """Random bytes over, into, or behind any file, or under any name."""
    path = rng.choice(
        [*files, "segments/00000009.seg", "history/14-20.parquet", "snapshots/40.parquet", "quarantine/x"]
    )
    data = bytearray(files.get(path, b""))
    for _ in range(rng.randrange(1, 9)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.choice((0, 1, 8, 64))] = rng.randbytes(rng.choice((0, 1, 8, 64)))
    return {**files, path: bytes(data)}


MAKERS: dict[str, Callable[[Files, Random], Files]] = {
    "segments": segments,
    "journal.json": manifest,
    "history": history,
    "snapshots": snapshots,
    "checkpoints": checkpoints,
    "noise": noise,
}
