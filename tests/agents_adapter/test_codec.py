"""The codec gives back exactly what it took, refuses by name what it cannot hold, and no bytes make it misbehave."""

from __future__ import annotations

import enum
import pickle
import struct
import tracemalloc
from collections import OrderedDict, defaultdict, deque
from typing import Any

import msgpack
import numpy as np
import pytest
import zstandard
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agents_adapter import codec
from journal.errors import EventRejected


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(k, m) and same(v, w) for (k, v), (m, w) in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def there_and_back(state: Any) -> Any:
    return codec.decode(codec.encode(state))


DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(min_len=1),
    hnp.unicode_string_dtypes(min_len=1),
    hnp.array_dtypes(subtype_strategy=hnp.scalar_dtypes(), max_size=3),
)
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))
KEYS = st.one_of(
    st.text(),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False),
    st.binary(),
    st.tuples(st.integers(), st.text()),
    st.frozensets(st.integers()),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters()),
    st.binary(),
    st.sets(KEYS),
    ARRAYS,
    hnp.scalar_dtypes().flatmap(hnp.from_dtype),
)
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(lambda items: deque(items, maxlen=7)),
        st.dictionaries(KEYS, inner),
        st.dictionaries(KEYS, inner).map(OrderedDict),
        st.dictionaries(KEYS, inner).map(lambda items: defaultdict(float, items)),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(STATES)
def test_any_state_comes_back_equal_in_type_and_bits(state: Any) -> None:
    assert same(there_and_back(state), state)


def test_nan_bits_are_kept() -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0x7FF8_DEAD_BEEF_0001))[0]
    assert struct.pack("<d", there_and_back(odd)) == struct.pack("<d", odd)
    array = np.array([0x7FF8_DEAD_BEEF_0001, 0xFFF0_0000_0000_0001], dtype=np.uint64).view(np.float64)
    assert there_and_back(array).tobytes() == array.tobytes()


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 2**128 + 7, -(2**200), 0, -1])
def test_integers_of_any_size(number: int) -> None:
    assert there_and_back(number) == number


def test_arrays_come_back_writable_their_own_and_in_shape() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    for view in (array, array.T, array[:, ::2], array[..., ::-1], np.asfortranarray(array), array[0, 0, 0:0]):
        back = there_and_back(view)
        assert np.array_equal(back, view) and back.shape == view.shape
        assert back.flags.writeable and back.flags.owndata


def test_structured_aligned_and_big_endian_arrays() -> None:
    for dtype in (
        np.dtype([("s", "<f8"), ("a", "i1", (2, 3)), ("inner", [("x", "<u2")])]),
        np.dtype([("a", "i1"), ("b", "<f8")], align=True),
        np.dtype(">f4"),
        np.dtype("datetime64[ns]"),
    ):
        array = np.zeros(3, dtype)
        back = there_and_back(array)
        assert back.dtype == dtype and back.tobytes() == array.tobytes()


def test_default_dicts_keep_their_factory_and_deques_their_length() -> None:
    table = there_and_back(defaultdict(list, {(1, "long"): [0.5]}))
    assert table[(1, "long")] == [0.5] and table["new"] == []
    assert there_and_back(deque([1, 2], maxlen=2)).maxlen == 2
    assert there_and_back(defaultdict(None, a=1)).default_factory is None


class Color(enum.IntEnum):
    RED = 1


class Text(str):
    """A subclass that would come back as a plain str."""


@pytest.mark.parametrize(
    ("leaf", "what"),
    [
        (print, "builtin_function_or_method"),
        (object(), "object"),
        (Color.RED, "Color"),
        (Text("x"), "Text"),
        (np.array([object()]), "dtype object"),
        (np.ma.masked_array([1.0]), "MaskedArray"),
        (np.zeros(3, "V0"), "dtype"),
        (defaultdict(lambda: 0.0), "lambda"),
        (struct, "module"),
        ({1, 2}.__iter__(), "set_iterator"),
    ],
)
def test_what_it_cannot_hold_is_named_with_its_path(leaf: Any, what: str) -> None:
    with pytest.raises(EventRejected, match=what) as caught:
        codec.encode({"policy": {"opt": [1, 2, 3, leaf]}})
    message = str(caught.value)
    assert message.startswith("state['policy']['opt'][3] is ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ({"a": (1, deque([print]))}, "state['a'][1][0] is"),
        ({"a": defaultdict(list, x=[print])}, "state['a']['x'][0] is"),
        ({(1, print): 0}, "the key state[(1, <built-in function print>)][1] is"),
        (print, "state is"),
    ],
)
def test_paths_lead_through_every_container(state: Any, path: str) -> None:
    with pytest.raises(EventRejected) as caught:
        codec.encode(state)
    assert str(caught.value).startswith(path)


def test_a_root_without_a_name_lets_its_keys_speak() -> None:
    with pytest.raises(EventRejected, match=r"^state\['w'\] is a"):
        codec.encode({"state": {"w": object()}}, name="")


def test_a_state_that_holds_itself_or_is_too_deep_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(EventRejected, match="nested too deeply"):
        codec.encode(ring)
    deep: list[Any] = []
    for _ in range(450):
        deep = [deep]
    assert there_and_back(deep) == deep


# -- bytes that lie ----------------------------------------------------------------------------------------------------


def header(body: bytes, size: int, *, form: int = 0, stored: int | None = None, version: int = 1) -> bytes:
    packed = struct.pack(
        "<8sHBBIQQ", codec.MAGIC, version, form, 0, crc32c(body), size, len(body) if stored is None else stored
    )
    return packed + struct.pack("<I", crc32c(packed))


def forged(plain: bytes) -> bytes:
    return header(plain, len(plain)) + plain


def test_every_flipped_bit_is_found() -> None:
    data = codec.encode({"w": np.arange(5), "name": "x", "big": 2**70})
    for bit in range(len(data) * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            codec.decode(bytes(bad))


def test_every_cut_is_found() -> None:
    data = codec.encode(list(range(50)))
    for length in range(len(data)):
        with pytest.raises(ValueError):
            codec.decode(data[:length])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_no_content_raises_anything_but_value_error(plain: bytes) -> None:
    try:
        codec.decode(forged(plain))
    except ValueError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_altered_content_raises_anything_but_value_error(data: st.DataObject) -> None:
    state = {"a": np.zeros(3), "t": (1, 2), "d": deque([1]), "f": defaultdict(int, a=1), "n": np.float32(1), "z": 1j}
    plain = bytearray(codec._pack(state))
    for _ in range(data.draw(st.integers(1, 4))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.decode(forged(bytes(plain)))
    except ValueError:
        pass


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("claim", [100 * 10**9, 2**34, 2**63])
def test_a_claim_of_much_memory_takes_none(claim: int, form: int) -> None:
    plain = msgpack.packb([0] * 1000)
    body = zstandard.compress(plain) if form else plain
    tracemalloc.start()
    with pytest.raises(ValueError, match="the header says"):
        codec.decode(header(body, claim, form=form) + body)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_claim_over_the_limit_is_refused_for_what_it_is() -> None:
    with pytest.raises(ValueError, match="a state has at most"):
        codec.decode(header(b"\xc0", codec.SIZE_MAX + 1) + b"\xc0")


def test_a_compressed_bomb_stops_at_the_stated_size() -> None:
    body = zstandard.compress(bytes(200 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match="the header says 1,000 bytes"):
        codec.decode(header(body, 1000, form=1) + body)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("head", "raw", "what"),
    [
        (["<f8", [10**12]], b"", "has 0 bytes"),
        (["<f8", [-1]], b"", "no shape"),
        (["<f8", [2.0]], bytes(16), "no shape"),
        (["|O", [1]], bytes(8), r"'\|O' is no dtype"),
        ([[["x", "|O"]], [1]], bytes(8), r"'\|O' is no dtype"),
        (["<U0", [10**12]], b"", "dtype <U0"),
        (["os.system", [1]], bytes(8), "no dtype"),
        (["(2,)f8,i4", [1]], bytes(20), "no dtype"),
        (["<f8", [0, 2**63]], b"", "decode"),
    ],
)
def test_an_array_that_lies_is_refused(head: Any, raw: bytes, what: str) -> None:
    packed = msgpack.packb(head)
    array = msgpack.ExtType(1, struct.pack("<I", len(packed)) + packed + raw)
    with pytest.raises(ValueError, match=what):
        codec.decode(forged(msgpack.packb(array)))


def test_unknown_extensions_containers_and_versions_are_named() -> None:
    with pytest.raises(ValueError, match="extension type 77"):
        codec.decode(forged(msgpack.packb(msgpack.ExtType(77, b""))))
    with pytest.raises(ValueError, match="container 'eval'"):
        codec.decode(forged(msgpack.packb([msgpack.ExtType(0, b"eval"), "1"])))
    with pytest.raises(ValueError, match="format 2"):
        codec.decode(header(b"\xc0", 1, version=2) + b"\xc0")


def test_a_pickle_is_not_a_state() -> None:
    with pytest.raises(ValueError, match="no state"):
        codec.decode(pickle.dumps({"a": list(range(100))}))


def test_compression_is_used_where_it_helps_and_only_there() -> None:
    assert len(codec.encode(np.zeros(100_000))) < 10_000
    noise = np.random.default_rng(0).bytes(100_000)
    assert len(codec.encode(noise)) < 100_100
    assert there_and_back(noise) == noise


def test_format_version_1_is_read_for_ever() -> None:
    """The bytes of one small state as version 1 wrote them."""
    state = {"w": np.arange(2.0), "seen": {(1, "a"): 2**64}, "eps": 0.1}
    data = bytes.fromhex(GOLDEN)
    assert codec.encode(state) == data
    assert same(codec.decode(data), state)


GOLDEN = (
    "746a73746174650a010000007dce907e4c000000000000004c000000000000007e8b70c183a177c71b010700000092a33c66"
    "3891020000000000000000000000000000f03fa47365656e8193c705007475706c6501a161c70904000000000000000001a3"
    "657073cb3fb999999999999a"
)
