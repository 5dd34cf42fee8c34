# Needs python3.11 (or newer), make and git. Everything else is installed into .venv by `make setup`, which every
# target runs by itself and which does nothing where nothing changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CAIRN_DEPLOY ?= ./deploy
PYTEST := $(BIN)/pytest -p no:cacheprovider

.DEFAULT_GOAL := help
.PHONY: help setup demo up down stand-ins test integration cluster system crash-matrix soak check format simulate bench bench-peers constraints clean

help: ## Show what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install everything into .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Cairn needs Python 3.11 or newer; give one: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: setup ## The whole of it in a minute: a bug, agents, crashes, a pull request
	$(BIN)/cairn demo

up: setup ## Build and start Cairn in containers, as docker-compose.yml says (`cairn up` needs none)
	@$(BIN)/cairn deploy init --folder $(CAIRN_DEPLOY)
	$(if $(CAIRN_IMAGE),,docker compose build)
	docker compose up --detach --wait
	@echo "Cairn is ready: export CAIRN_URL=http://$$(docker compose port gateway 8420) CAIRN_KEY=\$$(cat $(CAIRN_DEPLOY)/secrets/api-key)"

down: ## Stop what `make up` started; its volumes stay
	docker compose down

stand-ins: setup ## Images in the place of those that cannot be pulled, and Cairn's own
	$(BIN)/python -m tests.deployment.images

test: setup ## The quick tests
	$(PYTEST) -n 2 --dist worksteal -m "not integration and not system" tests

integration: setup ## Tests with real servers and processes
	$(PYTEST) -n 2 --dist worksteal -m "integration and not system" tests

cluster: setup ## Every contract of the plumbing, and work, over three NATS servers of which any may be killed
	$(PYTEST) -n 2 --dist worksteal tests/contract tests/integration/test_cluster.py -k cluster

system: setup ## The whole product from outside
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m system tests

soak: setup ## Tasks on real processes while something is killed every few seconds (MINUTES=2 SEED=s)
	$(BIN)/python -m tests.crash.soak

crash-matrix: setup ## Kill every service at every point of the log (SAMPLE=n SEED=s VICTIMS=a,b GENTLY=1 WORKERS=n)
	$(BIN)/python -m tests.crash

check: setup ## Style, types, imports, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(PYTEST) tests/test_tidy.py
	$(BIN)/python -m docs.generate_events --check

format: setup ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

simulate: setup ## All services in virtual time, with faults by seed (SEEDS=1000, or SEED=7 for one with its trace)
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000))

bench: setup ## Measure, against raw JetStream in the same run
	$(BIN)/python -m tests.bench

bench-peers: setup ## The same loop in DBOS and LangGraph, beside ours
	$(BIN)/python -m tests.bench.peers

constraints: setup ## Write the versions that are installed into constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable --disable-pip-version-check > constraints.txt

clean: ## Remove what was installed and generated (never a .cairn)
	rm -rf $(VENV) .venv-peers build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
