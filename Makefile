# The commands of this project. Each prints what it does; see CONTRIBUTING.md.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

MAIN = .venv/bin/python
ADDONS = .venv-addons/bin/python
# Which tests a leg runs: tests/selection.py. An idle process takes over half of what another has left.
PYTEST = -m pytest -q -n 2 --dist worksteal --durations=10
LEGS = build/legs

.PHONY: help demo docs test test-all test-matrix lint types legs leg-main leg-legacy leg-addons
.PHONY: native wheel bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    examples/quickstart.py, in its own environment"
	@echo "make test    lint, types and the tests on all three supported legs (30 to 60 minutes)"
	@echo "make test-all  the same with every test on every leg, however long (about 90 minutes)"
	@echo "make test-matrix VERSIONS='2.18 2.20'  a short set of tests on other versions of TensorFlow"
	@echo "make docs    the documentation site, into build/site"
	@echo "make lint    ruff only"
	@echo "make native  rebuilds the compiled library in the existing environments"
	@echo "make wheel   the packages for users, in dist: see docs/releasing.md"
	@echo "make bench   the benchmarks"
	@echo "make clean   removes what these created, environments included"

demo: .venv/demo
	@$(MAIN) -c 'import keras_norms; print("==", keras_norms.native_status().reason)' 2>/dev/null
	@echo "== The example: examples/quickstart.py (1-2 minutes)"
	@$(MAIN) examples/quickstart.py

# Anything that is amiss fails: a link that leads nowhere, a page outside of the navigation.
docs: export TF_CPP_MIN_LOG_LEVEL ?= 2
docs: .venv/test
	@echo "== The documentation site: build/site/index.html (half a minute)"
	@$(MAIN) -m sphinx -q -W --keep-going -c docs/site -d build/doctrees . build/site

test:
	@$(MAKE) -s -j2 .venv/tensorflow .venv-addons/tensorflow
	@$(MAKE) lint
	@$(MAKE) types
	@$(MAKE) legs

test-all:
	@$(MAKE) test PYTEST='$(PYTEST) --full'

test-matrix:
	@$(PYTHON) tests/matrix.py $(VERSIONS)

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
	@echo "== All legs passed. Their slowest tests, and how many there were:"
	@for leg in main legacy addons; do echo "-- $$leg"; sed -n '/slowest/,$$p' $(LEGS)/$$leg; done

leg-main leg-legacy leg-addons bench: export TF_CPP_MIN_LOG_LEVEL ?= 2
# A test that needs the compiled library fails without it; elsewhere it is skipped.
leg-main leg-legacy leg-addons: export KERAS_NORMS_TEST_NATIVE ?= require

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

wheel: .venv/test
	@echo "== Downloading TensorFlow 2.15 to 2.21, 4 GB, where build/tensorflow lacks them"
	@$(MAIN) -m custom_ops.tensorflow_package build/tensorflow
	@echo "== Building dist: the sources, and from them the wheel (10-20 minutes)"
	@KERAS_NORMS_BUILD_FOR=$(CURDIR)/build/tensorflow KERAS_NORMS_BUILD_CUDA=skip $(MAIN) -m build

bench: .venv/test
	@echo "== Benchmarks: layers, family, monitor, resnet50, replicas, exporting (minutes); gpu.py needs a GPU and is run by hand"
	@for name in layers family monitor resnet50 replicas exporting; do echo "-- $$name"; $(MAIN) benchmarks/$$name.py; done

clean:
	@echo "== Removing environments, builds, caches, demo_output and streaming_output"
	@rm -rf .venv .venv-addons build dist *.egg-info demo_output streaming_output keras_norms/ops/_native
	@rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments. The files are stamps: an install is repeated when what it depends on changes.
# TensorFlow comes first: an editable install builds the compiled library for the one installed.
# There is one library for each TensorFlow, so the environments do not get in each other's way.

METADATA = setup.cfg setup.py pyproject.toml
SOURCES := $(shell find custom_ops -name '*.cc' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh')
INSTALL = pip install -q --no-build-isolation

.venv/bin/python:
	@echo "== Creating .venv (seconds)"
	@$(PYTHON) -m venv .venv

.venv-addons/bin/python:
	@echo "== Creating .venv-addons (seconds)"
	@$(PYTHON) -m venv .venv-addons

.venv/tensorflow: requirements/main.txt | .venv/bin/python
	@echo "== Installing TensorFlow 2.21 into .venv (1-2 minutes)"
	@$(MAIN) -m pip install -q -c requirements/main.txt setuptools tensorflow
	@touch $@

.venv-addons/tensorflow: requirements/addons.txt | .venv-addons/bin/python
	@echo "== Installing TensorFlow 2.15 into .venv-addons (1-2 minutes)"
	@$(ADDONS) -m pip install -q -c requirements/addons.txt setuptools tensorflow
	@touch $@

.venv/demo: $(METADATA) $(SOURCES) .venv/tensorflow
	@echo "== Building the compiled library; installing the example's packages (2-4 minutes)"
	@$(MAIN) -m $(INSTALL) -c requirements/main.txt -e '.[examples]'
	@touch $@

.venv/test .venv-addons/test native: export KERAS_NORMS_BUILD_NATIVE ?= require

.venv/test: $(METADATA) $(SOURCES) .venv/tensorflow
	@echo "== Building the compiled library; installing the tools into .venv (2-4 minutes)"
	@$(MAIN) -m pip install -q -c requirements/main.txt jax  # What is built for has to be there.
	@$(MAIN) -m $(INSTALL) -c requirements/main.txt -e '.[legacy,examples,experiments,jax,deploy,docs,dev]'
	@touch $@

.venv-addons/test: $(METADATA) $(SOURCES) .venv-addons/tensorflow
	@echo "== Building the compiled library; installing the tools into .venv-addons (2-4 minutes)"
	@$(ADDONS) -m $(INSTALL) -c requirements/addons.txt -e '.[addons,examples,experiments,deploy,dev]'
	@touch $@

native:
	@for python in $(wildcard $(MAIN) $(ADDONS)); do \
		echo "== Building the compiled library for $$python"; \
		$$python -m $(INSTALL) --no-deps -e . ; \
	done
