PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080

.PHONY: setup demo serve test lint bench

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

demo: setup
	MODELS_DIR=demo/models PORT=$(PORT) $(BIN)/python -m app

serve: setup
	MODELS_DIR=$(or $(MODELS_DIR),models) PORT=$(PORT) $(BIN)/python -m app

test: setup
	$(BIN)/python -m pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.bench
