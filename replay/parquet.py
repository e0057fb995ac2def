"""A Parquet file that checks itself: any tool reads it, and no flipped bit in it goes unnoticed.

Parquet has checksums for pages, but none for its footer, where schema, offsets and metadata are. So the metadata hold,
beside one JSON document of ours, the SHA-256 of the whole file with that very field set to zeros. Reading checks it
before it believes anything else. What was hashed is what gets decoded, unless it is too much to keep.

What a writer sets apart, behind all rows, is not part of that digest, so that opening the file need not read it; no
tool looks there. Whoever sets something apart notes its own digest in the document.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from journal.errors import CorruptJournal, JournalFailed, UnsupportedFormat
from journal.storage import Storage

FORMAT: Final = 1
"""Version of columns and document, of kinds of files that have no later one of their own."""
DOCUMENT: Final = b"training_journal"
"""The key of the JSON document in the file's metadata."""
DIGEST: Final = b"training_journal_sha256"
"""The key of the SHA-256, 64 hexadecimal digits."""
APART: Final = b"training_journal_apart"
"""The key of where that begins which is set apart, 16 hexadecimal digits; it ends where the footer begins."""

_ZEROS: Final = b"0" * 64
# Thrift's compact protocol: key, then field header 0x18 (the next field, a string) and its length, 0x40.
_FIELD: Final = re.compile(re.escape(DIGEST) + rb"\x18\x40([0-9a-f]{64})")
_BEGIN: Final = re.compile(re.escape(APART) + rb"\x18\x10([0-9a-f]{16})")
# Threads of Arrow's may still let go of what a Python file gave when the interpreter is already being taken down: the
# process aborts, or hangs (github.com/apache/arrow, issues 34314 and 50482). So none reads or decodes here.
NO_READERS: Final[dict[str, Any]] = {"pre_buffer": False}
"""For who opens a Python file."""
NO_THREADS: Final[dict[str, Any]] = {"use_threads": False}
"""For who reads from it."""

# Pages of a megabyte, as Arrow made them before it bounded their rows too: what is small is unpacked slower, and zstd
# finds less in it. Its second level then gives rewards less space than the third, in less time, there and back.
PACKED: Final = ("zstd", 2)
"""How pages are compressed, and at what level."""
_PAGES: Final[dict[str, Any]] = {
    "compression": PACKED[0],
    "compression_level": PACKED[1],
    **({"max_rows_per_page": 1 << 20} if "max_rows_per_page" in inspect.signature(pq.ParquetWriter).parameters else {}),
}

HELD_MAX: Final = 64 << 20
"""Bytes: rows that take more are not held in memory, but read again when they are asked for."""
_CHUNK: Final = 4 << 20
_FOOTER_MAX: Final = 1 << 30
"""Bytes: a footer that claims more is refused unread."""
_THRIFT_LIMIT: Final = (1 << 31) - 1


class Writer:
    """Writes one file to a stream; a context manager. Syncing and naming the file is the caller's."""

    def __init__(self, stream: IO[bytes], schema: pa.Schema, **options: Any) -> None:
        self._sink = _Sink(stream)
        sink = self._sink
        self._writer = pq.ParquetWriter(sink, schema, write_page_checksum=True, **_PAGES, **options)

    def write(self, table: pa.Table) -> None:
        """Append `table` as one row group."""
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def set_apart(self, data: bytes) -> int:
        """Put bytes behind all rows; no row may be written after them. Returns their offset."""
        return self._sink.set_apart(data)

    def close(self, document: dict[str, Any]) -> tuple[int, str]:
        """Write the footer with `document` in it; `format` in it says another version than `FORMAT`.

        Returns (size in bytes, SHA-256 of the file without what was set apart, in hexadecimal).
        """
        text = json.dumps({"format": FORMAT, **document}, separators=(",", ":"), allow_nan=False)
        apart = self._sink.apart
        metadata = {} if apart is None else {APART: b"%016x" % apart}
        self._writer.add_key_value_metadata({DOCUMENT: text.encode(), **metadata, DIGEST: _ZEROS})
        self._sink.hold()
        self._writer.close()
        return self._sink.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Left unfinished, Arrow would write a footer when it is collected; so it does now, to where nobody reads it.
        self._sink.hold()
        self._writer.close()


class _Sink(io.RawIOBase):
    """Hashes what passes; holds the footer back until the digest is known, so that nothing is written twice."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._held: bytearray | None = None
        self._size = 0
        self.apart: int | None = None
        """Where that begins which is set apart."""

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._held is None:
            self._pass(view)
        else:
            self._held += view
            self._size += len(view)
        return len(view)

    def set_apart(self, data: bytes) -> int:
        offset = self._size
        self.apart = offset if self.apart is None else self.apart
        self._stream.write(data)
        self._size += len(data)
        return offset

    def hold(self) -> None:
        """From here on comes the footer: nothing goes to the stream but what `finish` writes."""
        self._held = bytearray()

    def finish(self) -> tuple[int, str]:
        """Write what was held back, with the digest in its place."""
        footer = bytes(self._held or b"")
        self._size -= len(footer)
        field = _field(footer)
        assert field is not None, "the metadata is not where Parquet keeps it"
        digest = self._hash.copy()
        digest.update(footer)
        self._pass(memoryview(footer[: field.start(1)] + digest.hexdigest().encode() + footer[field.end(1) :]))
        return self._size, self._hash.hexdigest()

    def _pass(self, view: memoryview) -> None:
        self._hash.update(view)
        self._stream.write(view)
        self._size += len(view)


@dataclass(frozen=True, slots=True)
class Checked:
    """An open file whose every byte was found to be what was written."""

    path: str
    file: pq.ParquetFile
    twin: pq.ParquetFile
    """Another reader of the same bytes: each is for one thread at a time."""
    document: dict[str, Any]
    size: int
    sha256: str
    """Of the file as it is, without what is set apart: what `sha256sum` prints, where nothing is."""


def open_checked(storage: Storage, path: str, seq: int, schema: pa.Schema, newest: int = FORMAT) -> Checked:
    """Check the whole file, then open it. `seq` is the first event that is in doubt if it is damaged.

    `newest` is the newest format version of its kind that is read here.

    Raises `CorruptJournal` for a missing or damaged file or one with other columns, `UnsupportedFormat` for a newer
    one, `JournalFailed` where a read fails. Memory: the file as it is; where that is more than `HELD_MAX`, its footer.
    """
    with reading(path, seq):
        size = storage.size(path)
        sha256, footer, held = _check(storage, path, size)
        limits = {"thrift_string_size_limit": _THRIFT_LIMIT, "thrift_container_size_limit": _THRIFT_LIMIT}
        # The footer that was checked: Arrow would read it again, and what lies before it too.
        metadata = pq.ParquetFile(pa.BufferReader(footer), **limits).metadata
        file, twin = (
            pq.ParquetFile(
                _Source(storage, path, size) if held is None else pa.BufferReader(held),
                metadata=metadata,
                page_checksum_verification=True,
                **NO_READERS,
                **limits,
            )
            for _ in range(2)
        )
        document = json.loads(file.metadata.metadata[DOCUMENT])
        version = document["format"]
        if isinstance(version, int) and version > newest:
            raise UnsupportedFormat(
                f"{path}: written in format {version}, this training-journal reads format {newest}: upgrade it"
            )
        if not file.schema_arrow.remove_metadata().equals(schema):
            raise ValueError("its columns are not those of this format")
    return Checked(path, file, twin, document, size, sha256)


@contextmanager
def reading(path: str, seq: int) -> Iterator[None]:
    """Whatever is wrong with the file within the block, as an error of the journal."""
    try:
        yield
    except FileNotFoundError:
        raise CorruptJournal(path, 0, seq, "this file of the journal is missing: it was removed from outside") from None
    except OSError as error:
        # Arrow says "OSError" also of bytes that make no sense, but without a number.
        if error.errno is None:
            raise CorruptJournal(path, 0, seq, f"the file is damaged: {error}") from error
        raise JournalFailed(
            f"{path} could not be read: {error.strerror or error}; nothing was changed: check the disk"
        ) from error
    except (pa.ArrowException, ArithmeticError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CorruptJournal(path, 0, seq, f"the file is damaged: {error}") from error


def _field(footer: bytes) -> re.Match[bytes] | None:
    """Where the digest stands: the last place that looks like it, since metadata come after all that users wrote."""
    found = list(_FIELD.finditer(footer))
    return found[-1] if found else None


def _check(storage: Storage, path: str, size: int) -> tuple[str, bytes, pa.Buffer | None]:
    """The file's SHA-256, its footer, and its rows if they are held; `ValueError` where it is not the one written."""
    tail = storage.read(path, max(0, size - 8), 8)
    length = int.from_bytes(tail[:4], "little")
    start = size - 8 - length
    if tail[4:] != b"PAR1" or start < 0 or length > _FOOTER_MAX:
        raise ValueError("it does not end as a Parquet file does")
    footer = storage.read(path, start, size - start)
    field, begins = _field(footer), list(_BEGIN.finditer(footer))
    end = min(start, int(begins[-1][1], 16)) if begins else start
    whole = hashlib.sha256()
    held = pa.allocate_buffer(end) if end <= HELD_MAX else None
    if held is None:
        for offset in range(0, end, _CHUNK):
            whole.update(storage.read(path, offset, min(_CHUNK, end - offset)))
    else:
        memory = memoryview(held).cast("B")
        whole.update(memory[: storage.read_into(path, memory)])
    if field is None:
        raise ValueError("it does not hold the SHA-256 of itself")
    zeroed = whole.copy()
    zeroed.update(footer[: field.start(1)] + _ZEROS + footer[field.end(1) :])
    if zeroed.hexdigest().encode() != field[1]:
        raise ValueError("its SHA-256 does not match")
    whole.update(footer)
    return whole.hexdigest(), footer, held


class _Source(io.RawIOBase):
    """A file too large to be held, as a Python file object, by `Storage.read`: never mapped."""

    def __init__(self, storage: Storage, path: str, size: int) -> None:
        self._storage, self._path, self._size = storage, path, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        length = self._size - self._at if size is None or size < 0 else size
        data = self._storage.read(self._path, self._at, length)
        self._at += len(data)
        return data
