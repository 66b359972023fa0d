# odeness: `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEERS  := .venv-peers
SERVING_PEERS := .venv-serving
MLSERVER := .venv-mlserver
CLIENTS := .venv-clients
CLIENT_PACKAGES := $(CLIENTS)/kserve/.installed $(CLIENTS)/mlserver/.installed
# How long `make soak` goes on.
SOAK_MINUTES ?= 10
# Processes of `make test`: each takes about 1 GB of memory, and a database of its own where one Redis server is shared.
TEST_PROCESSES ?= 2
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev client-packages demo serve test test-slow check format bench bench-solvers bench-audit bench-serving soak work-precision clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(VENV)/.runtime ## install odeness and what it needs into .venv
setup-dev: $(VENV)/.dev ## the same, with the tools for tests and checks

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' \
	  || { echo "odeness needs Python 3.11 to 3.13; this is $$($(PYTHON) --version). Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable '.[dev]'
	@touch $@

# Their dependencies are at odds with ours and with each other's, so each is installed as listed, apart. MLServer says it
# wants a Python below 3.13; its client runs there, too.
$(CLIENTS)/%/.installed: tests/api/inference_protocol/clients/requirements-%.txt | $(VENV)/.runtime
	$(BIN)/python -m venv --without-pip --clear $(CLIENTS)/$*
	@$(BIN)/python -m pip --python $(CLIENTS)/$*/bin/python install --quiet --disable-pip-version-check \
	  --no-deps --no-compile --ignore-requires-python --requirement $< \
	  || { echo "$* was not installed, whose client the tests use: see above whether pip reaches a package index"; exit 1; }
	@touch $@

client-packages: $(CLIENT_PACKAGES) ## install the clients of KServe and MLServer for the tests into .venv-clients

demo: setup ## train, test, judge and serve two models on real data (about 2 minutes)
	$(BIN)/odeness demo

serve: setup ## start the service on http://127.0.0.1:8000 with an embedded database and broker
	$(BIN)/odeness serve

test: setup-dev client-packages ## run the tests in 2 processes (under 10 minutes; PostgreSQL and Redis come along)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

test-slow: setup-dev ## run the tests that train for minutes
	$(BIN)/python -m pytest -m slow --timeout 1800

check: setup-dev ## lint, types, import rules, migrations drift
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/store/test_migrations.py

format: setup-dev ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup-dev ## compare with peers; each benchmark prints a table of ratios
	$(BIN)/python -m benchmarks.sphere2_iteration

$(PEERS)/.installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench-solvers: setup-dev $(PEERS)/.installed ## compare the solvers with torchdiffeq, torchode and diffrax (about 10 minutes)
	$(BIN)/python -m benchmarks.solver_tables --peers $(PEERS)

$(SERVING_PEERS)/.installed: benchmarks/serving/peers/requirements.txt
	$(PYTHON) -m venv $(SERVING_PEERS)
	$(SERVING_PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(MLSERVER)/.installed: benchmarks/serving/peers/requirements-mlserver.txt
	$(PYTHON) -m venv $(MLSERVER)
	$(MLSERVER)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench-serving: setup-dev $(SERVING_PEERS)/.installed $(MLSERVER)/.installed ## compare the server with FastAPI, LitServe, BentoML and MLServer (about 12 minutes)
	$(BIN)/python -m benchmarks.serving.compare --peers $(SERVING_PEERS) --mlserver $(MLSERVER)

soak: setup-dev ## load a server with all sorts of requests for SOAK_MINUTES (10) and watch errors, memory and latencies
	$(BIN)/python -m benchmarks.serving.soak --minutes $(SOAK_MINUTES)

bench-audit: setup-dev ## time the parts of an audit as multiples of a sweep (digits take longest; about two minutes)
	$(BIN)/python -m benchmarks.audit_cost

work-precision: setup-dev ## measure error against time for every method and draw docs/images/work-precision.svg
	$(BIN)/python -m benchmarks.work_precision

clean: ## remove the virtual environments and build leftovers
	rm -rf $(VENV) $(CLIENTS) $(PEERS) $(SERVING_PEERS) $(MLSERVER) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
