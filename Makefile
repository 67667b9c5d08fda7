# Every target sets up what it needs: .venv with pinned packages, made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BUILD := .build

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check architecture format lint types bench bench-set bench-train bench-gpu bench-sampling clean

help:  ## show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "sparring needs Python 3.11 to 3.13; set PYTHON=python3.11, say" >&2; exit 3; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt "pip>=25.1"
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo,train,report]' --group dev
	@touch $@

install: $(READY)  ## set up .venv with pinned packages

demo: $(READY)  ## the whole main job on the embedded collection: index, search, rerank, evaluate
	@$(BIN)/python -m sparring.train.demo

test: $(READY)  ## the default test suite: offline, on CPU
	$(BIN)/python -m pytest

test-slow: $(READY)  ## the tests that take longer
	$(BIN)/python -m pytest -m slow

check: $(READY)  ## what CI checks before the tests: format, lint, types of the built wheel
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf $(BUILD) build
	$(BIN)/python -m pip install -q --no-deps --target $(BUILD) .
	MYPYPATH=$(BUILD) $(BIN)/mypy --strict -p sparring.rerank -p sparring.train -p sparring.eval

architecture:  ## print the rooms, the arrows and the circles of the tree (ROOT=another checkout)
	@$(PYTHON) tests/helpers/house.py $(ROOT)

format: $(READY)  ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## throughput against sentence-transformers (RERANKERS=python that has it: and rerankers)
	$(BIN)/sparring bench-throughput --output eval/results/throughput-cpu.json --overwrite $(if $(RERANKERS),--peers $(RERANKERS))

bench-set: $(READY)  ## the Set-Encoder against the pointwise model (LIGHTNING=python that has it: and lightning-ir)
	$(BIN)/python -m sparring.eval.speed.set_encoder --output eval/results/set-encoder-cpu.json $(if $(LIGHTNING),--peer $(LIGHTNING))

bench-train: $(READY)  ## training speed beside sentence-transformers' CrossEncoderTrainer
	$(BIN)/python -m sparring.train.benchmark --output eval/results/train-throughput-cpu.json

bench-gpu: $(READY)  ## the same on a CUDA GPU
	$(BIN)/sparring bench-throughput --device cuda --pairs 0 --output eval/results/throughput-gpu.json --overwrite

bench-sampling: $(READY)  ## what a comparison buys, on the collections at hand
	$(BIN)/python -m sparring.eval.bench.sampling_study $(STUDIES)

clean:  ## remove what the targets made
	rm -rf $(VENV) $(BUILD) build .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
