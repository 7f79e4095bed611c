"""`python -m benchmarks NAME ...`: each NAME is a module of this folder with a `main()`.

`all` runs every one of them, in order of name; no name lists them.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys


def main(names: list[str]) -> int:
    here = __package__ or "benchmarks"
    known = sorted(
        module.name
        for module in pkgutil.iter_modules(importlib.import_module(here).__path__)
        if not module.name.startswith("_")
    )
    chosen = known if names == ["all"] else names
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        print(f"benchmarks: {', '.join(known)}, all", file=sys.stderr)
        return 2
    for name in chosen:
        module = importlib.import_module(f"{here}.{name}")
        if hasattr(module, "main"):
            module.main()
        elif name in names:
            print(f"{name} has no main()", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
