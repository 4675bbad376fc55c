.DEFAULT_GOAL := help
OUT ?= ds002748.safetensors
.PHONY: help venv demo test target browser-test check container-check clean

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

target: $(READY)  ## Train the included target anew: make target DATA=path/to/ds002748 OUT=ds002748.safetensors
	OMP_NUM_THREADS=1 $(BIN)/blindharmony train $(DATA) \
	  --participant-label $$(seq 29 50) --held-out 47 48 49 50 \
	  --steps 900 --slice-steps 600 --restorer-steps 2400 --seed 0 --name ds002748 --licence CC0-1.0 \
	  --data "OpenNeuro ds002748 v1.0.5 (Bezmaternykh et al.), one 3 T site, skull-stripped; training sub-29 to sub-46, held out sub-47 to sub-50; ages 19 to 46" \
	  --note limits "adults without visible lesions, T1w, one site; not a medical device" \
	  --out $(OUT) --resume

container-check:  ## Do what Dockerfile and Apptainer.def do, in a clean virtual environment
	PYTHON=$(PYTHON) HADOLINT=$(BIN)/hadolint container/check.sh

clean:  ## Remove .venv and everything made by the other targets
	rm -rf .venv demo-out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
