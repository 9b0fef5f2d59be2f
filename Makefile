# Everything sets up .venv by itself: pip, constraints.txt, nothing else.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: help quickstart test test-slow test-long check lint types bench clean

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Visage needs Python 3.11 or later; {sys.executable} is {v.major}.{v.minor}. Name another one: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,train,serve,track,dev]'
	touch $(READY)

quickstart: $(READY)  ## sample photographs to a served picture and a verified face, in minutes
	$(BIN)/visage quickstart

test: $(READY)  ## the tests, without the slow ones
	$(BIN)/pytest -n 2 --dist loadfile -m "not gpu and not slow and not long"

SLOW := slow and not long and not gpu
test-slow: $(READY)  ## the slow tests: crashes, clusters, servers, whole runs
	$(BIN)/pytest -n 2 --dist loadfile -m "$(SLOW)" tests/training tests/stages tests/infra
	$(BIN)/pytest -m "$(SLOW)" tests/pipelines tests/serving tests/e2e tests/bench  # each has the machine for itself

test-long: $(READY)  ## what takes minutes each: benchmarks on photographs, whole loops
	$(BIN)/pytest -m "long and not gpu"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test  ## lint, types, tests

bench: $(READY)  ## the numbers that tests/bench prints; VISAGE_TEST_DATA names the photographs
	$(BIN)/python -m tests.bench.verification
	$(BIN)/python -m tests.bench.curate
	$(BIN)/python -m tests.bench.fetch
	$(BIN)/python -m tests.bench.scale
	$(BIN)/python -m tests.bench.train --size tiny --workers
	$(BIN)/python -m tests.bench.submit
	$(BIN)/python -m tests.bench.serve_generator
	$(BIN)/python -m tests.bench.serve --proxy haproxy
	$(BIN)/python -m tests.bench.provenance
	$(BIN)/python -m tests.bench.search

clean:  ## remove the environment and the caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
