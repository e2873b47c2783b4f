# The ways to run, test and measure the project. `make help` lists them.
#
# Needs Python 3.11 or newer, make and the package index; `make PYTHON=python3.12 test` chooses the interpreter.

PYTHON ?= python3
PORT ?= 9464
# The environment that everything runs in; one for each interpreter that the tests run on besides, as .ci/run does.
VENV ?= .venv
# Tests that run at the same time: they wait more than they compute.
JOBS ?= 4

BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
PYTEST := $(BIN)/pytest -n $(JOBS) --dist worksteal
# Everything that is ours and isn't a test; tests are read by ruff alone.
SOURCES := flowrra exporter/flowrra_exporter examples grafana deploy

.DEFAULT_GOAL := help
.PHONY: help run test test-fast lint bench prove mutate dashboards rules manifests reference sessions clean

help: ## List the targets
	@grep -E '^[a-z-]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.* ## /\1\t/' | expand -t 12

run: $(INSTALLED) ## Serve the demo app with the exporter; PORT=9464
	@echo 'Page      http://localhost:$(PORT)/'
	@echo 'Metrics   http://localhost:$(PORT)/metrics'
	@echo 'Probes    http://localhost:$(PORT)/livez  /readyz  /startupz  /healthz'
	@echo 'JSON API  http://localhost:$(PORT)/api/stats  /api/health  /api/tasks'
	@echo 'Ctrl-C ends it.'
	@$(BIN)/flowrra worker examples.demo_app:app --exporter=:$(PORT) --shutdown-timeout=10

test: $(INSTALLED) ## Run all tests; ARGS='-k retries' is passed to pytest, JOBS=1 runs one at a time
	$(PYTEST) $(ARGS)

test-fast: $(INSTALLED) ## Run the tests that take less than half a second each and need no tool outside of Python
	$(PYTEST) -m 'not slow and not tools' $(ARGS)

lint: $(INSTALLED) ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/mypy examples grafana deploy mutate

bench: $(INSTALLED) ## Measure speed and memory, beside others
	$(BIN)/python -m benchmarks

prove: $(INSTALLED) ## Prove under load what the tests show briefly
	$(BIN)/python -m prove

mutate: $(INSTALLED) ## Show which mistakes in the code no test would notice; ARGS='--seed 2 codec'
	$(BIN)/python -m mutate $(ARGS)

dashboards: $(INSTALLED) ## Write grafana/dashboards from its source
	$(BIN)/python -m grafana
	$(BIN)/python -m deploy.kubernetes

rules: $(INSTALLED) ## Write the rules of deploy/prometheus from their source
	$(BIN)/python -m deploy.prometheus
	$(BIN)/python -m deploy.kubernetes

manifests: $(INSTALLED) ## Write what deploy/kubernetes and the chart have of rules and dashboards
	$(BIN)/python -m deploy.kubernetes

reference: $(INSTALLED) ## Write docs/metrics.md from the catalog
	@$(BIN)/python -m flowrra_exporter.reference > docs/metrics.md.new
	@mv docs/metrics.md.new docs/metrics.md

sessions: $(INSTALLED) ## Write the terminal sessions of docs/cli.md anew
	WRITE_SESSIONS=1 $(BIN)/pytest -q tests/command/test_document.py -k sessions

clean: ## Remove the environment and everything that was built
	rm -rf .venv .venv-* .bench .mutate build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Anew whenever the requirements or the version change.
$(INSTALLED): pyproject.toml flowrra/_version.py
	@command -v $(PYTHON) >/dev/null || { \
		echo "'$(PYTHON)' is not installed; Flowrra needs Python 3.11 or newer: make PYTHON=/path/to/python3 ..." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "'$(PYTHON)' is $$($(PYTHON) -V 2>&1); Flowrra needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "'$(PYTHON)' can't make virtual environments; on Debian and Ubuntu install python3-venv." >&2; \
		exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
