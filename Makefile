.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-slow lint docs bench check-cuml gpu-check paper clean

PYTHON ?= python3
BIN := .venv/bin

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable '.[demo,weights,s3]' --group dev
	@touch $@

demo: .venv/installed  ## images to a finding: extract, sweep, report (about 3 minutes on 2 cores)
	$(BIN)/probecache demo --out demo

# Processes of one thread each, since most tests are too small for a second thread of their own; three on two cores,
# since a fifth of the time a test waits for a process, a clock or a disk.
test: .venv/installed  ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -q -n 3 --dist worksteal $(PYTEST)

coverage: .venv/installed  ## the test suite, and which lines it runs: 92% at least (a sixth slower)
	$(MAKE) test PYTEST="--cov --cov-report=term:skip-covered --cov-fail-under=92"

test-slow: .venv/installed  ## every test, the slow ones too
	$(BIN)/python -m pytest -q

lint: .venv/installed  ## ruff (lint, format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed  ## the pages and the API reference into site/, strict
	$(BIN)/pip install --quiet --group docs
	$(BIN)/python docs/modules.py --check
	$(BIN)/mkdocs build --quiet --strict

bench: .venv/installed  ## benchmarks beside their peers, into benchmarks/results (tens of minutes)
	$(BIN)/pip install --quiet --group bench
	for name in store.speed extract.speed probes.gap; do $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m benchmarks.tables

.venv-cuml/installed: pyproject.toml
	$(PYTHON) -m venv .venv-cuml
	.venv-cuml/bin/pip install --quiet --upgrade 'pip>=25.1'
	.venv-cuml/bin/pip install --quiet --editable '.[gpu-cu12]' --group dev
	@touch $@

check-cuml: .venv-cuml/installed  ## the cuML adapter against cuML itself, no GPU needed (installs 6 GB)
	.venv-cuml/bin/python -m pytest -q -rs tests/analyze/sweeps/solvers/test_cuml.py tests/analyze/sweeps/solvers/test_solvers.py

gpu-check: .venv/installed  ## everything that a GPU can tell, under eight minutes
	$(BIN)/python -m benchmarks.gpu_check

paper: .venv/installed  ## the paper's study: make paper DATA=folder with cifar10/, flowers102/, pets37/
	$(BIN)/python -m benchmarks.study.features $(DATA) --out paper/features --control
	$(BIN)/python -m benchmarks.study.paper paper/features --out paper/study

clean:  ## remove the environment and what the demo made
	rm -rf .venv .venv-cuml demo site .coverage .pytest_cache .mypy_cache .ruff_cache
