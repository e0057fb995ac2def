"""An agent's state as bytes and back: msgpack with a few extension types. Nothing is pickled, nothing is executed.

    header   magic 8s | version u16 | form u8 | zero u8 | crc32c of the body u32 | size u64 | stored u64 | crc32c u32
    body     msgpack of `size` bytes, in `stored` bytes: as it is (form 0) or compressed by zstd (form 1)

What msgpack does not know is told apart by extension types: numpy arrays and scalars, torch tensors, integers beyond
64 bit, complex numbers. A container other than list and dict is an array whose first item is a *tag*, so nothing is
packed twice: `(1, 2)` is `[tag "tuple", 1, 2]`. What comes back has the same types and bits; arrays come back
writable and in C order, `bytearray` and `memoryview` as `bytes`. An object that is in the state twice comes back as
two.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from agents_adapter import tensors
from journal.crc import crc32c
from journal.errors import EventRejected

MAGIC: Final = b"tjstate\n"
VERSION: Final = 1
SIZE_MAX: Final = 1 << 36
"""Bytes of the largest state, uncompressed: 64 GiB."""

_HEADER: Final = struct.Struct("<8sHBBIQQ")
_HEADER_CRC: Final = struct.Struct("<I")
_HEADER_SIZE: Final = _HEADER.size + _HEADER_CRC.size
_RAW, _ZSTD = 0, 1
_COMPRESS_FROM: Final = 512
_CHUNK: Final = 1 << 20

_TAG, _ARRAY, _SCALAR, _TENSOR, _INTEGER, _COMPLEX = range(6)
_COMPLEX_FORM: Final = struct.Struct("<dd")
_DTYPE_NAME: Final = re.compile(r"[<>|][biufcmMSUV]\d{1,9}(\[\d*[A-Za-zμ]+(/\d+)?\])?")
_FACTORIES: Final[dict[str, Callable[[], Any]]] = {f.__name__: f for f in (bool, int, float, str, list, dict, set)}


def encode(state: Any, name: str = "state") -> bytes:
    """`state` as bytes; `name` is how its root is called in errors ("" for a dict whose keys are names themselves).

    Raises `EventRejected` for what it cannot hold, naming the path: "state['policy']['opt'][3] is a function".
    """
    try:
        plain = bytes(_pack(state))
    except (TypeError, ValueError, OverflowError, RecursionError, BufferError) as error:
        raise EventRejected(_explain(state, name, error)) from error
    if len(plain) > SIZE_MAX:
        raise EventRejected(f"{name or 'the state'} is {len(plain):,} bytes; a checkpoint holds at most {SIZE_MAX:,}")
    form, body = _RAW, plain
    if len(plain) >= _COMPRESS_FROM:
        import zstandard

        compressed = zstandard.ZstdCompressor(level=1).compress(plain)
        # Below a tenth saved, reading it back costs more than the room is worth.
        if len(compressed) < len(plain) * 0.9:
            form, body = _ZSTD, compressed
    header = _HEADER.pack(MAGIC, VERSION, form, 0, crc32c(body), len(plain), len(body))
    return b"".join((header, _HEADER_CRC.pack(crc32c(header)), body))


def decode(data: bytes) -> Any:
    """The state that `encode` gave these bytes for. Executes nothing.

    Memory is taken for what the bytes really hold, never for what they claim. Raises `ValueError`, naming what is
    wrong; also where the state holds torch tensors and torch was not imported.
    """
    plain = _body(data)
    try:
        return msgpack.unpackb(
            plain,
            ext_hook=_from_extension,
            list_hook=_from_list,
            strict_map_key=False,
            unicode_errors="surrogatepass",
        )
    except _UNDECODABLE as error:
        raise ValueError(f"the state does not decode: {error or type(error).__name__}") from error


def _body(data: bytes) -> bytes | bytearray:
    if len(data) < _HEADER_SIZE:
        raise ValueError(f"no state: {len(data)} bytes are less than its header")
    header = data[: _HEADER.size]
    magic, version, form, zero, body_crc, size, stored = _HEADER.unpack(header)
    if magic != MAGIC:
        raise ValueError(f"no state: it begins with {magic!r}")
    if _HEADER_CRC.unpack_from(data, _HEADER.size)[0] != crc32c(header):
        raise ValueError("the header does not match its checksum")
    if version > VERSION:
        raise ValueError(f"written in state format {version}, this training-journal reads {VERSION}: upgrade it")
    if form not in (_RAW, _ZSTD) or zero:
        raise ValueError(f"the header names form {form}, which does not exist")
    if stored != len(data) - _HEADER_SIZE:
        raise ValueError(f"the header says {stored:,} bytes, {len(data) - _HEADER_SIZE:,} are there")
    if size > SIZE_MAX:
        raise ValueError(f"the header says {size:,} bytes, a state has at most {SIZE_MAX:,}")
    body = data[_HEADER_SIZE:]
    if crc32c(body) != body_crc:
        raise ValueError("the content does not match its checksum")
    plain = body if form == _RAW else _decompressed(body, size)
    if len(plain) != size:
        raise ValueError(f"the header says {size:,} bytes, the content has {len(plain):,}")
    return plain


def _decompressed(body: bytes, size: int) -> bytearray:
    """At most `size` + 1 chunk of bytes; grown as they come, because `size` is a claim.

    A few kilobytes can really become gigabytes: what this machine has no memory for is refused before it is begun.
    """
    import zstandard

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else SIZE_MAX
    if size > memory:
        raise ValueError(f"the content claims {size:,} bytes, this machine has {memory:,} of memory")
    plain = bytearray()
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(body) as reader:
            while len(plain) <= size and (chunk := reader.read(_CHUNK)):
                plain += chunk
    except zstandard.ZstdError as error:
        raise ValueError(f"the content does not decompress: {error}") from error
    except MemoryError:
        raise ValueError(f"no memory for the {size:,} bytes that the content has") from None
    return plain


# -- what msgpack does not know ----------------------------------------------------------------------------------------


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=_plain, strict_types=True, unicode_errors="surrogatepass")
    return packed


def _plain(value: Any) -> Any:
    """`value` as what msgpack packs; its items may need this again. Raises `TypeError` for what a state cannot hold."""
    if isinstance(value, np.ndarray):
        if type(value) not in (np.ndarray, np.memmap):
            raise TypeError(f"{_article(type(value))}, not a plain numpy array")
        return _array_extension(_ARRAY, value)
    if isinstance(value, np.generic):
        return _array_extension(_SCALAR, np.asarray(value))
    convert = _CONTAINERS.get(type(value))
    if convert is not None:
        return convert(value)
    if type(value) is int:
        return msgpack.ExtType(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    if type(value) is complex:
        return msgpack.ExtType(_COMPLEX, _COMPLEX_FORM.pack(value.real, value.imag))
    if tensors.is_tensor(value):
        dtype, shape, raw = tensors.take_apart(value)
        return msgpack.ExtType(_TENSOR, _with_head([dtype, shape], raw))
    raise TypeError(_article(type(value)))


def _tagged(tag: str, items: Iterable[Any]) -> list[Any]:
    return [msgpack.ExtType(_TAG, tag.encode()), *items]


def _default_dict(value: defaultdict[Any, Any]) -> list[Any]:
    factory = value.default_factory
    name = getattr(factory, "__name__", "") if factory is not None else ""
    if factory is not None and _FACTORIES.get(name) is not factory:
        raise TypeError(f"a defaultdict of {name or factory!r:.60}, which cannot be saved: give dict(it)")
    return _tagged("defaultdict", [name, *_flat(value)])


def _flat(value: dict[Any, Any]) -> list[Any]:
    return [part for item in value.items() for part in item]


_CONTAINERS: Final[dict[type, Callable[[Any], list[Any]]]] = {
    tuple: lambda value: _tagged("tuple", value),
    set: lambda value: _tagged("set", value),
    frozenset: lambda value: _tagged("frozenset", value),
    deque: lambda value: _tagged("deque", [value.maxlen, *value]),
    OrderedDict: lambda value: _tagged("OrderedDict", _flat(value)),
    defaultdict: _default_dict,
}


def _array_extension(kind: int, array: NDArray[Any]) -> msgpack.ExtType:
    dtype = array.dtype
    if dtype.hasobject:
        raise TypeError("a numpy array of dtype object: give numbers, or a list")
    descr = np.lib.format.dtype_to_descr(dtype)
    if not dtype.itemsize or _dtype(descr) != dtype:
        raise TypeError(f"a numpy array of dtype {dtype}, which cannot be told by a name: convert it first")
    # np.ascontiguousarray would give a scalar a dimension.
    raw = np.asarray(array, order="C").reshape(-1).view(np.uint8)
    return msgpack.ExtType(kind, _with_head([descr, list(array.shape)], raw.data))


def _with_head(head: list[Any], raw: memoryview) -> bytes:
    packed = msgpack.packb(head)
    data = b"".join((struct.pack("<I", len(packed)), packed, raw))
    if len(data) >= 1 << 32:
        raise ValueError(f"an array of {len(raw):,} bytes; one array holds at most 4 GiB: split it")
    return data


def _dtype(descr: Any) -> np.dtype[Any]:
    """The dtype of what `dtype_to_descr` gave."""
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(_descr(descr))
    return dtype


def _descr(descr: Any) -> Any:
    """The same with its tuples, which msgpack gives back as lists."""
    if isinstance(descr, str):
        # numpy reads much more than names as a dtype, and parses some of it as Python.
        if not _DTYPE_NAME.fullmatch(descr):
            raise ValueError(f"{descr!r:.40} is no dtype")
        return descr
    return [
        (tuple(name) if isinstance(name, list) else name, _descr(form), *map(tuple, shape))
        for name, form, *shape in descr
    ]


# -- and back ----------------------------------------------------------------------------------------------------------


_UNDECODABLE: Final = (
    msgpack.UnpackException,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
)


class _Tag(str):
    """The first item of an array that stands for another container; no state can hold one."""

    __slots__ = ()


def _from_extension(kind: int, data: bytes) -> Any:
    if kind == _TAG:
        return _Tag(data.decode())
    if kind in (_ARRAY, _SCALAR):
        (descr, shape), raw = _without_head(data)
        dtype = _dtype(descr)
        if not dtype.itemsize:  # numpy would make it 1, and room for as many items as are claimed.
            raise ValueError(f"an array of dtype {dtype} is not read")
        _check_size(shape, dtype.itemsize, raw)
        array: NDArray[Any] = np.ndarray(tuple(shape), dtype, buffer=raw).copy()
        return array if kind == _ARRAY else array[()]
    if kind == _TENSOR:
        (name, shape), raw = _without_head(data)
        return tensors.put_together(name, shape, raw)
    if kind == _INTEGER:
        return int.from_bytes(data, "little", signed=True)
    if kind == _COMPLEX:
        return complex(*_COMPLEX_FORM.unpack(data))
    raise ValueError(f"extension type {kind} does not exist")


def _without_head(data: bytes) -> tuple[Any, memoryview]:
    (length,) = struct.unpack_from("<I", data)
    return msgpack.unpackb(data[4 : 4 + length]), memoryview(data)[4 + length :]


def _check_size(shape: Any, itemsize: int, raw: memoryview) -> None:
    if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"{shape!r:.80} is no shape")
    if math.prod(shape) * itemsize != len(raw):
        raise ValueError(f"an array of shape {tuple(shape)} with items of {itemsize} bytes has {len(raw):,} bytes")


def _from_list(items: list[Any]) -> Any:
    if not items or type(items[0]) is not _Tag:
        return items
    tag = items.pop(0)
    build = _BUILDERS.get(tag)
    if build is None:
        raise ValueError(f"container {tag!r:.40} does not exist")
    return build(items)


def _pairs(flat: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


_BUILDERS: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": lambda items: deque(items[1:], maxlen=items[0]),
    "OrderedDict": lambda items: OrderedDict(_pairs(items)),
    "defaultdict": lambda items: defaultdict(_FACTORIES[items[0]] if items[0] else None, _pairs(items[1:])),
}


# -- errors ------------------------------------------------------------------------------------------------------------


def _explain(state: Any, name: str, error: BaseException) -> str:
    """Why packing failed, with the path: packing itself is fast and knows none, so the way is searched afterwards."""
    try:
        found = _culprit(state, name)
    except RecursionError:
        found = None
    if found is None:
        return f"{name or 'the state'} cannot be saved: it is nested too deeply, or holds itself ({error})"
    path, reason = found
    return (
        f"{path or 'the state'} is {reason}: a checkpoint holds numbers, text, bytes, numpy arrays, and lists, dicts, "
        "tuples and sets of these; leave it out, or give its data"
    )


def _culprit(value: Any, path: str) -> tuple[str, str] | None:
    if isinstance(value, dict) and (type(value) is dict or type(value) in _CONTAINERS):
        for key, item in value.items():
            step = f"{path}[{key!r:.60}]" if path else str(key)[:60]
            found = _culprit(key, f"the key {step}") or _culprit(item, step)
            if found is not None:
                return found
        inside: Any = type(value)() if not isinstance(value, defaultdict) else defaultdict(value.default_factory)
    elif type(value) in (list, tuple, set, frozenset, deque):
        for i, item in enumerate(value):
            found = _culprit(item, f"{path}[{i}]")
            if found is not None:
                return found
        inside = type(value)()
    else:
        inside = value
    try:
        _pack(inside)
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        return path, str(error)
    return None


def _article(kind: type) -> str:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
