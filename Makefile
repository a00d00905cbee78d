# The same commands for developers and CI. Each target creates the .venv, and again when pyproject.toml has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
BENCH := .venv-bench
DEMO_ROOT := files/demo
DEMO = $(BIN)/modelfetch sync --tier demo --root $(DEMO_ROOT)
BENCH_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint docs docs-tables man picture bench bench-fit e2e e2e-heavy clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is written last, so that an interrupted install is repeated.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@$(BIN)/python -m compileall -q -j 2 modelfetch
	@touch $@

# The first run is killed on purpose, as soon as its journal has bytes that the second one can continue from. `exec` gives
# modelfetch the process ID of the shell, which is $$ in the background too.
demo: $(READY)  ## Fill files/demo with tiny models: a killed run, its resume, a run with nothing to do
	@echo '== 1. modelfetch sync --tier demo, slowed down, and killed (SIGKILL) on the way'
	@sh -c '{ until grep -q xxh3 $(DEMO_ROOT)/.modelfetch/ingest/*.json; do sleep 0.1; kill -0 $$$$ || exit; done; \
		sleep 1; printf "\\n\\n"; kill -KILL $$$$; } 2>/dev/null & exec $(DEMO) --limit-rate 8MB'; code=$$?; [ $$code -eq 137 ] || exit $$code
	@echo
	@echo '== 2. the same command again: it continues where the killed run stopped'
	@$(DEMO)
	@echo
	@echo '== 3. once more: everything is verified and in place, so no request is sent'
	@$(DEMO) --json | $(BIN)/python -c 'import json, sys; r = json.load(sys.stdin); \
		print("requests: {requests}, bytes fetched: {bytes_fetched}, seconds: {seconds:.3f}".format(**r)); \
		sys.exit(r["exit_code"] or r["requests"] != 0)'
	@echo
	@echo '== what is there now (rm -rf $(DEMO_ROOT) removes it)'
	@$(BIN)/modelfetch status --tier demo --root $(DEMO_ROOT)

# Four workers keep two cores busy: much of the time is spent waiting for time-outs, slow servers and killed processes.
# They write six gigabytes: into memory, where 4 GiB of it are free for files.
test: TMPDIR := $(shell [ "$$(df --output=avail --block-size=1G /dev/shm 2>/dev/null | tail -n 1)" -ge 4 ] 2>/dev/null \
	&& ! grep -q ' /dev/shm .*noexec' /proc/mounts && echo /dev/shm || echo $${TMPDIR:-/tmp})
test: $(READY)  ## The fast, hermetic tests
	@# In a fresh clone, every worker would compile every test. All folders but `bench` and `e2e`.
	@[ -d tests/__pycache__ ] || { for half in 'tests/[cdfhm]*/' 'tests/[p-t]*/'; do \
		$(BIN)/python -m pytest --collect-only -q $$half >/dev/null & done; wait; }
	TMPDIR=$(TMPDIR) $(BIN)/python -m pytest -m 'not thorough' -n 4 --dist worksteal $(PYTEST_ARGS)

lint: $(READY)  ## ruff, mypy --strict, the import layers, the links of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS) build --quiet --strict

docs: $(READY)  ## Build the documentation site into site/
	$(MKDOCS) build --strict

docs-tables: $(READY)  ## Compute the tables of docs/reference/tiers.md and fit.md again
	$(BIN)/python -m tests.docs_tables

man: $(READY)  ## Write the manual page again, from the help of the commands
	$(BIN)/python -m tests.docs_man

picture: $(READY)  ## Record the picture of the README from a real run
	$(BIN)/python tests/docs_picture.py

# A separate environment without development tools: they bring packages that httpx imports if it finds them.
$(BENCH)/.ready: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --editable .
	@touch $@

bench: $(READY) $(BENCH)/.ready  ## Speed and memory, compared with curl, aria2 and the official clients
	$(BIN)/python tests/bench/run.py --python $(BENCH)/bin/python $(BENCH_ARGS)

bench-fit: $(READY)  ## `modelfetch fit` compared with published measurements of VRAM, and its time over slow round trips
	$(BIN)/python -m tests.bench.fit
	$(BIN)/python -m tests.bench.fit_time

e2e: $(READY)  ## Real consumers and peers: Ollama, faster-whisper, huggingface_hub, nginx, registries; the stack under a real Docker Engine
	KILLS=300 $(BIN)/python -m pytest -n 2 --dist worksteal tests/care/test_kills.py tests/store/locks/test_lock.py --timeout=900
	EXAMPLES=2 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'hypothesis or thorough' --timeout=300
	EXAMPLES=2 $(BIN)/python -m pytest -n 2 --dist worksteal tests/placement/test_crash.py tests/fitting/llm/test_estimate.py
	$(BIN)/python -m pytest tests/e2e -m 'not heavy' -n 2 --dist loadfile --no-loadscope-reorder --timeout=2400 --durations=5 $(PYTEST_ARGS)

e2e-heavy: $(READY)  ## The real Open WebUI (8 GB) and llama-server, as the stack sets them; fit compared with llama.cpp in every setting
	$(BIN)/python -m pytest tests/e2e -m heavy --timeout=4500 --durations=5 $(PYTEST_ARGS)

clean:  ## Remove what the targets created; models under files/ stay
	rm -rf $(VENV) $(BENCH) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find modelfetch tests -name __pycache__ -type d -prune -exec rm -rf {} +
