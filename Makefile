# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
# Each makes its own virtual environment with the tested versions; a second call reuses it.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
WORKERS ?= 2

# files of every layer
SMOKE = tests/functional tests/test_light_imports.py tests/test_config.py tests/test_cli.py tests/data/test_readers.py \
  tests/data/test_transforms.py tests/models/test_segmenter.py tests/models/test_weights.py \
  tests/engine/test_trainer.py tests/engine/test_tensorboard.py tests/bench/test_intervals.py tests/bench/test_table.py

.PHONY: quickstart test test-all test-ci test-floors test-newest mutants lint types docs report check clean help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(READY) ## the main job on the embedded default: every family on procedural streets, a table, pictures, curves
	$(BIN)/uda bench benchmarks/quickstart.yaml --out runs --workers $(WORKERS)

test: $(READY) ## the default tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-all: $(READY) ## all tests, the slow ones too
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-ci: $(READY) ## what CI runs: all but the longest, which look once more at what others test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not soak"

test-floors: RESOLUTION = lowest-direct
test-floors: ## the oldest versions that pyproject.toml allows, in an environment of their own: commands, some tests
test-newest: RESOLUTION = highest
test-newest: ## the same with today's newest versions
test-floors test-newest:
	$(PYTHON) -m venv --clear .venv-$(RESOLUTION)
	.venv-$(RESOLUTION)/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-$(RESOLUTION)/bin/uv pip install --python .venv-$(RESOLUTION)/bin/python --resolution $(RESOLUTION) -e '.[dev]'
	.venv-$(RESOLUTION)/bin/uda --help > /dev/null
	.venv-$(RESOLUTION)/bin/uda bench --list
	.venv-$(RESOLUTION)/bin/uda methods > /dev/null
	.venv-$(RESOLUTION)/bin/python -m pytest -m "not slow" $(SMOKE)

mutants: $(READY) ## the tests against more than a hundred deliberately wrong lines; long, not in CI
	$(BIN)/python -m tests.mutants -j $(WORKERS)

lint: $(READY) ## ruff, as CI runs it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, as CI runs it
	$(BIN)/mypy

docs: $(READY) ## the documentation site in site/, warnings as errors; nothing is fetched
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

report: $(READY) ## the report: its notebook from experiments/report.py, executed (minutes), and runs/report/report.html
	$(BIN)/python experiments/build_report.py

check: lint types test ## everything before a commit

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .venv-* .pytest_cache .ruff_cache .mypy_cache build site *.egg-info

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "uda needs Python 3.11 or newer; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@
