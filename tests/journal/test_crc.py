"""The checksum's function, with its package and without."""

from __future__ import annotations

import importlib.util
from typing import Any

import crc32c as package
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal import crc


@given(st.binary(max_size=200), st.integers(0, 0xFFFFFFFF))
def test_it_is_the_function_of_its_package(data: bytes, begun: int) -> None:
    assert crc.crc32c(data, begun) == package.crc32c(data, begun)
    assert crc.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("found", [None, importlib.util.find_spec("json"), importlib.util.find_spec("struct")])
def test_a_package_of_another_layout_is_imported_whole(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crc, "find_spec", lambda name: found)
    assert crc._load() is package.crc32c
