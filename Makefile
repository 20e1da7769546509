# The commands of this project. Each prints what it does; see CONTRIBUTING.md.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

MAIN = .venv/bin/python
ADDONS = .venv-addons/bin/python
PYTEST = -m pytest -q -n 2
LEGS = build/legs

.PHONY: help demo test lint types legs leg-main leg-legacy leg-addons bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the example, in its own environment"
	@echo "make test    lint, types and the tests on all three supported legs"
	@echo "make lint    ruff only"
	@echo "make bench   the benchmarks"
	@echo "make clean   removes what these made, environments included"

demo: .venv/demo
	@echo "== The example: examples/quickstart.py (1-2 minutes)"
	@$(MAIN) examples/quickstart.py

test:
	@$(MAKE) lint
	@$(MAKE) types
	@$(MAKE) legs

lint: .venv/test
	@echo "== Lint: ruff (seconds)"
	@$(MAIN) -m ruff check .
	@$(MAIN) -m ruff format --check .

types: .venv/test
	@echo "== Types: mypy (seconds)"
	@$(MAIN) -m mypy keras_norms

# One after the other: each uses two processes.
legs:
	@$(MAKE) leg-main
	@$(MAKE) leg-legacy
	@$(MAKE) leg-addons
	@echo "== All legs passed"
	@for leg in main legacy addons; do printf '%-8s%s\n' $$leg "$$(tail -n 1 $(LEGS)/$$leg)"; done

leg-main leg-legacy leg-addons bench: export TF_CPP_MIN_LOG_LEVEL ?= 2

leg-main: .venv/test
	@echo "== Tests, main leg: TensorFlow 2.21 with Keras 3, and doctests (minutes)"
	@mkdir -p $(LEGS)
	@$(MAIN) $(PYTEST) --doctest-modules keras_norms tests | tee $(LEGS)/main

leg-legacy: .venv/test
	@echo "== Tests, legacy leg: TensorFlow 2.21 with TF_USE_LEGACY_KERAS=1 (minutes)"
	@mkdir -p $(LEGS)
	@TF_USE_LEGACY_KERAS=1 $(MAIN) $(PYTEST) tests | tee $(LEGS)/legacy

leg-addons: .venv-addons/test
	@echo "== Tests, addons leg: TensorFlow 2.15 with tensorflow-addons (minutes)"
	@mkdir -p $(LEGS)
	@$(ADDONS) $(PYTEST) tests | tee $(LEGS)/addons

bench: .venv/test
	@echo "== Benchmarks: benchmarks/*.py (minutes)"
	@for script in $$(grep -l __main__ benchmarks/*.py); do echo "-- $$script"; $(MAIN) "$$script"; done

clean:
	@echo "== Removing environments, builds, caches and demo_output"
	@rm -rf .venv .venv-addons build dist *.egg-info demo_output
	@rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments. The files are stamps: an install is repeated when what it depends on changes.

METADATA = setup.cfg setup.py pyproject.toml

.venv/bin/python:
	@echo "== Creating .venv (seconds)"
	@$(PYTHON) -m venv .venv

.venv-addons/bin/python:
	@echo "== Creating .venv-addons (seconds)"
	@$(PYTHON) -m venv .venv-addons

.venv/demo: $(METADATA) requirements/main.txt | .venv/bin/python
	@echo "== Installing TensorFlow 2.21 and the example's packages into .venv (1-3 minutes)"
	@$(MAIN) -m pip install -q -c requirements/main.txt -e '.[examples]'
	@touch $@

.venv/test: $(METADATA) requirements/main.txt | .venv/bin/python
	@echo "== Installing TensorFlow 2.21 and the tools into .venv (1-3 minutes)"
	@$(MAIN) -m pip install -q -c requirements/main.txt -e '.[legacy,examples,dev]'
	@touch $@

.venv-addons/test: $(METADATA) requirements/addons.txt | .venv-addons/bin/python
	@echo "== Installing TensorFlow 2.15 and tensorflow-addons into .venv-addons (1-3 minutes)"
	@$(ADDONS) -m pip install -q -c requirements/addons.txt -e '.[addons,examples,dev]'
	@touch $@
