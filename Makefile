# Tasks for people and for CI. Needed: git, make, Python 3.11 to 3.13 with its own pip. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Test processes at a time: more than two cores, because many tests wait for other processes.
WORKERS ?= 4
PYTEST = $(BIN)/python -m pytest --numprocesses=$(WORKERS) --maxprocesses=8 --dist=load --maxschedchunk=2

# The first Python that runs and fits; PYTHON=… names another. That a name is on PATH does not mean that it
# runs: version managers leave names that only print an error.
CANDIDATES := python3.13 python3.12 python3.11 python3 python
FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for name in $(CANDIDATES); do \
	"$$name" -c "$(FITS)" >/dev/null 2>&1 && { echo "$$name"; break; }; done)

SOURCES := newsletter tests $(wildcard benchmarks)

# Some containers forbid Python to keep what it compiled. Here a hundred commands are started, and each of them
# would compile all of its libraries anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test faults bench check check-style check-types check-rooms check-words check-templates check-tests \
	check-wheel format lock clean
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## *' '/^[a-z-]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## set up, then live through a subscriber's weeks in a minute
	$(BIN)/newsletter demo $(DEMO_ARGS)

test: $(STAMP)  ## run the whole test suite
	$(PYTEST) $(TEST_ARGS)

# KILLS and STOPS: how often at random, for each database; SEED brings back the chance of an earlier run.
KILLS ?= 1000
STOPS ?= 20
FAULTS_REPORT ?= tests/faults/latest.json
faults: $(STAMP)  ## kill, stop, cut off and fill up for an hour, and count (KILLS=1000 STOPS=20 SEED=...)
	FAULTS_LONG=1 KILLS=$(KILLS) STOPS=$(STOPS) SEED=$(SEED) FAULTS_REPORT=$(FAULTS_REPORT) \
		$(PYTEST) -o timeout=3600 tests/faults $(TEST_ARGS)

bench: $(STAMP)  ## measure the sending beside what the machine can do at most
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# One after the other whatever -j says, the quick ones first.
check: $(STAMP)  ## everything that must be right before a change lands
	@$(MAKE) --no-print-directory -j1 check-style check-types check-rooms check-words check-templates \
		check-tests check-wheel

check-style: $(STAMP)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

check-types: $(STAMP)
	$(BIN)/mypy

check-rooms: $(STAMP)
	$(BIN)/lint-imports

check-words: $(STAMP)
	$(BIN)/codespell newsletter $(wildcard templates content docs benchmarks *.md .env.example pyproject.toml Makefile)

check-templates: $(STAMP)
	$(BIN)/djlint --lint --quiet templates

# A run that was killed may have left data that a new one would add to.
check-tests: $(STAMP)
	rm -f .coverage .coverage.*
	$(PYTEST) --cov --cov-report=term $(TEST_ARGS)

check-wheel: $(STAMP)
	$(BIN)/python -m tests.support.wheel

format: $(STAMP)  ## bring the sources into shape, and mend what can be mended
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Keeps the versions that are locked; `make lock UPGRADE=1` takes the newest.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
lock: $(STAMP)  ## write the lock files anew (UPGRADE=1: with newer versions)
	$(COMPILE) pyproject.toml --extra postgres --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra postgres --group test --group dev --constraints requirements.lock \
		--output-file requirements-dev.lock

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) dist build htmlcov .coverage .coverage.* .hypothesis
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find newsletter tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock with its hashes first, then the project itself: pip cannot check the hash of a folder. The lock is
# complete, hence no dependencies: where one asks for an extra of another, an older pip would look for the newest
# version and refuse it. Without isolation the project's build uses the locked hatchling.
$(STAMP): requirements-dev.lock pyproject.toml
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { \
		echo "Python 3.11, 3.12 or 3.13 (with venv and pip) is needed: name it with PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r requirements-dev.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@
