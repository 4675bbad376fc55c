.DEFAULT_GOAL := help
.PHONY: help venv demo test browser-test check container-check clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY)  ## Make .venv with the package and the tools for tests and checks

$(READY): pyproject.toml constraints.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e . -r requirements-dev.txt
	touch $@

demo: $(READY)  ## Harmonize the included scan, results in demo-out/
	$(BIN)/blindharmony demo demo-out --overwrite

test: $(READY)  ## Run the tests (without those on real scans)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

browser-test: $(READY)  ## Open every page in Chromium (BLINDHARMONY_CHROMIUM, or the one on the PATH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements-browser.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser -rs tests/browser

check: $(READY)  ## Check style, types and the order of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

container-check:  ## Do what Dockerfile and Apptainer.def do, in a clean virtual environment
	PYTHON=$(PYTHON) HADOLINT=$(BIN)/hadolint container/check.sh

clean:  ## Remove .venv and everything made by the other targets
	rm -rf .venv demo-out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
