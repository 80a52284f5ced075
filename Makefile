PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAMILIES := .venv-families
PORT ?= 8080
PINS := requirements.txt $(wildcard requirements/*.txt)
# What serving a compiled model needs; all that development needs holds it too.
SERVING := $(or $(wildcard $(VENV)/.installed),$(VENV)/.serving)

.PHONY: setup demo demo-compiled serve bake test browser prometheus dashboard lint bench soak fuzz constraints
.PHONY: wheels docker-test ray-test

setup: $(VENV)/.installed

$(VENV)/.serving: requirements/serve.txt requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements/serve.txt
	touch $@

$(VENV)/.installed: $(PINS) requirements/install.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python requirements/install.py requirements/dev.txt
	touch $@

# Holds the interpreter that can load every family. That is the one of $(VENV) if there is a torchvision that fits its
# torch, else one of an environment of its own, where both come from the package index, whatever pip is told of others.
$(VENV)/.families: $(VENV)/.installed
	if $(BIN)/python requirements/install.py requirements/openclip.txt requirements/colpali.txt; then echo $(BIN)/python >$@; else \
		$(PYTHON) -m venv $(FAMILIES) && \
		PIP_FIND_LINKS= $(FAMILIES)/bin/pip install --isolated --quiet -r requirements/openclip.txt \
			-r requirements/colpali.txt -r requirements/test.txt && echo $(FAMILIES)/bin/python >$@; fi

demo: $(SERVING)
	MODELS_DIR=demo/models PORT=$(PORT) $(BIN)/python -m app

# The demo's compiled form lies in the repository, so that `make demo` needs no torch. To be made again when OpenVINO's
# pin, or what is written of a compiled model, has changed: a test says so.
demo-compiled: setup
	rm -rf demo/models/compiled
	MODELS_DIR=demo/models $(BIN)/python -m app compile

# A model that is named is baked where there is none.
MODEL_NAMES := $(CLIP_MODEL_NAME)$(OPEN_CLIP_MODEL_NAME)$(SIGLIP_MODEL_NAME)$(COLPALI_ENGINE_MODEL_NAME)
INSTALL_FOR_NAMES = $(BIN)/python requirements/install.py requirements.txt \
	$(if $(OPEN_CLIP_MODEL_NAME),requirements/openclip.txt) \
	$(if $(COLPALI_ENGINE_MODEL_NAME),requirements/colpali.txt)

serve: export MODELS_DIR := $(or $(MODELS_DIR),models)
serve: $(SERVING)
	$(if $(MODEL_NAMES),$(INSTALL_FOR_NAMES),$(BIN)/python requirements/for_model.py)
	PORT=$(PORT) $(BIN)/python -m app

# make bake CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32
bake: $(SERVING)
	$(INSTALL_FOR_NAMES)
	$(BIN)/python download.py

# Two files at a time, each as a whole but that of the families, which goes family by family; beside them the families
# that need libraries of their own.
test: setup browser prometheus $(VENV)/.families
	$$(cat $(VENV)/.families) -m pytest -q tests/more_families >$(VENV)/more_families.log 2>&1 & families=$$!; \
		$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder; status=$$?; \
		if wait $$families; then grep passed $(VENV)/more_families.log; else status=1; cat $(VENV)/more_families.log; fi; \
		exit $$status

# The page is tested in Debian's Chromium, behind Debian's nginx.
browser:
	tests/page/install.sh

# The alerts and the dashboard are tried with Debian's Prometheus; no service is started.
prometheus: setup
	deploy/prometheus/install.sh $(VENV)/prometheus

# What Grafana loads, from deploy/grafana/dashboard.py.
dashboard: setup
	$(BIN)/python deploy/grafana/dashboard.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Also renews the tables of README.md, docs/models.md and docs/operations.md, and the charts in docs/images/bench.
bench: setup
	$(BIN)/python -m benchmarks.bench

soak: setup
	$(BIN)/python -m benchmarks.soak

fuzz: setup
	$(BIN)/python -m benchmarks.fuzz
	$(BIN)/python -m benchmarks.fuzz_pictures
	SEARCH=20 $(BIN)/python -m pytest -q -m "hypothesis or search"

# Pins all that the requirement files ask for, and what that asks for in turn; what is pinned already stays as it is,
# unless UPGRADE=--upgrade. The file is empty meanwhile, for the others name it.
NAMED := requirements.txt $(filter-out requirements/constraints.txt,$(wildcard requirements/*.txt))
UV := $(BIN)/uv pip compile --quiet --no-annotate --custom-compile-command "make constraints"
constraints: $(BIN)/uv
	cp requirements/constraints.txt $(VENV)/constraints.txt
	: >requirements/constraints.txt
	$(UV) --universal --python-version 3.11 $(UPGRADE) $(NAMED) --output-file $(VENV)/constraints.txt
	cp $(VENV)/constraints.txt requirements/constraints.txt

# Not by way of setup, which needs the pins to agree already.
$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $$(grep '^uv==' requirements/dev.txt)

# Every pin has a wheel for each machine and each Python that the README names: Debian 12 and newer, macOS 14 and newer.
wheels: $(BIN)/uv
	@for machine in x86_64-manylinux_2_36 aarch64-manylinux_2_36 aarch64-apple-darwin; do \
		for python in 3.11 3.12 3.13; do \
			MACOSX_DEPLOYMENT_TARGET=14.0 $(UV) --no-build --python-platform $$machine --python-version $$python \
				$(NAMED) --output-file $(VENV)/wheels.txt || exit 1; \
			echo "$$machine, Python $$python: a wheel for everything"; \
		done; \
	done

# Needs a Docker daemon; DOCKER names another client.
docker-test: setup
	$(BIN)/python -m pytest -s -v tests/docker/images.py

ray-test: .venv-ray/.installed
	.venv-ray/bin/python -m pytest -s -v --disable-warnings deploy/ray/test_serve_app.py

# An environment of its own, which holds no more than a machine that serves.
.venv-ray/.installed: requirements.txt requirements/ray.txt requirements/test.txt requirements/constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python requirements/install.py requirements.txt requirements/ray.txt requirements/test.txt
	touch $@
