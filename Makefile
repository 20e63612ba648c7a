# Every target builds what it needs; `make demo` and `make test` are all that a newcomer has to know.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AZURITE := tests/servers/azurite

.PHONY: demo check test chromium format clean

demo: $(VENV)/.demo
	@$(BIN)/python -m demo

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --collect-only --quiet

# Two files at a time, since most tests wait for something; what stands in one file shares its servers.
test: chromium $(VENV)/.dev $(AZURITE)/node_modules/.installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses 2 --dist loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# The one thing that is no package of Python's: it belongs to the machine, so it is not installed behind its back.
chromium:
	@command -v chromium >/dev/null || { echo "The browser tests need Chromium: apt-get install chromium" >&2; exit 1; }

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(AZURITE)/node_modules

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 3) and "Python 3.11.3 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Node comes with the development requirements, so that no other has to be installed.
$(AZURITE)/node_modules/.installed: $(AZURITE)/package-lock.json $(VENV)/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm ci --prefix $(AZURITE) --no-audit --no-fund --loglevel=error
	@touch $@
