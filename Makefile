PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAMILIES := .venv-families
PORT ?= 8080

.PHONY: setup demo serve unit test lint bench docker-test ray-test

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements/dev.txt requirements/test.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements/dev.txt
	touch $@

demo: setup
	MODELS_DIR=demo/models PORT=$(PORT) $(BIN)/python -m app

serve: setup
	MODELS_DIR=$(or $(MODELS_DIR),models) PORT=$(PORT) $(BIN)/python -m app

unit: setup
	$(BIN)/python -m pytest -q tests/unit

test: setup $(FAMILIES)/.installed
	$(BIN)/python -m pytest -q
	$(FAMILIES)/bin/python -m pytest -q tests/more_families

# Apart, for torchvision needs a torch from the same index; whatever pip is told of others does not count here.
$(FAMILIES)/.installed: requirements.txt $(addprefix requirements/,openclip.txt colpali.txt test.txt)
	$(PYTHON) -m venv $(FAMILIES)
	PIP_FIND_LINKS= $(FAMILIES)/bin/pip install --isolated --quiet -r requirements/openclip.txt -r requirements/colpali.txt \
		-r requirements/test.txt
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks.bench
	$(BIN)/python -m benchmarks.precision

# Needs a Docker daemon; DOCKER names another client.
docker-unit: setup
	$(BIN)/python -m pytest -q tests/unit

test: setup
	$(BIN)/python -m pytest -s -v tests/docker/images.py

ray-test: .venv-ray/.installed
	.venv-ray/bin/python -m pytest -s -v --disable-warnings deploy/ray/test_serve_app.py

# An environment of its own: Ray's requirements may not go together with what is pinned for development.
.venv-ray/.installed: requirements.txt requirements/ray.txt requirements/test.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/pip install --quiet -r requirements.txt -r requirements/ray.txt -r requirements/test.txt
	touch $@
