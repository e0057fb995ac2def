"""A process of its own: for what must be measured without the memory, threads and imports of others.

It ends as one that died does, by `os._exit`: what is to be closed, the function closes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")


class Died(RuntimeError):
    """The process ended without a result."""


def fresh(function: Callable[..., T], *arguments: Any) -> T:
    """The function's result in a new process. Raises `Died`, with the other process's own words."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(there, function, arguments))
    process.start()
    there.close()
    result: T
    try:
        error, result = here.recv()
    except EOFError:
        error = "no word from it"
    finally:
        process.join()
    if error is not None:
        raise Died(f"{function.__name__} ended with {process.exitcode}: {error}")
    return result


def _tell(there: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        there.send((None, function(*arguments)))
    except Exception as error:
        traceback.print_exc()
        there.send((repr(error), None))
    sys.stderr.flush()
    os._exit(0)
