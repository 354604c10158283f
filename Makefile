# P¬P SSL: everything a person needs is a target here; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
UV := $(PYTHON) -m uv
ARGS ?=
# mlflow and trackio are left out: they hold back Pillow and others; the tests do without them.
COMMA := ,
LOCKED := dev,docs,hf,onnx,parquet,sweeps,tensorboard,workspaces
# Tests side by side; stragglers are handed over to whoever is free.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

.PHONY: help setup train test test-all test-versions audit lint format ablation claims claim bench gpu docs wheel-test lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# The stamp makes every later call instant: set-up runs again only when the lock or the metadata change.
# Bytecode is made once, here: where Python may not keep it, every start would compile torch anew (12 s).
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(f"P¬P SSL needs Python >= 3.11; {sys.executable} is {sys.version.split()[0]}. Try: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@$(UV) --version >/dev/null 2>&1 || $(PYTHON) -m pip install -q uv \
		|| { echo "cannot install uv: run '$(PYTHON) -m venv ~/.pnp-tools && ~/.pnp-tools/bin/pip install uv',"; \
		     echo "then make PYTHON=~/.pnp-tools/bin/python …"; exit 1; }
	@test -x $(BIN)/python || $(UV) venv -q --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	$(UV) pip sync -q --compile-bytecode --python $(BIN)/python requirements.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

setup: .venv/.ready  ## make .venv from the pinned lock

train: .venv/.ready  ## train, evaluate and report on the embedded data; ARGS="data=fashion_mnist" overrides
	$(BIN)/pnp-train $(ARGS)

test: .venv/.ready  ## the tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-all: .venv/.ready  ## the slow tests too, and the wheel
	$(BIN)/python -m pytest $(PARALLEL) -m "" $(ARGS)
	$(MAKE) --no-print-directory wheel-test audit

# A pass is claimed only where every pinned version was looked up.
audit:  ## known vulnerabilities of the pinned versions, where their database can be reached
	@mkdir -p build; $(UV) tool run -q pip-audit -r requirements.lock --disable-pip --require-hashes \
		--progress-spinner off >build/audit.txt 2>&1; status=$$?; \
	if grep -q '^Found [0-9]* known' build/audit.txt; then cat build/audit.txt; exit 1; fi; \
	if [ $$status != 0 ] || grep -q 'could not be audited' build/audit.txt; then \
		echo "not audited: the database of vulnerabilities cannot be reached from here (build/audit.txt)"; \
	else cat build/audit.txt; fi

# By hand and at each release: the lowest versions of pyproject.toml and the newest, for each Python
# there is; CONTRIBUTING.md has the table. Takes gigabytes and about ten minutes a row.
VERSIONS ?= 3.11 3.12 3.13
# The lowest version that this Python can run: an older one would be built from its source.
WHEELS := --only-binary :all: --no-binary antlr4-python3-runtime --no-binary pnp-ssl
test-versions:  ## the tests with the lowest and newest dependencies, for every Python at hand
	for python in $(VERSIONS); do for resolution in lowest-direct highest; do \
		$(UV) python find -q $$python >/dev/null 2>&1 || { echo "skipped: no Python $$python here"; continue; }; \
		echo "== Python $$python, $$resolution"; \
		$(UV) venv -q --clear --python $$python build/versions && \
		$(UV) pip install -q --python build/versions/bin/python --resolution $$resolution $(WHEELS) -e '.[$(LOCKED)]' && \
		build/versions/bin/python -m pytest $(PARALLEL) $(ARGS) || exit 1; \
	done; done

lint: .venv/.ready  ## ruff, ruff format, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.ready  ## let ruff mend what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Each run is a folder named by its overrides; a finished one is skipped, a stopped one goes on.
ablation: .venv/.ready  ## every ablation of the objective, 2 scales, 3 seeds, into runs/ablation
	$(BIN)/pnp-train -m sweep=ablation logger=csv $(ARGS)
	$(BIN)/pnp-report runs/ablation

# Every verdict follows from experiments/claims/C*.csv; a test compares.
claims: .venv/.ready  ## the verdicts of the ledger, recomputed from its csv files
	$(BIN)/python experiments/claims/ledger.py

SCALE ?= quick
claim: .venv/.ready  ## run a claim from nothing: ID=C3 SCALE=quick|laptop|gpu; the same line goes on
	$(BIN)/python experiments/claims/ledger.py run $(ID) $(SCALE) $(ARGS)

bench: .venv/.ready  ## speed beside torchvision, kornia and lightly, folders, start-up; under 10 minutes
	$(BIN)/python benchmarks/views.py --rounds 7
	$(BIN)/python benchmarks/step.py --rounds 3 --images 2560
	$(BIN)/python benchmarks/objectives.py --rounds 3 --processes 1
	$(BIN)/python benchmarks/levers.py --only calls
	$(BIN)/python benchmarks/folders.py --sizes 1000 10000
	$(BIN)/python benchmarks/startup.py --rounds 3

gpu: .venv/.ready  ## everything about this machine's GPU in ten minutes; a second call goes on
	$(BIN)/python benchmarks/gpu.py $(ARGS)

docs: .venv/.ready  ## the documentation site: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

# What a user gets from an installed wheel, in an environment and a folder that know no checkout.
wheel-test: .venv/.ready  ## build sdist and wheel, check them, install and run the wheel in an empty folder
	rm -rf build/wheel && mkdir -p build/wheel/empty
	$(UV) build -q --out-dir build/wheel --python $(BIN)/python .
	$(UV) tool run -q twine check --strict build/wheel/*.whl build/wheel/*.tar.gz
	$(UV) venv -q --python $(BIN)/python build/wheel/venv
	$(UV) pip sync -q --python build/wheel/venv/bin/python requirements.lock
	$(UV) pip install -q --python build/wheel/venv/bin/python --no-deps build/wheel/*.whl
	cd build/wheel/empty && ../venv/bin/pnp-train --help >/dev/null
	cd build/wheel/empty && ../venv/bin/pnp-train trainer.max_steps=10 data.n_train=2560 logger=csv hydra.run.dir=run
	cd build/wheel/empty && ../venv/bin/pnp-report run >/dev/null && ../venv/bin/pnp-evaluate --help >/dev/null
	cd build/wheel/empty && ../venv/bin/pnp-export run=run >/dev/null \
		&& ../venv/bin/python -c 'import pnp; pnp.load("run/export")'
	cd build/wheel/empty && ../venv/bin/pnp-tune --help >/dev/null && ../venv/bin/pnp-embed --help >/dev/null && ../venv/bin/pnp-decide fit --help >/dev/null && ../venv/bin/pnp-doctor --help >/dev/null
	@echo "the wheel works"

lock:  ## pin names, versions and hashes (no index address)
	$(UV) pip compile -q pyproject.toml $(subst $(COMMA), --extra ,--extra $(LOCKED)) --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate -o requirements.lock

clean:  ## remove the environment, caches and build outputs (runs/ is kept)
	rm -rf .venv build dist .pytest_cache .ruff_cache *.egg-info
