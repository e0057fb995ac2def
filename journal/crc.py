"""`crc32c`, the checksum of cells: the one function that is needed of the package of this name.

`import crc32c` looks up its own version in its metadata, for which Python imports email, zipfile, and what they need: a
third of the time that `import journal` took. So its extension module is loaded without the package around it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any


def _load() -> Callable[..., int]:
    package = find_spec("crc32c")
    folders = None if package is None else package.submodule_search_locations
    spec = None if folders is None else PathFinder.find_spec("crc32c._crc32c", folders)
    if spec is None or spec.loader is None:  # Another release may be laid out in another way.
        from crc32c import crc32c

        return crc32c
    extension: Any = module_from_spec(spec)
    spec.loader.exec_module(extension)
    function: Callable[..., int] = extension.crc32c
    return function


crc32c = _load()
"""`crc32c(data, value=0)`: the crc of `data`, begun with that of what stands before it."""
