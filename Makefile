# The README's words. Each target sets up first what it needs.
PY := .venv/bin/python
BENCH ?= all
TARGET ?= all
TIME ?= 60

.PHONY: demo test check lint setup bench fuzz lock clean root

setup:
	@scripts/setup

# What runs in network namespaces of its own needs root; it says so before anything else.
root:
	@[ "$$(id -u)" -eq 0 ] || { echo "samepath: this needs root, for network namespaces (try: sudo make $(MAKECMDGOALS))"; exit 1; }

demo: root setup
	@$(PY) -m samepath.lab.demo

test: root lint
	@$(PY) scripts/test.py quick whole

check: lint
	@$(PY) scripts/test.py quick

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

bench: root setup
	@$(PY) -m benchmarks $(BENCH)

# TARGET=bgp-update TIME=60: one target for so many seconds (docs/fuzzing.md).
fuzz: setup
	@$(PY) -m fuzz $(TARGET) $(TIME)

# Writes the locks anew from pyproject.toml: all of it for tests, and the image's two stages (needs uv from PyPI).
LOCK := pip compile pyproject.toml --generate-hashes --no-header --python-version 3.11
lock:
	@uv $(LOCK) --all-extras -o requirements.lock
	@uv $(LOCK) --extra build -c requirements.lock -o deploy/build.lock
	@uv $(LOCK) -c requirements.lock -o deploy/runtime.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build report src/samepath/cni/bin src/samepath/bpf/samepath.bpf.o
