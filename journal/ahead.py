"""Reading ahead: what is needed next is made in a thread, while what is at hand is looked at.

Reading, hashing, unpacking Parquet and adding arrays up release the interpreter, so two processors have work.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar, cast

import numpy as np

from journal.storage import Storage

T = TypeVar("T")

_CHUNK: Final = 1 << 20
"""Bytes that are read at once: the system copies them to where they still are when they are copied on."""
_END: Final = object()


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items. The next one is made in a thread as soon as one is handed out.

    What making it raises is raised where it is asked for. Left early, it waits for the item that is being made.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, "reading ahead") as pool:
        coming = submit(pool, next, source, _END)
        while (item := coming.result()) is not _END:
            coming = submit(pool, next, source, _END)
            yield cast(T, item)


def submit(pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> Future[T]:
    """As `pool.submit`; where no thread can be started any more, as the program is ending, it is done at once."""
    try:
        return pool.submit(function, *arguments)
    except RuntimeError:
        done: Future[T] = Future()
        try:
            done.set_result(function(*arguments))
        except BaseException as error:
            done.set_exception(error)
        return done


class Buffers:
    """Memory to read files into, used again when nobody looks at it any more: fresh memory costs as much as reading."""

    def __init__(self) -> None:
        self._all: list[bytearray] = []

    def read(self, storage: Storage, path: str, limit: int) -> memoryview:
        """Up to `limit` bytes of a file, read-only. Raises as `Storage.read` does."""
        size = min(storage.size(path), limit)
        buffer = self._free(size)
        target = np.frombuffer(buffer, dtype=np.uint8)
        end = 0
        while end < size:
            data = storage.read(path, end, min(_CHUNK, size - end))
            if not data:
                break  # It was cut meanwhile.
            target[end : end + len(data)] = np.frombuffer(data, dtype=np.uint8)
            end += len(data)
        return memoryview(buffer)[:end].toreadonly()

    def _free(self, size: int) -> bytearray:
        for buffer in [*self._all]:
            if buffer and not _in_use(buffer):
                if len(buffer) >= size:
                    return buffer
                self._all.remove(buffer)  # The next ones are no smaller: segments grow.
        made = bytearray(size)
        self._all.append(made)
        return made


def _in_use(buffer: bytearray) -> bool:
    """Is there a view of it? Python refuses to change the length of such a one."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return True
    return False


def files(storage: Storage, paths: Iterable[str], limit: int) -> Generator[memoryview, None, None]:
    """Up to `limit` bytes of each file, read ahead. Memory: three of them, or as many as somebody holds views of."""
    buffers = Buffers()
    return ahead(buffers.read(storage, path, limit) for path in paths)
