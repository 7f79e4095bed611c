# The README's words. Each target sets up first what it needs.
PY := .venv/bin/python
BENCH ?= all

.PHONY: demo test check setup bench lock clean

setup:
	@scripts/setup

demo: setup
	@$(PY) -m samepath.lab.demo

test: check
	@$(PY) -m pytest -q -m "netns or interop or lab"

check: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PY) -m pytest -q -m "not netns and not interop and not lab"

bench: setup
	@$(PY) -m benchmarks $(BENCH)

# Writes requirements.lock anew from pyproject.toml (needs uv from PyPI).
lock:
	@uv pip compile pyproject.toml --all-extras --generate-hashes --no-header --python-version 3.11 -o requirements.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis report
