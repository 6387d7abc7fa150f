# What a developer types. `make test` and `make demo` set up whatever they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests on real services mostly wait: three at a time keep two cores busy.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest --dist worksteal --numprocesses $(WORKERS)

.PHONY: install format check test test-all mutants live docs demo

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

# The style, the units, and the services for real: tests marked `slow` are left out, and those of Docker without an engine.
test: check
	$(PYTEST)

# Everything.
test-all: export DENZEL_RUN_SLOW := 1
test-all: test

# Faults put into the Lua scripts on purpose: which of them the model test catches.
mutants: install
	PYTHONPATH=denzel/templates/project:tests $(BIN)/python tests/model/mutants.py $(ONLY)

# The tests on real services alone.
live: install
	$(PYTEST) -m 'docker or local'

# The page and the picture that are made from the code.
docs: install
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_architecture.py

demo: install
	$(BIN)/python examples/demo.py
