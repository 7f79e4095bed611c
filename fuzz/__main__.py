"""`python -m fuzz`: the package's docstring says how."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from fuzz import __doc__ as ABOUT
from fuzz import corpus, reach
from fuzz.targets import TARGETS, Target
from fuzz.words import libfuzzer_dictionary

WORK = Path("build/fuzz")
ONE_INPUT_S = 10
MEMORY_MB = 2048


def run(name: str, seconds: float) -> int:
    """The target under the fuzzer; the exit status is not 0 if it has found something."""
    target, folder = TARGETS[name], WORK / name
    inputs = folder / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    for data in (*target.seeds(), *corpus.load(name)):
        (inputs / hashlib.sha1(data).hexdigest()).write_bytes(data)
    options = [
        f"-max_total_time={seconds:.0f}",
        f"-max_len={target.octets}",
        f"-timeout={ONE_INPUT_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    if words := target.words():
        dictionary = folder / "words"
        dictionary.write_text(libfuzzer_dictionary(words))
        options.append(f"-dict={dictionary}")
    began = time.monotonic()
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "fuzz.drive", name, *options, str(inputs)]
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    print(f"{name}: {time.monotonic() - began:.0f} s, {_figures(folder / 'log')}", flush=True)
    for found in sorted(folder.glob("crash-*")) + sorted(folder.glob("timeout-*")):
        print(f"  found {found}")
    if status:
        print((folder / "log").read_text(errors="replace")[-3000:])
    return status


def _figures(log: Path) -> str:
    text = log.read_text(errors="replace")
    runs = re.findall(r"number_of_executed_units: (\d+)", text)
    lines = re.findall(r"#\d+\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)", text)
    told = [f"{runs[-1]} runs"] if runs else []
    if lines:
        cov, ft, corp = lines[-1]
        told.append(f"{cov} branches, {ft} features, {corp} inputs")
    return ", ".join(told) or "no figures"


def keep(name: str) -> None:
    """Write the few inputs that reach everything; a first one that fails is named."""
    target = TARGETS[name]
    found = [path.read_bytes() for path in sorted((WORK / name / "inputs").glob("*"))]
    chosen, steps = reach.fewest(target.run, [*target.seeds(), *corpus.load(name), *found])
    corpus.save(name, chosen)
    size = corpus.path_of(name).stat().st_size
    shares = reach.share(steps, target.files)
    told = ", ".join(f"{file} {seen}/{whole}" for file, (seen, whole) in shares.items())
    print(
        f"{name}: {len(chosen)} inputs, {size} octets, {len(steps)} steps; lines: {told}",
        flush=True,
    )


def replay(name: str, files: list[str]) -> None:
    target: Target = TARGETS[name]
    inputs = [Path(file).read_bytes() for file in files] or corpus.load(name)
    for data in inputs:
        target.run(data)
    print(f"{name}: {len(inputs)} inputs, nothing found")


def main(words: list[str]) -> int:
    if not words:
        print(ABOUT)
        print("targets:", ", ".join(TARGETS))
        return 0
    if words[0] == "replay":
        replay(words[1], words[2:])
        return 0
    if words[0] == "keep":
        for name in TARGETS if words[1:] == ["all"] else words[1:]:
            keep(name)
        return 0
    seconds = float(words[1]) if len(words) > 1 else 60.0
    names = [
        n for n in TARGETS if words[0] == "all" or n == words[0] or n.startswith(f"{words[0]}-")
    ]
    if not names:
        print(f"targets: {', '.join(TARGETS)}, all", file=sys.stderr)
        return 2
    if find_spec("atheris") is None:
        print("fuzzing needs atheris: pip install -e '.[fuzz]'", file=sys.stderr)
        return 2
    return max([run(name, seconds) for name in names])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
