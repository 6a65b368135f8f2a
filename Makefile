# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
# Each makes its own virtual environment with the tested versions; a second call reuses it.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
WORKERS ?= 2

.PHONY: quickstart test test-all mutants lint types check clean help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(READY) ## the main job on the embedded default: every family on procedural streets, a table, pictures, curves
	$(BIN)/uda bench benchmarks/quickstart.yaml --out runs --workers $(WORKERS)

test: $(READY) ## the default tests
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-all: $(READY) ## all tests, the slow ones too
	$(BIN)/python -m pytest -n $(WORKERS)

mutants: $(READY) ## the tests against some seventy deliberately wrong lines; half an hour, not in CI
	$(BIN)/python -m tests.mutants -j $(WORKERS)

lint: $(READY) ## ruff, as CI runs it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, as CI runs it
	$(BIN)/mypy

check: lint types test ## everything before a commit

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build *.egg-info

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "uda needs Python 3.11 or newer; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
