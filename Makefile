# P¬P SSL: everything a person needs is a target here; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
UV := $(PYTHON) -m uv
ARGS ?=

.PHONY: help setup train test test-all lint format ablation wheel-test lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# The stamp makes every later call instant: set-up runs again only when the lock or the metadata change.
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(f"P¬P SSL needs Python >= 3.11; {sys.executable} is {sys.version.split()[0]}. Try: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@$(UV) --version >/dev/null 2>&1 || $(PYTHON) -m pip install -q uv \
		|| $(PYTHON) -m pip install -q --user --break-system-packages uv
	@test -x $(BIN)/python || $(UV) venv -q --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	$(UV) pip sync -q --python $(BIN)/python requirements.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

setup: .venv/.ready  ## make .venv from the pinned lock

train: .venv/.ready  ## train, evaluate and report on the embedded data; ARGS="data=fashion_mnist" overrides
	$(BIN)/pnp-train $(ARGS)

test: .venv/.ready  ## the tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest $(ARGS)

lock:  ## pin names, versions and hashes (no index address)
	$(UV) pip compile -q pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate -o requirements.lock

clean:  ## remove the environment, caches and build outputs (runs/ is kept)
	rm -rf .venv build dist .pytest_cache .ruff_cache *.egg-info
