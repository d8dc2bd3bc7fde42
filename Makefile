# Everything a developer runs. It needs GNU make and a Python >= 3.11 with venv and pip; `.venv` is built from the hashed
# lock files, and rebuilt when they change. ARGS goes through: make test ARGS="-k name", make demo ARGS=--once.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ARGS ?=
VENV := .venv
PY   := $(VENV)/bin/python
UV   ?= $(VENV)/bin/uv
PIP  := $(PY) -m pip --disable-pip-version-check --no-input

# What PYTHON= names, else the first of these that runs, is new enough and can make a venv.
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3.14 python3.13 python3.12 python3.11 python3)
FIT     := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# A venv of another folder, or whose Python is gone, is no use: forget its stamp.
ifneq ($(wildcard $(VENV)/.made),)
ifneq ($(shell cat $(VENV)/.made && $(PY) -c 'print("runs")' 2>/dev/null),$(CURDIR) runs)
$(shell rm -f $(VENV)/.made)
endif
endif

# What exists of the folders that are checked; `make check` must not fail on one that is still to come.
SOURCES := $(wildcard aggregator tests benchmarks migrations scripts)

# uv is told nothing of this machine's package sources, so the locks name none.
LOCK := env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL -u UV_FIND_LINKS -u UV_INDEX -u UV_DEFAULT_INDEX \
	-u UV_INDEX_URL -u UV_EXTRA_INDEX_URL $(UV) pip compile --no-config --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# --- environment ------------------------------------------------------------------------------------------------------

.PHONY: dev
dev: $(VENV)/.dev ## build .venv with everything for development

$(VENV)/.made:
	@for python in $(PYTHONS); do \
		if "$$python" -c '$(FIT)' >/dev/null 2>&1; then \
			echo "making $(VENV) with $$python"; \
			"$$python" -m venv --clear $(VENV) && printf '%s\n' '$(CURDIR)' >$@; exit; \
		fi; \
	done; \
	echo "No Python >= 3.11 with venv and pip was found; tried: "$(PYTHONS)"." >&2; \
	echo "Install one (Debian, Ubuntu: apt-get install python3-venv), or name it: make PYTHON=/path/to/python" >&2; \
	exit 1

# Run time only: the demo runs from the source tree, so nothing has to be built.
$(VENV)/.run: requirements.lock $(VENV)/.made
	$(PIP) install -qq --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml $(VENV)/.made
	$(PIP) install -qq --require-hashes -r requirements-dev.lock
	$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.run

# What JavaScript's users verify webhooks with, for the tests to ask: with npm, else without, and a test says so.
VERIFIERS := $(VENV)/verifiers
$(VERIFIERS)/.made: tests/receivers/package.json tests/receivers/package-lock.json $(VENV)/.made
	@mkdir -p $(VERIFIERS) && cp tests/receivers/package.json tests/receivers/package-lock.json $(VERIFIERS)
	@if (cd $(VERIFIERS) && npm ci --silent --no-audit --no-fund --ignore-scripts) >/dev/null 2>&1; then touch $@; \
		else echo "SKIPPED: no npm, or no packages to be had: the published verifier of JavaScript is not asked" >&2; fi

# --- running ----------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.run ## sandbox, daemon, webhook listener and a few orders, live; Ctrl-C ends it
	@PYTHONPATH='$(CURDIR)' $(PY) -m aggregator demo $(ARGS)

# One worker more than processors: many tests wait for processes that they have started.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$((n + 1)))

.PHONY: test
test: $(VENV)/.dev $(VERIFIERS)/.made ## all tests
	$(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: simulate
simulate: $(VENV)/.dev ## replay one seed of the simulation with its story, or many: make simulate SEED=7, SEED=0:1000
	@test -n "$(SEED)" || { echo "make simulate SEED=7, or SEED=FIRST:LAST" >&2; exit 2; }
	$(PY) -m tests.simulation $(SEED)

.PHONY: torture
torture: $(VENV)/.dev ## N real kills with ten faulted orders each, on SQLite and PostgreSQL: make torture N=1000
	$(PY) -m tests.torture $(or $(N),1000) $(ARGS)

.PHONY: soak
soak: $(VENV)/.dev ## minutes of everything at once against the real daemon, and what grew: make soak ARGS="--minutes 5"
	$(PY) -m benchmarks.soak $(ARGS)

.PHONY: check
check: $(VENV)/.dev locks ## lint, format, types, import rules, migrations match the tables
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m mypy $(SOURCES)
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-cache
	$(PY) -m pytest tests/storage/test_migrations.py

.PHONY: format
format: $(VENV)/.dev ## mend what ruff can mend
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

.PHONY: diagram
diagram: $(VENV)/.dev ## draw the states of ARCHITECTURE.md anew from their tables
	$(PY) -m tests.docs.states

# --- locks ------------------------------------------------------------------------------------------------------------

ifeq ($(UV),$(VENV)/bin/uv)
lock upgrade: $(VENV)/.dev
endif

.PHONY: lock
lock: ## write the lock files anew from pyproject.toml, keeping the versions that still fit
	$(LOCK) $(ARGS) --output-file requirements.lock
	$(LOCK) $(ARGS) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	@$(MAKE) --no-print-directory locks

.PHONY: upgrade
upgrade: ## the same with the newest versions
	@$(MAKE) --no-print-directory lock ARGS=--upgrade

.PHONY: locks
locks: ## check that the lock files name no host, no path and no unhashed package
	@for lock in requirements.lock requirements-dev.lock; do \
		if grep -nE '://|file:|^ *-[^-]|^--|@ ' $$lock; then echo "$$lock: names where packages come from" >&2; exit 1; fi; \
		if grep -E '^[^ #]' $$lock | grep -vE '^[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^ ]+( ; .*)? \\$$'; then \
			echo "$$lock: a package without version or hash" >&2; exit 1; fi; \
	done

.PHONY: clean
clean: ## remove .venv, caches and what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
