# Every target sets up what it needs: .venv with pinned packages, made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BUILD := .build

# Where the benchmarks find collections; those of speed take the embedded one where there are none.
DATA ?= ../shared/data
DL19 := $(DATA)/trec-dl-2019-pool
DL21 := $(DATA)/trec-dl-2021-pool
PAIRS := $(if $(wildcard $(DL19)),--dataset $(DL19) --run $(DL19)/runs/bm25.txt)
LISTS := $(if $(wildcard $(DL21)),--dataset $(DL21))
MEASURE := $(BIN)/sparring benchmark
RESULTS := eval/results

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check architecture format lint types bench bench-set bench-train \
  bench-aggregation bench-sampling bench-gpu gpu-run clean

help:  ## show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-19s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	$(BIN)/python -m pytest -n 2 --dist loadfile

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
	$(MEASURE) throughput $(PAIRS) --output $(RESULTS)/throughput-cpu.json --overwrite \
	  --device cpu $(if $(RERANKERS),--peers $(RERANKERS))

bench-set: $(READY)  ## the Set-Encoder against the pointwise model (LIGHTNING=python that has it: and lightning-ir)
	$(MEASURE) set-encoder --output $(RESULTS)/set-encoder-cpu.json --overwrite \
	  --device cpu $(if $(LIGHTNING),--peer $(LIGHTNING))

bench-train: $(READY)  ## training speed beside sentence-transformers' CrossEncoderTrainer
	$(MEASURE) training $(LISTS) --output $(RESULTS)/training-cpu.json --overwrite --device cpu

bench-aggregation: $(READY)  ## preferences to rankings, beside choix and evalica
	$(MEASURE) aggregation --output $(RESULTS)/aggregation-cpu.json --overwrite

bench-sampling: $(READY)  ## what a comparison buys, on the collections in DATA (STUDIES=which of them)
	$(MEASURE) sampling $(STUDIES) --data $(DATA) --output $(RESULTS)/sampling --overwrite \
	  $(if $(STUDIES),,--pictures dl19-50.pairwise-late)

bench-gpu: $(READY)  ## parity with the CPU, then the same figures on a CUDA GPU; at most 8 minutes
	timeout 480 $(MAKE) --no-print-directory gpu-run

gpu-run:
	$(BIN)/python -m pytest -m gpu
	$(MEASURE) throughput $(PAIRS) --pairs 0 --output $(RESULTS)/throughput-gpu.json --overwrite --device cuda
	$(MEASURE) set-encoder --lists 20 --output $(RESULTS)/set-encoder-gpu.json --overwrite --device cuda
	$(MEASURE) training $(LISTS) --output $(RESULTS)/training-gpu.json --overwrite --device cuda

clean:  ## remove what the targets made
	rm -rf $(VENV) $(BUILD) build .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
