# make quickstart    compress a real BERT on real text and look at the report (minutes)
# make test          style, types and tests
# Both set up everything they need in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: quickstart test test-slow style types bench clean

quickstart: $(READY)
	$(BIN)/bertcompress run configs/quickstart.yaml

# A process for each core, each with one thread: tests are too small for more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist loadfile

test: style types
	$(PYTEST)

test-slow: $(READY)
	$(PYTEST) -m "slow or not slow"

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.peers.training
	$(BIN)/python -m benchmarks.peers.forward
	$(BIN)/python -m benchmarks.peers.evaluation

$(READY): pyproject.toml constraints.txt .ci/install-torch
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'bertcompress needs Python 3.10 or newer; try: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	.ci/install-torch $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
