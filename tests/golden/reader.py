"""A reader of the log, written from docs/format.md alone, to show that the page is enough.

Nothing of the project is imported. It is strict: a cell that does not check is refused also behind the last promise,
where the page would call it a torn tail.
"""

import json
from pathlib import Path
from struct import Struct
from typing import Any, NoReturn

import msgpack
from blake3 import blake3
from crc32c import crc32c

HEADER, HEAD, PROMISE = Struct("<8sII16sQQqII"), Struct("<IHHQqBBHIIIQQd"), Struct("<QQ24s")
BATCH, RECEIPT, OPENED, SEALED = 10, 0xFF01, 0xFF02, 0xFF03
Records = list[dict[str, Any]]


def read(directory: str | Path) -> tuple[Records, Records]:
    """All events of the live segments, and all promises."""
    events: Records = []
    promises: Records = []
    path = Path(directory) / "journal.json"
    document = json.loads(path.read_bytes())
    stated = document.pop("crc32c", None)
    if f"{crc32c(json.dumps(document, sort_keys=True, separators=(',', ':')).encode(), 0):08x}" != stated:
        _refuse(path, 0, "crc of the document")
    base = document["base"]
    position, seq, chain, names = base["position"], base["seq"], bytes.fromhex(base["chain"]), base["context"]["names"]
    spanned, sealed = position, True  # the promises cover all cells before `spanned`, under `chain`
    for path in (Path(directory) / s for s in document["segments"] if int(Path(s).stem) >= base["ordinal"]):
        data = path.read_bytes()
        magic, version, salt, journal, ordinal, size, _, zero, crc = HEADER.unpack(data[:64].ljust(64, b"\0"))
        good = magic == b"TJ\xf1seg\r\n" and version == 1 and zero == 0 and crc == crc32c(data[:60], 0)
        if not good or journal.hex() != document["journal"] or ordinal != int(path.stem):
            _refuse(path, 0, "header")
        if len(data) > size or len(data) % 64:
            _refuse(path, len(data), "the file's size")
        position += not sealed  # a seal that is not there yet has its place
        first, byte, sealed, seqs = position, 64, False, {position: seq}
        while byte < len(data) and not sealed:
            crc, kind, extent, number, time_ns, pad, flags, form, payload_crc, agent, env, episode, step, value = (
                HEAD.unpack_from(data, byte)
            )
            if kind == 0:
                break
            if crc != crc32c(data[byte + 4 : byte + 64], salt) ^ (position & 0xFFFFFFFF):
                _refuse(path, byte, "crc of the cell")
            if number != seq or (kind == OPENED) != (byte == 64) or (kind == OPENED and episode != position):
                _refuse(path, byte, f"kind {kind:#x}, seq {number} at position {position}, seq {seq}")
            end, sealed = byte + 64 + 64 * extent, kind == SEALED
            if kind in (RECEIPT, SEALED):
                covered, count, link = PROMISE.unpack_from(data, byte + 24)
                chain = _link(chain, data[64 + 64 * (spanned - first) : 64 + 64 * (covered - first)])
                if not first <= spanned <= covered or seqs.get(covered) != count or (sealed and covered != position):
                    _refuse(path, byte, f"promise of {count} events before position {covered}")
                if chain != link:
                    _refuse(path, byte, f"chain of positions {spanned} to {covered}")
                promises.append({"position": covered, "events": count, "chain": link.hex()})
                spanned, chain = (position + 1, _link(chain, data[byte:end])) if sealed else (covered, chain)
            else:
                payload = data[byte + 64 : end - pad]
                wanted = crc32c(payload, salt) ^ (position & 0xFFFFFFFF) if extent else 0
                if end > len(data) or pad > 63 * (extent > 0) or payload_crc != wanted or any(data[end - pad : end]):
                    _refuse(path, byte, "payload")
                fields = msgpack.unpackb(payload, strict_map_key=False) if payload and kind != BATCH else {}
                if kind == OPENED and fields["names"] != names:
                    _refuse(path, byte, "names")
                names = [*names, fields["name"]] if kind == 1 else names
                fields |= {"metric": names[form - 1]} if kind == 11 else {}
                rows = [(episode, step, env, value)] if kind != OPENED else []
                for row in _batch(data[byte : byte + 64], payload) if kind == BATCH else rows:
                    event = {"seq": seq, "time_ns": time_ns, "kind": 9 if kind == BATCH else kind, "fields": fields}
                    event |= {"agent": names[agent - 1] if agent else None, "phase": "eval" if flags & 1 else "train"}
                    events.append(event | dict(zip(("episode", "step", "env_index", "value"), row, strict=True)))
                    seq += 1
            position, byte = position + 1 + extent, end
            seqs[position] = seq
        if byte == 64 or (len(data) != size and not (sealed and byte == len(data))):
            _refuse(path, byte, "no cell, or the file was cut elsewhere than behind its seal")
        for later in range(byte, len(data) if not sealed else 0, 64):  # zeros that a later promise covers are damage
            cell, at = data[later : later + 64], first + (later - 64) // 64
            checks = HEAD.unpack(cell)[0] == crc32c(cell[4:], salt) ^ (at & 0xFFFFFFFF)
            if checks and HEAD.unpack(cell)[1] in (RECEIPT, SEALED) and PROMISE.unpack_from(cell, 24)[0] > position:
                _refuse(path, byte, f"zeros, but byte {later} promises more")
    return events, promises


def _batch(head: bytes, payload: bytes) -> list[tuple[int, int, int, float]]:
    """(episode, step, env_index, value) of each reward."""
    form, env, episode, step, count = Struct("<26xH8xIQQQ").unpack(head)
    columns, at = [], 0
    for shift, start in ((0, episode), (2, step), (4, env)):
        match form >> shift & 3:
            case 1:
                columns.append([start + n for n in Struct(f"<{count}I").unpack_from(payload, at)])
                at += 4 * count
            case 0 | 2 as stride:
                columns.append([start + n * (stride // 2) for n in range(count)])
    return list(zip(*columns, Struct(f"<{count}d").unpack(payload[at:]), strict=True))


def _link(chain: bytes, cells: bytes) -> bytes:
    return bytes(blake3(chain + cells).digest()[:24])


def _refuse(path: Path, byte: int, why: str) -> NoReturn:
    raise ValueError(f"{path}, byte {byte}: {why}")
