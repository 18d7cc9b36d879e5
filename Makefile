# Every target sets up what it needs: a virtual environment with the pinned packages of
# constraints.txt, made anew when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench docs clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "bestresponse needs Python 3.11 or newer; say which one with: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[apps,dev]'
	@touch $@

demo: $(STAMP)  ## clean wrongly labelled digits: learn a weight for each example in one training run
	@$(BIN)/bestresponse tune --corrupt 0.4 --tune weights --validation 100 --out runs/demo --overwrite

test: $(STAMP)  ## all tests
	@$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench:  ## cost, memory and accuracy in units of one training gradient, beside the peers
	@test -x $(VENV)-bench/bin/python || $(PYTHON) -m venv $(VENV)-bench
	@$(VENV)-bench/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[apps]'
	@grep '^[a-z]' benchmarks/requirements.txt | xargs -n 1 $(VENV)-bench/bin/pip install --quiet \
		--disable-pip-version-check -c constraints.txt || echo "Not every peer could be installed."
	@$(VENV)-bench/bin/python -m benchmarks $(ARGS)

docs: $(STAMP)  ## the documentation as html, in docs/_build
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@$(BIN)/sphinx-build -W -q docs docs/_build && echo "open docs/_build/index.html"

clean:  ## remove the environment, runs and caches
	rm -rf $(VENV) runs docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
