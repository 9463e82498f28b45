# Two commands matter to a newcomer: `make demo` and `make test`. Both set up what is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := tuner cli presets tests benchmarks

.PHONY: setup demo test test-slow test-gpu kill-drill check format wheel clean

setup: $(STAMP)

# The constraints pin what was tested. They name no build of torch: a GPU machine gets the CUDA build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/tuner run presets/demo.json

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-gpu: setup
	$(BIN)/python -m pytest -m gpu tests/gpu

kill-drill: setup
	$(BIN)/python -m pytest -m slow tests/e2e/test_kill_drill.py

check: setup
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

wheel: setup
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist
