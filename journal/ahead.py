"""Reading ahead: what is needed next is made in a thread, while what is at hand is looked at.

Reading, hashing, unpacking Parquet and adding arrays up release the interpreter, so two processors have work.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar, cast

from journal.storage import Storage
from journal.storage.buffers import Buffers

T = TypeVar("T")

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
        return at_once(function, *arguments)


def at_once(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """The function's result, or what it raised, to be told where it is asked for."""
    done: Future[T] = Future()
    try:
        done.set_result(function(*arguments))
    except BaseException as error:
        done.set_exception(error)
    return done


def files(storage: Storage, paths: Iterable[str], limit: int) -> Generator[memoryview, None, None]:
    """Up to `limit` bytes of each file, read ahead. Memory: three of them, or as many as somebody holds views of."""
    buffers = Buffers()
    return ahead(buffers.read(storage, path, limit) for path in paths)
