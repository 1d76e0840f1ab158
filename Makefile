# "make" lists the targets. Every one of them sets up .venv first if it is missing or out of date.
# Variables: PYTHON (the interpreter to set up with), WORKERS (parallel tests), ARGS (more arguments for pytest).

SHELL := /bin/bash
BIN := .venv/bin
WORKERS ?= 2
ARGS ?=
DEMO_MODEL := examples/models/gptneox-tiny
DEMO_PROMPT := To install the package,

export PYTHON

.PHONY: help setup demo test check lint types imports unit format bench clean distclean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## create or update .venv with the pinned packages (PYTHON=… picks the interpreter)
	@tools/setup.sh

demo: setup ## build a real TensorRT engine, quantized, for two ranks, check it, and print what the ranks write
	@echo "==> compiling $(DEMO_MODEL) in 4 bits for two ranks into build/demo"
	@rm -rf build/demo && mkdir -p build
	@$(BIN)/llmc compile $(DEMO_MODEL) -o build/demo --target tensorrt-rtx --passes quant=awq,tp=2
	@echo "==> checking the engine without a GPU: its networks, emulated by two MPI ranks, beside its graphs"
	@$(BIN)/llmc verify build/demo --executor emulator
	@echo "==> running build/demo on two MPI ranks with the prompt: $(DEMO_PROMPT)"
	@$(BIN)/llmc run build/demo --prompt "$(DEMO_PROMPT)" --max-new-tokens 48

test: check unit ## all checks and all tests

check: lint types imports ## all checks, without the tests

lint: setup ## style: ruff check and ruff format --check
	@echo "==> ruff check"
	@$(BIN)/ruff check --quiet .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --quiet --check .

types: setup ## types: mypy, strict
	@echo "==> mypy"
	@$(BIN)/mypy --no-error-summary

imports: setup ## which package may import which: import-linter
	@echo "==> import-linter"
	@log=$$($(BIN)/lint-imports 2>&1) || { echo "$$log"; exit 1; }

unit: setup ## the tests (WORKERS=2, ARGS="-k name")
	@echo "==> pytest"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

format: setup ## rewrite the sources in the project's style
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

# The others need a GPU, other checkpoints or other tools; what they are called with, their first lines say.
bench: setup ## run the benchmarks that need neither a GPU nor arguments
	@for name in ir lift decode prompt_memory build trt_emulated parallel; do echo "==> $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

clean: ## remove what was built, and the caches
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove .venv too
	@rm -rf .venv
