"""One target under the fuzzer: `python -m fuzz.drive TARGET [libFuzzer's options and folders]`.

A process of its own, since our modules must be imported with counters in them, and since libFuzzer
ends the process itself. Started by `fuzz.__main__`.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["samepath"]):
    from fuzz.targets import TARGETS


def main() -> None:
    name = sys.argv.pop(1)
    target = TARGETS[name]
    options = {}
    if (change := target.mutated) is not None:

        def custom_mutator(data: bytes, most: int, seed: int) -> bytes:
            return change(data, most, seed, atheris.Mutate)

        options["custom_mutator"] = custom_mutator
    atheris.Setup(sys.argv, target.run, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
