"""The machine: what measured figures depend on, so that they are never shown without it."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from typing import Any, Final

import journal
from journal.storage.disk import DiskStorage

_LIBRARIES: Final = ("numpy", "pyarrow", "crc32c", "blake3")


def machine(directory: str) -> dict[str, Any]:
    """Processor, system, versions, load, and the file system of `directory`."""
    storage = DiskStorage(directory)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "time": time.strftime("%H:%M"),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "training_journal": journal.__version__,
        "libraries": {name: version for name in _LIBRARIES if (version := version_of(name)) is not None},
        "file_system": storage.file_system,
        "mapped": storage.mappable,
    }


def line(about: dict[str, Any]) -> str:
    """The machine in one line, for people."""
    mapped = "mapped" if about["mapped"] else "pwrite"
    return (
        f"{about['date']} · {about['cores']} × {about['cpu']} · {about['system']} · Python {about['python']} · "
        f"{about['file_system']}, {mapped} · load {about['load']}"
    )


def version_of(distribution: str) -> str | None:
    """The installed version, None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line_ in lines:
                if line_.startswith("model name"):
                    return line_.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine()
