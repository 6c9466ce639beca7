# Every target sets up what it needs on a bare machine with Python ≥ 3.11 and pip.
PYTHON ?= python3
BIN := .venv/bin
# Name an index with CPU builds here where the default one serves CUDA builds: make install TORCH_INDEX_URL=…
TORCH_INDEX_URL ?=
HOST ?= 127.0.0.1
PORT ?= 8000
DATA_DIR ?= data

# Small networks train ten times slower when two threads wait for each other on a busy machine.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo serve test check check-types check-rules format docs migration faults fuzz fuzz-graphs contract attack claims mutants bench-real-size

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed ## Make .venv with everything pinned (CPU build of torch)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) \
		--editable '.[api,worker,dev]'
	touch $@

demo: install ## Run the main job through the whole service and write build/demo/
	$(BIN)/modelpress demo

serve: install ## Serve on HOST:PORT with state in DATA_DIR
	$(BIN)/modelpress serve --host $(HOST) --port $(PORT) --data-dir $(DATA_DIR)

test: install ## Run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install ## Lint, types, import rules, dependencies, migrations, fresh documents
	$(MAKE) --no-print-directory --jobs 2 --output-sync check-types check-rules

check-types:
	$(BIN)/mypy

check-rules:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/python -m core.database.migrate check
	$(BIN)/python docs/generate_openapi.py --check
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/generate_errors.py --check
	$(BIN)/python docs/generate_client.py --check

format: install ## Format the code
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

docs: install ## Write docs/methods.md, docs/errors.md, docs/openapi.json and the synchronous client anew
	$(BIN)/python docs/generate_client.py
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/generate_errors.py
	$(BIN)/python docs/generate_openapi.py

faults: install ## Run the whole fault matrix with seeded random kills (minutes)
	$(BIN)/python -m tests.faults

fuzz-graphs: install ## Draw 500 small networks and compare all that the engine makes of them (minutes)
	FUZZ_GRAPHS=$${FUZZ_GRAPHS:-500} $(BIN)/python -m pytest -q tests/engine/drawn

fuzz: install ## Change files of every format and see that each is read or refused (a minute)
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-400} $(BIN)/python -m pytest -q tests/engine/files/test_fuzz.py

contract: install ## Draw requests from the OpenAPI document with three seeds, CONTRACT_EXAMPLES (30) of each operation, and make every check (minutes)
	CONTRACT_EXAMPLES=$${CONTRACT_EXAMPLES:-30} $(BIN)/python -m pytest -q --timeout 900 tests/api/test_schema.py

attack: install ## Attack a running service: slow, silent, endless and greedy clients (minutes)
	$(BIN)/python -m tests.attack

claims: install ## Reproduce the papers' claims on small data (minutes)
	$(BIN)/python -m benchmarks.claims --quick --json build/claims.json --table docs/claims.md

mutants: install ## Change the code in small ways and see whether the tests notice; MUTANTS='--seed 2 --count 40' draws others (an hour)
	$(BIN)/python -m tests.mutants $(MUTANTS)

bench-real-size: install ## Quantize, prune and run whole jobs on a ResNet-50 and a ViT-B/16, beside plain scripts (minutes)
	$(BIN)/python -m benchmarks.peers.real_size --json build/real_size.json
