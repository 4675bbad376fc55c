.DEFAULT_GOAL := help
OUT ?= ds002748.safetensors
TISSUE ?= tissue.safetensors
.PHONY: help venv release demo test long-test benchmark-test slow-test block-test browser-test check coverage docs bench target tissue wheel-check container-check workflow-check lock clean

PYTHON ?= python3
BIN := .venv/bin
PACKAGE := .venv/.package
# Where there is no NVIDIA GPU, PyTorch comes without its GPU libraries, a tenth of the download. TORCH_INDEX= on the
# command line takes them all the same; an index that cannot be reached is passed over.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,https://download.pytorch.org/whl/cpu)
READY := .venv/.ready
# Files of tests stay together; the slowest come first (testpaths), so that the processes end together. Three on two
# cores: tests that wait for a server or a killed worker leave a core free.
PYTEST := -m pytest -n 3 --dist loadfile --no-loadscope-reorder
BENCHMARK_TESTS := benchmarks/tests benchmarks/src

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY)  ## Make .venv with the package and the tools for tests and checks

# The package alone is all that the demo needs: the locked files, torch in the build that this machine takes, the source.
$(PACKAGE): pyproject.toml constraints.txt requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "1 of 3: the packages of requirements.lock (from PyPI; NumPy, SciPy, SimpleITK, nibabel and smaller ones); pip is silent while it unpacks them"
	$(BIN)/python -m pip install --require-hashes --no-deps -r requirements.lock
	@echo "2 of 3: PyTorch, the largest part ($(if $(TORCH_INDEX),without GPU libraries,6 GB with its GPU libraries); docs/how-to/install.md says how to choose)"
	$(BIN)/python -m pip install -c constraints.txt $(if $(TORCH_INDEX),--retries 1 --extra-index-url $(TORCH_INDEX)) torch
	@echo "3 of 3: blindharmony itself, from this folder"
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

$(READY): $(PACKAGE) requirements-dev.txt benchmarks/pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements-dev.txt -e benchmarks
	touch $@

demo: $(PACKAGE)  ## Harmonize the included head, results in demo-out/
	$(BIN)/blindharmony demo demo-out --overwrite
	@echo "To make blindharmony a command of this shell: . $(BIN)/activate"

test: $(READY)  ## Run the tests (but for long ones, and those on real scans)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

long-test: $(READY)  ## Run the tests that are whole runs: bytes of processes, kills, trainings, reruns
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist load -m long tests

benchmark-test: $(READY)  ## Run the tests of the benchmark, a distribution of its own
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) $(BENCHMARK_TESTS)

slow-test: $(READY)  ## Run the slow tests alone: real scans, every code block of the documentation, many minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist load -m "slow and not browser" -k "not small"

block-test: $(READY)  ## Run every code block of the documentation with a small model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist load -m slow -k small tests/docs

browser-test: $(READY)  ## Open every page in Chromium (BLINDHARMONY_CHROMIUM, or the one on the PATH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements-browser.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser -rs tests/browser

check: $(READY)  ## Check style, types and the order of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/deptry src
	cd benchmarks && ../$(BIN)/deptry src

coverage: $(READY)  ## Measure which lines and branches the tests reach; fails below 95 %
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run $(PYTEST) -m "not slow"
	OMP_NUM_THREADS=1 $(BIN)/coverage run $(PYTEST) $(BENCHMARK_TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

docs: $(READY)  ## Build the documentation in build/site, strictly, and check that it loads nothing from elsewhere
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/check_site.py build/site

bench: $(READY)  ## Make the tables of docs/measured_*.md from the records beside them
	$(BIN)/python benchmarks/tables.py docs
	$(BIN)/python benchmarks/evidence_tables.py docs
	$(BIN)/python benchmarks/flow_tables.py docs
	$(BIN)/python benchmarks/study_tables.py docs
	$(BIN)/python benchmarks/mutants.py --page docs/measured_mutants.json
	$(BIN)/python benchmarks/tissue.py --page docs/measured_tissue.json
	$(BIN)/python benchmarks/contrasts.py --page docs/measured_contrasts.json
	$(BIN)/python benchmarks/bars.py --page docs/measured_bars.json
	$(BIN)/python benchmarks/drift.py --page docs/measured_drift.json

wheel-check:  ## Build sdist and wheel, look through them, and run the demo from the wheel alone
	PYTHON=$(PYTHON) .ci/wheel-check

target: $(READY)  ## Train the included target anew: make target DATA=path/to/ds002748 OUT=ds002748.safetensors
	OMP_NUM_THREADS=1 $(BIN)/blindharmony train $(DATA) \
	  --participant-label $$(seq -f %02g 8) $$(seq 29 50) $$(seq 59 66) --held-out 47 48 49 50 \
	  --steps 1800 --slice-steps 600 --restorer-steps 12000 --seed 0 --name ds002748 --license CC0-1.0 \
	  --data "OpenNeuro ds002748 v1.0.5 (Bezmaternykh et al.), one 3 T site, skull-stripped; training sub-01 to 08, 29 to 46 and 59 to 66, held out sub-47 to sub-50" \
	  --note limits "adults without visible lesions, T1w, one site; not a medical device" \
	  --out $(OUT) --resume

tissue: $(READY)  ## Train the tissue network anew: make tissue DATA=path/to/ds002748 TISSUE=tissue.safetensors
	OMP_NUM_THREADS=1 $(BIN)/python -m blindharmony.training.tissue $(DATA) \
	  --participant-label $$(seq -f %02g 8) $$(seq 29 50) $$(seq 59 66) --held-out 47 48 49 50 --steps 3000 --seed 0 \
	  --data "OpenNeuro ds002748 v1.0.5 (Bezmaternykh et al.): sub-01 to 08, 29 to 46 and 59 to 66; sub-47 to 50 judged" \
	  --license CC0-1.0 --out $(TISSUE) --resume

container-check:  ## Do what Dockerfile and Apptainer.def do, in a clean virtual environment
	PYTHON=$(PYTHON) HADOLINT=$(BIN)/hadolint container/check.sh

workflow-check: $(READY)  ## Run the recipes for Snakemake, Nextflow, Nipoppy and nipype, in an environment of their own
	test -x build/workflows/bin/python || $(PYTHON) -m venv build/workflows
	build/workflows/bin/python -m pip install --quiet -r requirements-workflows.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long -rs tests/integrations/test_workflows.py

release:  ## Write version, address and authors of packaging/release.toml into every file that names them
	$(PYTHON) packaging/release.py

lock: $(READY)  ## Resolve the dependencies anew: requirements.lock with hashes, sbom.cdx.json with what is inside
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python packaging/lock.py
	$(BIN)/python packaging/sbom.py

clean:  ## Remove .venv and everything made by the other targets
	rm -rf .venv demo-out build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
