# Everything starts here: `make chat` talks to a model, `make test` checks the whole project.
# Needs Python >= 3.11, git, make and a Python package index; nothing else, and no sudo.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?=
ARGS ?=

# MLX's Linux backends own the same files, so one of them has to be chosen: CUDA where there is an
# NVIDIA driver, else the CPU. `make BACKEND=cpu ...` overrides it. On macOS plain MLX uses Metal.
ifeq ($(shell uname -s),Linux)
BACKEND ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
EXTRA := [$(BACKEND)]
endif

.DEFAULT_GOAL := help
.PHONY: help setup chat test lint format bench fuzz sanitize clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

# Installing talks on stderr: stdout belongs to the answers of `make chat < questions.txt`.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) is too old, Python 3.11 or newer is needed" >&2; \
	    echo "hint: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)" >&2; $(PYTHON) -m venv $(VENV) >&2; }
	@echo "installing mobilellm-mlx$(EXTRA)" >&2
	@$(BIN)/python -m pip install --quiet --upgrade pip >&2
	@$(BIN)/python -m pip install --quiet --editable '.$(EXTRA)' >&2 || \
	  { echo "hint: on Linux, make BACKEND=cpu (or cuda) $(MAKECMDGOALS) names the backend" >&2; exit 1; }
ifeq ($(BACKEND),cpu)
	@$(BIN)/mobilellm kernels --build >&2 || echo "going on without kernels: all works, only slower" >&2
endif
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	@echo "installing the test and lint tools" >&2
	@$(BIN)/python -m pip install --quiet --group dev >&2
	@touch $@

setup: $(VENV)/.developer ## Install everything into .venv

chat: $(VENV)/.installed ## Chat with the default model (MODEL=name or directory for another)
	@$(BIN)/mobilellm chat $(MODEL) $(ARGS)

# Two files at a time: much of the suite waits for screens and other processes. Those that talk to
# the whole program in a terminal of its own go alone. 5 is pytest's code for a half without a match.
JOBS ?= 2

test: $(VENV)/.developer ## Run the whole test suite (ARGS="-k name" for a part, JOBS=2 at a time)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --ignore tests/e2e $(ARGS) || test $$? -eq 5
	$(BIN)/python -m pytest tests/e2e $(ARGS) || test $$? -eq 5

lint: $(VENV)/.developer ## Check style, types, layers and size budgets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/check_sizes.py

format: $(VENV)/.developer ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.developer ## Measure this machine (ARGS="--peers mlx-lm", --table startup, ...)
	$(BIN)/mobilellm bench $(ARGS)

SECONDS ?= 60

fuzz: $(VENV)/.developer ## Feed damaged files to the readers of foreign checkpoints (SECONDS=60)
	$(BIN)/python tests/fuzz_readers.py --seconds $(SECONDS) $(ARGS)

sanitize: $(VENV)/.developer ## Run the CPU kernels under the address and thread sanitizers
	$(BIN)/python tests/kernels/sanitize.py

clean: ## Remove the environment and all caches of the checkout
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
