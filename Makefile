# The template's commands. They only call tools: read a recipe to run it by hand.

PYTHON ?= python3
DEMO ?= build/demo
OUT ?= ..
JOBS ?= 2
HAVE_UV := $(shell command -v uv 2>/dev/null)
UV := $(if $(HAVE_UV),$(HAVE_UV),build/uv/bin/uv)
PIP := -m pip install --quiet --disable-pip-version-check
# A Python without pip (Debian splits it off) gets one in a throw-away environment.
GET_UV = $(PYTHON) $(PIP) --target build/uv uv 2>/dev/null || { $(PYTHON) -m venv build/pip 2>/dev/null && \
	build/pip/bin/python $(PIP) --target build/uv uv; } || { \
	echo "error: this Python has neither pip nor venv: install them (python3-venv on Debian)" >&2; exit 1; }
TOOLS := build/tools
BIN := $(TOOLS)/bin
PROJECT := {{cookiecutter.project_slug}}
PROJECT_LOCK := $(PROJECT)/requirements.lock
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links

# Without compiled files every start would take seconds longer.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: demo test test-all new try check sync lock pictures bench bench-swap bench-batch bench-serving bench-soak bench-overload environment team clean help

demo: $(TOOLS)/.installed ## Make the default project in build/demo and show all of it (DETACH=1: check it and stop)
	@$(BIN)/python scripts/render.py $(DEMO)
	@$(MAKE) --no-print-directory -C $(DEMO)/bike-demand demo UV=$(CURDIR)/$(BIN)/uv

test: environment team ## Run all tests
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-all: export KILLS = 100
test-all: export API_EXAMPLES = 1000
test-all: test ## Run all tests with their long settings: 100 kills, 13,000 made-up requests (more than an hour)

new: $(TOOLS)/.installed ## Ask the questions and make a project beside this folder (OUT=folder: elsewhere)
	@find "{{cookiecutter.project_slug}}" \( -name __pycache__ -o -name '.*_cache' -o -name .hypothesis \) -prune -exec rm -rf {} +
	@$(BIN)/cookiecutter . --output-dir $(OUT)

try: $(TOOLS)/.installed ## Render again over build/demo, keeping its environment and data (ANSWERS="name=value ...")
	@$(BIN)/python scripts/render.py $(DEMO) $(ANSWERS)

check: $(TOOLS)/.installed ## Lint, formatting, types, and whether copier.yml is in step
	@$(BIN)/python scripts/sync_copier.py --check
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

sync: $(TOOLS)/.installed ## Write copier.yml anew from cookiecutter.json
	@$(BIN)/python scripts/sync_copier.py

lock: $(TOOLS)/.installed ## Write every lock anew: of the tools, of the generated project, of a team that trains models
	@$(COMPILE) --output-file requirements.lock pyproject.toml
	@rm -rf build/lock && $(BIN)/python scripts/render.py build/lock
	@$(MAKE) --no-print-directory -C build/lock/bike-demand lock UV=$(CURDIR)/$(BIN)/uv INSTALLED=
	@cp build/lock/bike-demand/requirements*.lock "$(PROJECT)/"
	@cd build/lock/bike-demand && $(CURDIR)/$(COMPILE) --all-extras --output-file $(CURDIR)/tests/team.lock \
		pyproject.toml $(CURDIR)/tests/team.in

pictures: $(TOOLS)/.installed ## Take the pictures of README and docs from the demo project
	@$(BIN)/python scripts/pictures.py

bench: $(TOOLS)/.installed ## Measure what a new user waits for, and write benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/foundation.py

bench-batch: team ## Measure batches: pandas, ONNX Runtime, one and two workers, Spark; write benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/batch.py

bench-serving: environment ## Measure the service beside MLflow, BentoML, FastAPI and others, and write benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/serving.py

bench-overload: environment ## Ask the service for three times what it can do, and write benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/overload.py

bench-soak: environment ## Send mixed traffic for an hour: is memory flat, is nothing lost; write benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/soak.py

bench-swap: $(TOOLS)/.installed ## Measure 100 swaps of models at 500 requests a second, and write benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/swap.py

environment: $(TOOLS)/.installed ## Make build/env, the one environment in which tests run rendered projects
	@cmp -s "$(PROJECT_LOCK)" build/env/requirements.lock || { \
		echo "Installing the generated project's libraries into build/env"; \
		test -x build/env/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python build/env; \
		$(BIN)/uv pip sync --quiet --compile-bytecode --python build/env/bin/python --require-hashes "$(PROJECT_LOCK)" && \
		cp "$(PROJECT_LOCK)" build/env/requirements.lock; }

team: $(TOOLS)/.installed ## Make build/team, where tests train models as teams do and run foreign servers (MLflow, S3)
	@cmp -s tests/team.lock build/team/requirements.lock || { \
		echo "Installing the libraries of a training team into build/team"; \
		test -x build/team/bin/python || $(BIN)/uv venv --quiet --seed --python $(BIN)/python build/team; \
		$(BIN)/uv pip install --quiet --compile-bytecode --python build/team/bin/python --require-hashes -r tests/team.lock && \
		cp tests/team.lock build/team/requirements.lock; }

clean: ## Remove everything that these commands made
	@rm -rf build

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(TOOLS)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: Python 3.11 or newer is needed: name one, for example make demo PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing the template's tools into $(TOOLS)"
	@test -x "$(UV)" || { $(GET_UV); }
	@test -x $(BIN)/python || "$(UV)" venv --quiet --python $(PYTHON) $(TOOLS)
	@"$(UV)" pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@touch $@
