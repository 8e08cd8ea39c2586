# Everything a person does here, in one word each. `make` alone lists them.

PYTHON ?= python3
ENGINE ?= auto
ARGS ?=

INSTALL = @$(PYTHON) requirements/install.py --engine $(ENGINE)
# Pages are tested in a real browser. Root on Debian gets it; anybody else is told what is missing.
BROWSER = @command -v chromium > /dev/null || command -v google-chrome > /dev/null || { \
	echo "Installing Chromium, in which the pages are tested"; test "$$(id -u)" = 0 && apt-get update -qq \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-liberation > .venv/chromium.log; } \
	|| { echo "make test needs Chromium: apt-get install chromium"; exit 2; }
SOURCES = feedback monitoring serving retrain deploy
RUN = .venv/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help up demo test loop check bench docs lock clean

help: ## List these targets.
	@echo "make TARGET [ARGS='...'] [PYTHON=python3.12] [ENGINE=auto|cpu|cuda]"
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-7s %s\n", $$1, $$2}'

up: ## Install what changed, then run the whole service here: database, engine, gateway, worker.
	$(INSTALL) hone engine
	@exec .venv/bin/hone up $(ARGS)

demo: ## Watch the loop close against the running service: people rate, a new adapter ships, and is rolled back.
	$(INSTALL) hone engine
	@exec .venv/bin/hone demo $(ARGS)

test: ## Install what tests need and run them all: real PostgreSQL, real vLLM, real training, a real browser.
	$(INSTALL) dev engine
	$(BROWSER)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) pytest $(ARGS)

loop: ## Run only the acceptance test: ask, rate, train, prove, ship, roll back.
	$(INSTALL) dev engine
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) pytest tests/loop $(ARGS)

check: ## Check lint, format, types, import direction, pages and help pages.
	$(INSTALL) dev
	@echo "check: lint";             $(RUN) ruff check --quiet .
	@echo "check: format";           $(RUN) ruff format --quiet --check .
	@echo "check: types";            $(RUN) mypy --no-error-summary
	@echo "check: import direction"; .venv/bin/lint-imports > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@echo "check: pages";            NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --quiet
	@echo "check: house";            $(RUN) pytest tests/house -q
	@echo "check: all good"

bench: ## Measure the gateway against a mock engine, nginx and vllm-router, one core each.
	$(INSTALL) dev bench
	@for tool in nginx gcc taskset; do command -v $$tool > /dev/null || { echo "make bench needs $$tool: apt-get install nginx gcc util-linux"; exit 2; }; done
	@$(RUN) tests.bench.gateway --vllm-router .venv-bench/bin/vllm-router $(ARGS)

docs: ## Write the generated reference pages again, and build/site from all pages.
	$(INSTALL) dev
	@$(RUN) docs.generate
	@NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --quiet

lock: ## Write the lock files from pyproject.toml (ARGS=--upgrade takes newer versions).
	@test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv; }
	@$(PYTHON) requirements/lock.py --uv .venv-lock/bin/uv $(ARGS)

clean: ## Remove caches and the environments. Keeps .hone, where the record and the adapters are.
	@rm -rf .venv .venv-engine .venv-bench .venv-lock .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -not -path './.hone/*' -prune -exec rm -rf {} +
