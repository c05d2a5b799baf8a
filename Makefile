# `make demo` and `make test` set up everything they need; Python 3.11+ and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test bench gpu check check-types check-style check-reference check-console format docs reference screenshots lock compose-env compose-test clean
.DEFAULT_GOAL := help

help:
	@echo "make install   install everything into $(VENV), from requirements.lock"
	@echo "make demo      the main job from end to end, on this machine (KEEP=1: leave it running)"
	@echo "make test      the whole test suite"
	@echo "make bench     the benchmarks, as ratios within one run"
	@echo "make gpu       what only a GPU can show, in eight minutes, as gpu.json"
	@echo "make check     ruff, mypy, import-linter, tsc, and that docs/reference is current"
	@echo "make format    format the code with ruff"
	@echo "make docs      the documentation as a site, in site/"
	@echo "make reference write docs/reference from the code"
	@echo "make compose-test  the cluster of containers, with faults injected"
	@echo "make compose-env  random secrets and image digests for docker compose, in .env"
	@echo "make screenshots  pictures of each screen of the console, in screenshots/"
	@echo "make lock      update requirements.lock"

install: $(INSTALLED)

# The console's sources: what is built from them is in the package.
CONSOLE := $(shell find api/console -type f -not -path '*/node_modules/*' -not -name schema.d.ts)

# uv is installed into the environment, so that nothing outside $(VENV) is touched.
$(INSTALLED): requirements.lock pyproject.toml $(CONSOLE)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: install
	@$(BIN)/vicreg demo

# What the console is built and tested with. Its build installs it by itself, and is skipped if the
# console is already built.
MODULES := api/console/node_modules/.package-lock.json
$(MODULES): api/console/package-lock.json | $(INSTALLED)
	cd api/console && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# Unit tests share nothing and run side by side; the files of integration tests share servers only
# within a process; the others share one Ray cluster.
test: install $(MODULES)
	cd api/console && PATH="$(CURDIR)/$(BIN):$$PATH" npm test --silent
	$(BIN)/python -m pytest -n auto --dist load tests/unit
	$(BIN)/python -m pytest -n auto --dist loadfile tests/integration
	$(BIN)/python -m pytest tests/e2e tests/console tests/docs tests/gpu

# Only the benchmarks use lightly: it stays out of the environment.
LIGHTLY := $(VENV)/lightly
LIGHTLY_PACKAGES := lightly==1.6.0 lightly-utils pytorch-lightning lightning-utilities torchmetrics aenum
# And only one of them reads images as these do.
READERS := $(VENV)/readers
READER_PACKAGES := webdataset==1.0.2 braceexpand nvidia-dali-cuda120==2.4.0 nvidia-nvimgcodec-cu12 optree gast astunparse
bench: install
	@test -d $(LIGHTLY) || $(BIN)/uv pip install --quiet --no-deps --target $(LIGHTLY) $(LIGHTLY_PACKAGES)
	@test -d $(READERS) || $(BIN)/uv pip install --quiet --no-deps --target $(READERS) $(READER_PACKAGES)
	$(BIN)/python -m tests.benchmarks.loss
	$(BIN)/python -m tests.benchmarks.convolution
	PYTHONPATH=$(LIGHTLY) $(BIN)/python -m tests.benchmarks.step
	PYTHONPATH=$(LIGHTLY) $(BIN)/python -m tests.benchmarks.step --width 8192 --rounds 3
	PYTHONPATH=$(READERS) $(BIN)/python -m tests.benchmarks.input
	$(BIN)/python -m tests.benchmarks.accumulate
	$(BIN)/python -m tests.benchmarks.checkpoint
	$(BIN)/python -m tests.benchmarks.features
	$(BIN)/python -m tests.benchmarks.mlflow_outage
	$(BIN)/python -m tests.benchmarks.startup
	$(BIN)/python -m tests.benchmarks.console
	$(BIN)/python -m tests.benchmarks.queue_policies
	$(BIN)/python -m tests.benchmarks.dispatch_round

# With CIFAR10=FOLDER, whose images are in {train,test}/<class>/, a training of it too.
gpu: install
	@test -d $(LIGHTLY) || $(BIN)/uv pip install --quiet --no-deps --target $(LIGHTLY) $(LIGHTLY_PACKAGES)
	PYTHONPATH=$(LIGHTLY) $(BIN)/python -m tests.gpu.measure gpu.json $(if $(CIFAR10),--images $(CIFAR10))

# Its parts share nothing: they run side by side.
check: install $(MODULES)
	@$(MAKE) --no-print-directory --jobs 2 check-types check-style check-reference check-console

check-types:
	$(BIN)/mypy

check-style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

check-reference:
	$(BIN)/python docs/generate.py --check

check-console:
	cd api/console && PATH="$(CURDIR)/$(BIN):$$PATH" npm run check --silent

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

reference: install
	$(BIN)/python docs/generate.py

# Needs Chromium, as the tests of the console do.
screenshots: install
	$(BIN)/python -m tests.console.screenshots screenshots

# What each image contains, at the versions of requirements.lock: a change elsewhere in
# pyproject.toml must not reinstall torch.
IMAGE_LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	--no-header --no-annotate --generate-hashes --constraint requirements.lock pyproject.toml
lock:
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
		--no-header --all-extras pyproject.toml -o requirements.lock
	$(IMAGE_LOCK) -o deploy/platform.lock
	$(IMAGE_LOCK) --extra workers -o deploy/workers.lock

compose-test: install
	@if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then \
		$(BIN)/python -m pytest -m compose tests/compose -s; \
	else echo "compose-test: skipped, because there is no Docker engine with Compose"; fi

# Random secrets and image digests for docker compose; an existing .env is kept.
compose-env:
	@test -e .env || $(PYTHON) deploy/environment.py > .env
	@chmod 600 .env
	@echo ".env contains the secrets of the cluster; its VICREG_API_KEY is the administrator's"

clean:
	rm -rf $(VENV) .vicreg
