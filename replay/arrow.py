"""Arrow arrays made from numpy's memory and from a few values, without `pa.array`.

That would import pandas: a quarter of a second and 26 MB, which whoever compacts a journal need not pay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numbers(values: NDArray[Any], type_: pa.DataType | None = None, valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """`values`, in the same memory; `type_` is one of their width, their own if None. Null where not `valid`."""
    values = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(values.dtype) if type_ is None else type_
    return pa.Array.from_buffers(kind, len(values), [_bits(valid), pa.py_buffer(values)])


def texts(values: Iterable[str], type_: pa.DataType | None = None) -> pa.Array:
    """Texts, none of them null."""
    raw = [one.encode() for one in values]
    offsets = np.cumsum([0, *map(len, raw)], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(raw))]
    return pa.Array.from_buffers(pa.string() if type_ is None else type_, len(raw), buffers)


def coded(index: NDArray[np.int32], values: Iterable[str]) -> pa.DictionaryArray:
    """`values[index]`, null where the index is negative."""
    absent = index < 0
    return pa.DictionaryArray.from_arrays(numbers(index, None, ~absent if absent.any() else None), texts(values))


def sparse(length: int, values: Mapping[int, bytes], type_: pa.DataType) -> pa.Array:
    """A column of `length` rows, of bytes or (UTF-8) text, that is null but for `values`, row → value.

    Raises `OverflowError` where they have 2 GB or more.
    """
    if not values:
        return pa.nulls(length, type_)
    raw = dict(sorted(values.items()))
    valid = np.zeros(length, dtype=np.bool_)
    valid[list(raw)] = True
    sizes = np.zeros(length + 1, dtype=np.int64)
    sizes[1:][valid] = [len(one) for one in raw.values()]
    offsets = np.cumsum(sizes)
    if offsets[-1] >= 1 << 31:
        raise OverflowError(f"{int(offsets[-1]):,} bytes in one column")
    buffers = [_bits(valid), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(raw.values()))]
    return pa.Array.from_buffers(type_, length, buffers)


def _bits(valid: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
