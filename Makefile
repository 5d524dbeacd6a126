# Everything a user types: `make run`, `make test`. Set-up happens by itself.
VENV := .venv
VENV_VALIDATE := .venv-validate
BIN := $(VENV)/bin
# uv where it is there, else pip.
UV := $(shell command -v uv 2>/dev/null)
# The first that runs (a version manager's stand-in may be there and not run) and is 3.11, 3.12 or 3.13.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
WORKSPACE ?= workspace
CONFIG ?= demo
PATIENTS ?= 100000
SHARDS ?= 1 2 4 8

.PHONY: setup run ui test test-all lint bench bench-serve bench-scale lock images base-image clean help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed $(VENV_VALIDATE)/.installed  ## Make the environments (done by the other targets as well)

$(VENV)/.installed: infra/locks/requirements.txt setup.cfg infra/setup.sh
	@sh infra/setup.sh main "$(PYTHON)" $(VENV) "$(UV)"

$(VENV_VALIDATE)/.installed: infra/locks/requirements-validate.txt infra/setup.sh $(VENV)/.installed
	@sh infra/setup.sh validate "$(PYTHON)" $(VENV_VALIDATE) "$(UV)" $(VENV)

$(WORKSPACE)/demo: | setup
	$(BIN)/vitalfuse cohort generate --output $@

run: setup $(WORKSPACE)/demo  ## Generate the demo cohort and run the whole pipeline on it
	@$(BIN)/vitalfuse run --config $(CONFIG) --workspace $(WORKSPACE)

ui: setup  ## Open the MLflow UI on the runs
	$(BIN)/vitalfuse ui --workspace $(WORKSPACE)

test: setup  ## Run the tests that take minutes at most
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow and not real_data" \
		--numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-all: setup  ## Run all tests, also slow ones and those on the real data sets
	$(BIN)/python -m pytest -q

lint: setup  ## Check style, docstrings and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## Print the figures of docs/performance.md for this machine
	$(BIN)/python -m benchmarks

bench-serve: setup  ## Measure the server on the champion of WORKSPACE against `mlflow models serve`
	$(BIN)/python -m benchmarks.serve --workspace $(WORKSPACE)

bench-scale: setup  ## Measure PATIENTS (100000) in SHARDS (1 2 4 8), project to 10 million; takes 40 minutes, 3 GB
	$(BIN)/python -m benchmarks.scale --patients $(PATIENTS) --shards $(SHARDS) --folder $(WORKSPACE)/bench-scale

lock:  ## Resolve the lock files anew, also those of the images (needs uv)
	uv pip compile setup.cfg --extra docker --extra test --extra lint --universal --python-version 3.11 \
		--no-header --no-annotate -o infra/locks/requirements.txt
	uv pip compile setup.cfg --extra docker --extra test --extra lint --extra validation --universal --python-version 3.11 \
		--no-header --no-annotate -o infra/locks/requirements-tfdv.txt
	sh infra/images/lock.sh

images:  ## Build the container images of the steps (docs/images.md names the variables)
	@sh infra/images/build.sh

base-image:  ## Make their Debian base with debootstrap, where no registry is reachable (needs root)
	@sh infra/images/base.sh

clean:  ## Remove both environments
	rm -rf $(VENV) $(VENV_VALIDATE)
