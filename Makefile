# Every target works on a machine that has git, make and Python 3.11 with pip; .venv is made from the lock.
PYTHON ?= python3.11
VENV := .venv
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: run test test-all lint ui lock lock-check clean

run: $(STAMP)  ## the main job on the bundled digits
	mlflow run . --env-manager local

test: $(STAMP)  ## everything that matters, in minutes
	pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow"

test-all: $(STAMP)  ## also the slow tests
	pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(STAMP)  ## style, types and import contracts
	ruff check .
	ruff format --check .
	mypy
	lint-imports

ui: $(STAMP)  ## serve the runs of this folder on 127.0.0.1 and say where to look
	python -m entrypoints.ui

lock: $(VENV)/bin/uv  ## resolve pyproject.toml anew
	uv pip compile --quiet $(LOCK_FLAGS) --upgrade --output-file requirements.lock pyproject.toml

lock-check: $(VENV)/bin/uv  ## fail if the lock no longer fits pyproject.toml
	cp requirements.lock $(VENV)/lock-check
	uv pip compile --quiet $(LOCK_FLAGS) --output-file $(VENV)/lock-check pyproject.toml
	diff requirements.lock $(VENV)/lock-check

LOCK_FLAGS := --universal --python-version 3.11 --extra dev --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --no-header

clean:
	rm -rf $(VENV)

# `python3.11` is not everywhere called so; python3 serves where it is that version.
FOUND = $(shell command -v $(PYTHON) || echo python3)
NEEDED := import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and \
	"dpib needs Python 3.11, and $(PYTHON) is %d.%d: make PYTHON=<a Python 3.11>" % v)

# Asked before anything is made, and what an earlier attempt left is cleared.
$(VENV)/bin/uv:
	@$(FOUND) -c '$(NEEDED)'
	$(FOUND) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv

$(STAMP): requirements.lock $(VENV)/bin/uv
	$(VENV)/bin/uv pip sync --quiet --require-hashes --python $(VENV)/bin/python requirements.lock
	test -e mlflow.db || $(MAKE_STORE)
	touch $@

# Several first `mlflow run` at once would trip over each other while each makes the tables.
MAKE_STORE = { rm -f mlflow.db-new; mlflow db upgrade sqlite:///mlflow.db-new 2> $(VENV)/store.log && \
	mv mlflow.db-new mlflow.db; }
