# `make help` lists the targets. Every target sets up what it needs when that is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
READY := $(VENV)/.ready
UV = $(shell command -v uv || echo $(BIN)/uv)

DATASET ?= demo
MANIFEST ?= manifests/$(DATASET).yaml
WORKDIR ?= artifacts
SECONDS ?= 300
ARGS ?=
# Where bench looks for real data and weights is up to REVEAL_DATA and REVEAL_WEIGHTS; without them it uses generated data.

.DEFAULT_GOAL := help
.PHONY: help setup demo extract train check test test-all bench bench-peers growth fuzz docs pin audit clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'
	@echo
	@echo "  make extract DATASET=sports        uses manifests/sports.yaml"
	@echo "  make train DATASET=demo ARGS='--set train.lr=0.002'"

$(READY): requirements/all.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than 3.10 (pass another: make setup PYTHON=python3.12)"; exit 2; }
	@echo "setting up $(VENV) (once; about 6 GB, most of it PyTorch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv > /dev/null || test -x $(BIN)/uv || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/all.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY) ## Make the virtual environment with everything in it
	@echo "ready: $(BIN)/reveal --help"

demo-data/shop.json: | $(READY)
	@$(BIN)/reveal demo-data --out demo-data

demo: $(READY) demo-data/shop.json ## Draw the demo shop, run the whole pipeline on it, show the metrics
	@$(BIN)/reveal run --manifest manifests/demo.yaml --workdir $(WORKDIR) $(ARGS)

extract: $(READY) ## Item features of DATASET: ingest, images, encode
	@$(BIN)/reveal extract --manifest $(MANIFEST) --workdir $(WORKDIR) $(ARGS)

train: $(READY) ## Train and evaluate on DATASET
	@$(BIN)/reveal train --manifest $(MANIFEST) --workdir $(WORKDIR) $(ARGS)

check: $(READY) ## Lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: $(READY) ## The fast tests (under two minutes on two cores)
	@$(BIN)/pytest -q -n auto --maxprocesses 8 --dist loadfile -m "not slow and not real_data and not weights" $(ARGS)

test-all: $(READY) ## Every test; those that need real data (REVEAL_DATA) or weights (REVEAL_WEIGHTS) skip without them
	@$(BIN)/pytest -q -n auto --maxprocesses 8 --dist loadfile -rs $(ARGS)

bench: $(READY) ## Each part beside its limit and its peers, as ratios; also written to bench.json
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-peers: $(READY) ## Install the peers of bench (RecBole, pandas, open_clip) in an environment of their own
	@test -x $(PEERS)/bin/python || $(BIN)/python -m venv --without-pip $(PEERS)
	@$(UV) pip install --quiet --python $(PEERS)/bin/python --require-hashes -r requirements/peers.txt

growth: $(READY) ## What every part costs as a shop grows, fitted and drawn: growth.json, growth.png
	@$(BIN)/python -m tests.benchmarks.growth $(ARGS)

fuzz: $(READY) ## Search for files and manifests that are not refused properly, SECONDS long (300)
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/fuzz.txt
	@$(BIN)/python -m tests.fuzz -max_total_time=$(SECONDS) $(ARGS)

docs: $(READY) ## Write the manifest's reference anew
	@$(BIN)/python -m pipeline.manifest_reference > docs/manifest.md.new && mv docs/manifest.md.new docs/manifest.md

pin: $(READY) ## Pin the newest versions that fit, with hashes
	@$(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes --upgrade --no-header \
	  --extra embedded --extra hf --extra dev pyproject.toml -o requirements/all.txt
	@$(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes --upgrade --no-header \
	  requirements/uv.in -o requirements/uv.txt
	@$(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes --upgrade --no-header \
	  requirements/fuzz.in -o requirements/fuzz.txt
	@$(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes --upgrade --no-header \
	  requirements/peers.in -o requirements/peers.txt

audit: $(READY) ## Look the pins up among known vulnerabilities (needs a network)
	@$(UV) tool run --quiet --from 'pip-audit>=2.9,<3' pip-audit --disable-pip --require-hashes --strict \
	  -r requirements/all.txt -r requirements/uv.txt $(ARGS)

clean: ## Remove what the targets made, except your artifacts and demo data
	rm -rf $(VENV) $(PEERS) dist bench.json growth.json growth.png .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
