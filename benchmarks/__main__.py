"""`python -m benchmarks NAME ...`: each NAME is a module of this folder with a `main()`.

`all` runs every one of them, in order of name; no name lists them.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import pkgutil
import sys

from benchmarks.feeder import FeedError
from benchmarks.stage import StageError


def _has_main(module: str) -> bool:
    """Told by the source: what the benchmarks share has none, and listing imports nothing."""
    found = importlib.util.find_spec(module)
    if found is None or not isinstance(found.loader, importlib.machinery.SourceFileLoader):
        return False
    return "\ndef main(" in (found.loader.get_source(module) or "")


def main(names: list[str]) -> int:
    here = __package__ or "benchmarks"
    known = sorted(
        module.name
        for module in pkgutil.iter_modules(importlib.import_module(here).__path__)
        if not module.name.startswith("_") and _has_main(f"{here}.{module.name}")
    )
    chosen = known if names == ["all"] else names
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        print(f"benchmarks: {', '.join(known)}, all", file=sys.stderr)
        return 2
    for name in chosen:
        try:
            importlib.import_module(f"{here}.{name}").main()
        except (FeedError, StageError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
