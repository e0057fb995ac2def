"""`python -m agents_adapter.demo [--dir DIR] [--keep] [--json]`; `journal demo` is the same."""

from __future__ import annotations

import argparse
import sys

from agents_adapter.demo.attempt import DemoFailed
from agents_adapter.demo.story import tell
from journal.errors import JournalError


def main() -> int:
    """0: everything is equal; 1: something is not; 2: the demo could not run."""
    parser = argparse.ArgumentParser(prog="journal demo", description="Train, kill, resume, compare. Under a minute.")
    parser.add_argument("--dir", help="a new or empty directory for the two journals, kept (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    try:
        return tell(options.dir, keep=options.keep, as_json=options.json)
    except (DemoFailed, JournalError, ModuleNotFoundError, OSError) as error:
        print(f"journal demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("journal demo: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
