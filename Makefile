# Everything is set up on the way; nothing has to be run before. `make help` lists what there is.

SHELL := /bin/bash
PYTHON_ := .venv/bin/python
UV := .venv/bin/uv

.DEFAULT_GOAL := help
.PHONY: help run test coverage behaviour check format bench setup lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

run: ## the quick start: http://todo.localhost:8080, Ctrl-C ends it
	@.ci/setup run
	@exec $(PYTHON_) examples/quickstart/quickstart.py

test: ## all tests; ARGS="-k haproxy" for some
	@.ci/setup test
	$(PYTHON_) -m pytest -n 2 --dist loadfile $(ARGS)

coverage: ## all tests, and a table of the lines and branches that they never ran
	@.ci/setup test
	$(PYTHON_) -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-report=html:build/coverage/html $(ARGS)

nightly: ## 100,000 hostile inputs, other ones each time; kills at every step; an hour
	@.ci/setup test
	HYPOTHESIS_PROFILE=nightly $(PYTHON_) -m pytest -n 2 --dist load --timeout 1800 \
	  tests/hostile tests/faults/test_kill_daemon.py tests/faults/test_kill_reload.py $(ARGS)

chaos: ## churn, releases and faults under load for minutes; ARGS="--seed 7 --seconds 300" replays
	@.ci/setup test
	@$(PYTHON_) -m tests.chaos $(ARGS)

behaviour: ## each case on every proxy; renews the tables of what they can do
	@.ci/setup test
	$(PYTHON_) -m pytest tests/behaviour --behaviour-table $(ARGS)

check: ## ruff, mypy, import-linter
	@.ci/setup test
	$(PYTHON_) -m ruff check .
	$(PYTHON_) -m ruff format --check .
	$(PYTHON_) -m mypy
	.venv/bin/lint-imports

format: ## put the code into its form
	@.ci/setup test
	$(PYTHON_) -m ruff check --fix .
	$(PYTHON_) -m ruff format .

bench: ## measure against a floor in the same run
	@.ci/setup test
	$(PYTHON_) -m benchmarks $(ARGS)

setup: ## only set up: .venv, HAProxy, nginx, etcd
	@.ci/setup test

lock: ## renew the lock files; ARGS="--upgrade" for newer versions
	@.ci/setup test
	$(UV) pip compile --quiet $(LOCK) --output-file .ci/requirements.lock pyproject.toml
	$(UV) pip compile --quiet $(LOCK) --output-file .ci/requirements-dev.lock \
	  --extra dev --constraint .ci/requirements.lock pyproject.toml
	@echo 'hatchling' | $(UV) pip compile --quiet $(LOCK) --constraint .ci/requirements-dev.lock \
	  --output-file .ci/requirements-build.lock -

LOCK = --universal --python-version 3.11 --generate-hashes --no-emit-package vulcanized \
  --custom-compile-command "make lock" $(ARGS)

clean: ## remove what was made: build/, dist/, .venv, caches
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
