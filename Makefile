# Every target builds what it needs; `make demo` and `make test` are all that a newcomer has to know.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AZURITE := tests/servers/azurite/node_modules/.installed
CHROMIUM := $(if $(shell command -v chromium),,tests/browser/node_modules/.installed)
PYTEST := --numprocesses 3 --dist loadfile --no-loadscope-reorder
# npm has been seen to fail, to say that it has not, and to leave folders with little in them: what is there is looked
# through, and why a part is missing is told.
NPM_CI = export PATH="$(CURDIR)/$(BIN):$$PATH" && cd $(@D)/.. && logs=$$(mktemp -d) && \
	if npm ci --no-audit --no-fund --loglevel=error --logs-dir="$$logs" && npm ls --all >/dev/null 2>&1; \
	then rm -rf "$$logs"; \
	else grep -h "failed with" "$$logs"/* | tail -1; rm -rf node_modules "$$logs"; \
		echo "npm has not installed all of $$PWD/package-lock.json: is its registry reached, with a certificate that it trusts?"; \
		exit 1; \
	fi

.PHONY: demo check test bench coverage faults soak format clean

demo: $(VENV)/.demo
	@$(BIN)/python -m demo

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --collect-only --quiet

# Three files at a time, since most tests wait for something; what stands in one file shares its servers. The order is that
# of tests/conftest.py: those with few tests, which xdist would put last, are the longest.
test: $(VENV)/.dev $(AZURITE) $(CHROMIUM)
	$(BIN)/pytest $(PYTEST)

# Ten minutes, beside nothing else: what it measures is printed, and written to bench/results.
bench: $(VENV)/.bench
	$(BIN)/python -m bench.table

# The same as test, and which lines were run, in every process that the tests start; that makes each of them slower.
coverage: $(VENV)/.dev $(AZURITE) $(CHROMIUM)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Every fault under steady load, one after the other, and the tables of what came of each in build: half an hour.
# `make test` has a small part of them.
faults: $(VENV)/.dev
	$(BIN)/pytest tests/faults_e2e/every_fault.py tests/faults_e2e/every_delivery.py

# Half an hour of mixed load: what grows is told, and fails.
soak: $(VENV)/.dev
	$(BIN)/python -m tests.faults_e2e.soak

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) tests/servers/azurite/node_modules tests/browser/node_modules

$(BIN)/python:
	@$(PYTHON) -c 'import platform, sys; sys.exit(sys.version_info < (3, 11, 3) and f"{sys.executable} is Python {platform.python_version()}, and Dropoff needs 3.11.3 or newer: name one with make PYTHON=/path/to/python3.13, after installing it if there is none (uv python install 3.13, or pyenv install 3.13).")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Dropoff, a Redis and an object store into $(VENV): a minute, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the checks and tests need into $(VENV): some minutes, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

# Node comes with the development requirements, so that no other has to be installed.
tests/servers/azurite/node_modules/.installed: tests/servers/azurite/package-lock.json $(VENV)/.dev
	@echo "Installing Azurite, which stands in for Azure Blob Storage: half a minute, once."
	@$(NPM_CI)
	@touch $@

tests/browser/node_modules/.installed: tests/browser/package-lock.json tests/browser/unpack.mjs $(VENV)/.dev
	@echo "Installing a Chromium, since this machine has none: half a minute, once."
	@$(NPM_CI)
	@$(BIN)/node tests/browser/unpack.mjs
	@touch $@
