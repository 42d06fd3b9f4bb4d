# Everything that a person does with this repository; `make help` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PACKAGES := $(VENV)/.installed
STAMP  := $(VENV)/.project

.DEFAULT_GOAL := help
.PHONY: help demo up down status test test-fast test-fast-some test-fast-others test-fast-rest test-library test-jobs test-flows \
        test-all chaos fuzz check lint format types dist peers bench bench-infer bench-decode bench-store bench-staging bench-records bench-train gpu gpu-check dashboard docs kernels-asan kernels-aarch64 docs-site transcript lock audit clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(STAMP) ## the whole pipeline on a small real data set: stage, train, evaluate, publish, infer, report
	@$(BIN)/effnet demo

# In parts of their own, because MindSpore may run only in a process that Prefect does not use
# (docs/adr/0003), and four at a time, because jobs and flows wait more than they compute. The longest come
# first, so that no core is idle at the end; files that share finished runs or a service stay together.
PYTEST := $(BIN)/python -m pytest $(if $(COST),-p tests.support.cost)
PARTS := flows-others jobs-others cells jobs-crash unit flows-service jobs-runs
test: $(STAMP) ## the test suite (COST=1: with what tests take of the processor)
	@shared=$$(mktemp -d) && trap 'rm -rf "$$shared"' EXIT && EFFNET_TEST_SHARED=$$shared \
	    $(MAKE) --no-print-directory --keep-going --jobs=4 $(addprefix test-part-,$(PARTS))

test-library: test-part-cells test-part-unit
test-jobs: test-part-jobs-runs test-part-jobs-crash test-part-jobs-others
test-flows: test-part-flows-service test-part-flows-others

using = $(shell grep -lE "$(1)" tests/$(2)/test_*.py)
files-cells = tests/cells
files-unit = tests/unit
files-jobs-runs = $(call using,one_rank:,jobs)
files-jobs-crash = $(filter-out $(files-jobs-runs),$(call using,SIGKILL|[.]kill|mount|send_signal,jobs))
files-jobs-others = $(filter-out $(files-jobs-runs) $(files-jobs-crash),$(wildcard tests/jobs/test_*.py))
files-flows-service = $(call using,service: TestedService,flows)
files-flows-others = $(filter-out $(files-flows-service),$(wildcard tests/flows/test_*.py))

# Lines begin with where they come from.
test-part-%: SHELL := /bin/bash
test-part-%: $(STAMP)
	@set -o pipefail; $(PYTEST) -m "not slow" --durations=10 $(files-$*) 2>&1 | sed -u 's/^/$*  /'

test-fast: $(STAMP) ## the unit tests without object stores and the dearest, for the inner loop
	@$(MAKE) --no-print-directory --keep-going --jobs=3 test-fast-some test-fast-others test-fast-rest

# Three thirds that take about as long as each other: some of their time they wait.
FAST   := -q -m "not slow and not store and not costly"
SOME   := $(addprefix tests/unit/,data reports system weights)
OTHERS := $(addprefix tests/unit/,cli config infer model_store storage)
test-fast-some: $(STAMP)
	@$(PYTEST) $(FAST) $(SOME)
test-fast-others: $(STAMP)
	@$(PYTEST) $(FAST) $(OTHERS)
test-fast-rest: $(STAMP)
	@$(PYTEST) $(FAST) tests/unit $(addprefix --ignore=,$(SOME) $(OTHERS))

test-all: $(STAMP) ## the test suite with its slow tests (EFFNET_PEERS_PYTHON: a Python with torch, timm and the others)
	$(BIN)/pytest tests/cells
	$(BIN)/pytest tests/unit tests/jobs tests/flows tests/fuzz tests/chaos
	$(BIN)/pytest -s tests/peers

# docs/reliability.md says what it does and what it has found.
MINUTES ?= 60
SEED    ?= 1
chaos: $(STAMP) ## the service and an inbox under a random hand, then an audit (MINUTES=60 SEED=1)
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED)

COUNT ?= 30000
fuzz: $(STAMP) ## hostile files from a seed, counted by kind (COUNT=30000 SEED=1)
	$(BIN)/python -m tests.fuzz --count $(COUNT) --seed $(SEED)

check: lint types test ## everything that must be green before a change lands

lint: $(STAMP) ## style, import order, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite files in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## static types
	$(BIN)/mypy

dist: $(STAMP) ## wheel and source archive in dist/
	$(BIN)/python -m build --no-isolation

peers: $(STAMP) ## compare with torchvision, timm and lukemelas (EFFNET_PEERS_PYTHON: a Python that has them)
	$(BIN)/pytest -s tests/peers

bench: $(STAMP) ## the benchmarks; each prints a table and writes it beside its script
	$(BIN)/python benchmarks/gradient_mean.py
	$(BIN)/python benchmarks/onednn_isa.py
	$(BIN)/python benchmarks/orchestration.py
	$(BIN)/python -m benchmarks.kernels

bench-infer: $(STAMP) ## labelling files, compared with a torch loop (EFFNET_PEERS_PYTHON: interpreter with torch)
	$(BIN)/python benchmarks/infer.py --peers "$${EFFNET_PEERS_PYTHON:-$(BIN)/python}"

bench-decode: $(STAMP) ## from JPEG bytes to squares: Pillow, native resizing, other libraries (PYTHONPATH: where those are)
	$(BIN)/python -m benchmarks.decode

bench-store: $(STAMP) ## transfers compared with aws s3 sync, rclone and s5cmd (EFFNET_STORE_PEERS: folder of those)
	$(BIN)/python -m benchmarks.store

bench-staging: $(STAMP) ## staging a folder of JPEGs beside a plain loop
	$(BIN)/python -m benchmarks.staging

bench-records: $(STAMP) ## reading a data set from MindRecord files against its own files
	$(BIN)/python -m benchmarks.records

bench-train: $(STAMP) ## training speed against mindcv and torch (EFFNET_PEERS_PYTHON: a Python that has torch)
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/finetune.py

# onnxruntime-gpu holds all of onnxruntime, under the same name.
GPU_STAMP := $(VENV)/.installed-gpu
$(GPU_STAMP): requirements-gpu.lock | $(STAMP)
	@echo "adding what NVIDIA GPUs need from requirements-gpu.lock (3.7 GB to fetch, 6 GB on the disk)"
	@$(BIN)/python -m pip uninstall --quiet --yes onnxruntime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-gpu.lock
	@touch $@

gpu: $(GPU_STAMP) ## add what NVIDIA GPUs need to .venv (docs/gpu.md)

# DRY=1 takes .venv as it is.
gpu-check: $(if $(DRY),$(STAMP),$(GPU_STAMP)) ## correctness, speed and profile of this machine's GPUs, in ten minutes (DRY=1: on a CPU; EFFNET_PEERS_PYTHON: a Python with torch)
	$(BIN)/python -m benchmarks.gpu $(if $(DRY),--dry-run) $(if $(ONLY),--only "$(ONLY)")

up: $(STAMP) ## the service: Prefect server, dashboard, worker, all deployments (effnet up)
	@$(BIN)/effnet up

down: $(STAMP) ## stop the service; its runs save and continue after the next make up
	@$(BIN)/effnet down

status: $(STAMP) ## whether the service is well, and what runs
	@$(BIN)/effnet status

dashboard: $(STAMP) ## the Prefect dashboard over the runs of the demo
	@$(BIN)/effnet dashboard

# At -O1, so that what is reported can be read.
CXX ?= c++
kernels-asan: ## the CPU kernels' own test under AddressSanitizer and UndefinedBehaviorSanitizer (needs a C++ compiler)
	@mkdir -p build
	$(CXX) -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -Wall -Wextra -Wno-psabi \
	    $(if $(filter x86_64,$(shell uname -m)),-mavx2 -mfma) -pthread \
	    effnet_core/kernels/source/*.cpp tests/kernels/main.cpp -o build/kernels-asan
	build/kernels-asan
	$(CXX) -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all \
	    $(if $(filter x86_64,$(shell uname -m)),-mavx2 -mfma) -pthread \
	    effnet_core/kernels/source/pixels/*.cpp tests/kernels/main.cpp -o build/pixels-asan
	build/pixels-asan

AARCH64 ?= aarch64-linux-gnu-g++
kernels-aarch64: ## the CPU kernels' own test for aarch64, emulated (Debian: g++-aarch64-linux-gnu, qemu-user)
	@mkdir -p build
	$(AARCH64) -std=c++17 -O3 -ffp-contract=fast -fno-math-errno -Wall -Wextra -Wno-psabi -pthread -static \
	    effnet_core/kernels/source/*.cpp tests/kernels/main.cpp -o build/kernels-aarch64
	qemu-aarch64 build/kernels-aarch64
	$(AARCH64) -std=c++17 -O3 -ffp-contract=fast -fno-math-errno -Wall -Wextra -Wno-psabi -pthread -static \
	    effnet_core/kernels/source/pixels/*.cpp tests/kernels/main.cpp -o build/pixels-aarch64
	qemu-aarch64 build/pixels-aarch64

docs: $(STAMP) ## renew docs/configuration.md and docs/models.md, with its pictures, from the code
	$(BIN)/effnet settings --markdown > docs/configuration.md
	$(BIN)/effnet models --markdown > docs/models.md
	$(BIN)/effnet models --chart docs/images/accuracy.png
	$(BIN)/effnet models --architecture efficientnet_b0 --chart docs/images/efficientnet_b0.png

docs-site: $(STAMP) ## the documentation as a site in build/site (Python 3.11 or newer)
	$(BIN)/python .ci/site.py build/pages
	$(BIN)/zensical build --config-file mkdocs.yml --strict

transcript: $(STAMP) ## renew docs/transcript.md: every command of the tutorial and its output (a quarter of an hour)
	$(BIN)/python .ci/transcript.py docs/transcript.md

lock: ## renew requirements.lock and requirements-gpu.lock from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-strip-extras \
	    --no-annotate --custom-compile-command "make lock" --extra dev pyproject.toml -o requirements.lock
	@mkdir -p build
	$(PYTHON) -c 'import tomllib, pathlib; \
	    print(*tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"], sep="\n")' \
	    > build/gpu.in
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-strip-extras \
	    --no-annotate --custom-compile-command "make lock" -c requirements.lock build/gpu.in -o requirements-gpu.lock

audit: $(STAMP) ## compare requirements.lock with a database of known vulnerabilities (OSV), where the network has one
	@$(BIN)/python .ci/audit.py

clean: ## remove caches and builds; keeps .venv, runs/ and .effnet/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Made with the standard tools, and again only when the lock changes. The lock names every package, so
# nothing has to be resolved (--no-deps), and every file is checked against its hash.
$(PACKAGES): requirements.lock
	@echo "making $(VENV) from requirements.lock (about two minutes, 3.5 GB)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else \
	    f"Python 3.10-3.12 is needed, this is {v[0]}.{v[1]}; run: make PYTHON=python3.11 ...")'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@touch $@

# Version, commands and extras of the project itself; seconds. setuptools warns of every editable installation.
$(STAMP): $(PACKAGES) pyproject.toml
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
