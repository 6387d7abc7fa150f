# What a developer types. `make test` and `make demo` set up whatever they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests on real services mostly wait. Each half of them is begun in its order, so that they share launched projects.
TWO_AT_A_TIME := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: install format check test live docs demo

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml denzel/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "denzel needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

format: install
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy denzel --exclude templates
	MYPYPATH=denzel/templates/project $(BIN)/mypy --package app
	PYTHONPATH=denzel/templates/project $(BIN)/python tests/support/check_lua.py

# Everything: the style, the units, and the services for real (Docker tests are skipped where no engine runs).
test: check
	$(TWO_AT_A_TIME)

# The tests on real services alone.
live: install
	$(TWO_AT_A_TIME) -m 'docker or local'

# The page and the picture that are made from the code.
docs: install
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_architecture.py

demo: install
	$(BIN)/python examples/demo.py
