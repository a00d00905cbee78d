# One command each, the same here and in CI. Each target makes its own .venv when there is none or pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=
BENCH := .venv-bench
BENCH_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench e2e clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is written last, so that an interrupted install is done again.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

# The first run is killed on purpose: what the second one does not fetch again is the point of the show.
demo: $(READY)  ## Fill files/ai-models with tiny models for all five consumers: a killed run, its resume, a run with nothing to do
	@echo '== 1. modelfetch sync --tier demo, slowly, and killed (SIGKILL) on the way'
	@timeout --signal=KILL 4 $(BIN)/modelfetch sync --tier demo --limit-rate 8MB; \
		code=$$?; [ $$code -eq 137 ] || exit $$code
	@echo
	@echo '== 2. the same again: it goes on where the killed run stopped'
	@$(BIN)/modelfetch sync --tier demo
	@echo
	@echo '== 3. once more: everything is verified and in place, so no request is sent'
	@$(BIN)/modelfetch sync --tier demo --json | $(BIN)/python -c 'import json, sys; r = json.load(sys.stdin); \
		print("requests: {requests}, bytes fetched: {bytes_fetched}, seconds: {seconds:.3f}".format(**r)); \
		sys.exit(r["exit_code"] or r["requests"] != 0)'
	@echo
	@echo '== files/ai-models'
	@cd files/ai-models && find . -path ./.modelfetch -prune -o \( -type f -o -type l \) -printf '%10s  %P\n' | sort -k 2

# Two at a time: half of the time goes into waiting, for time-outs and for processes that are killed.
test: $(READY)  ## The fast, hermetic tests
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: $(READY)  ## ruff, mypy --strict, the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Raced as it is installed: a tool of the development brings packages that httpx imports where it finds them.
$(BENCH)/.ready: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --editable .
	@touch $@

bench: $(READY) $(BENCH)/.ready  ## Speed and memory beside curl, aria2 and the official clients
	$(BIN)/python tests/bench/run.py --python $(BENCH)/bin/python $(BENCH_ARGS)

e2e: $(READY)  ## The real consumers and peers: Ollama, faster-whisper, huggingface_hub, nginx, a container registry; the stack under a real Docker Engine
	$(BIN)/python -m pytest tests/e2e --timeout=1500 --durations=5 $(PYTEST_ARGS)

clean:  ## Remove what the targets made here; models under files/ stay
	rm -rf $(VENV) $(BENCH) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find modelfetch tests -name __pycache__ -type d -prune -exec rm -rf {} +
