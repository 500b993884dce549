# Needs Python 3.11 or newer with pip, and make. PYTHON=/path/to/python chooses the interpreter.
VENV := .venv
BIN := $(VENV)/bin
export PYTHON PYTEST_ARGS

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint types bench fuzz clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  make %-7s%s\n' "$$name" "$$text"; done

demo: $(VENV)/.installed-cli ## a registry, four backends, a client: weights, a download; one is killed, one joins, one drains, the registry dies
	@$(BIN)/lbkit demo

test: $(VENV)/.installed-test ## lint, types, import contracts, tests; PYTEST_ARGS='-k name' narrows the last
	@scripts/test

soak: $(VENV)/.installed-test ## long runs: faults and leaks
	@$(BIN)/python -m pytest -m soak --timeout=900 -s tests/faults tests/interop

lint: $(VENV)/.installed-test ## ruff and the import contracts
	@scripts/check ruff format imports

types: $(VENV)/.installed-test ## mypy and pyright
	@scripts/check mypy pyright

bench: $(VENV)/.installed-bench ## lbkit beside its peers
	@$(BIN)/python -m tests.bench

fuzz: $(VENV)/.installed-fuzz ## a minute of coverage-guided fuzzing for each target; FUZZ_SECONDS=3600 for longer
	@for target in engine frames hpack wire compressed; do $(BIN)/python -m tests.fuzz $$target --seconds $${FUZZ_SECONDS:-60} || exit 1; done

clean: ## remove .venv, caches and build output
	rm -rf $(VENV) build dist htmlcov .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of extras: installed again only when pyproject.toml is newer. The larger sets include [cli].
$(VENV)/.installed-cli: pyproject.toml
	@scripts/install cli
	@touch $@

$(VENV)/.installed-test: pyproject.toml
	@scripts/install all,test
	@touch $@ $(VENV)/.installed-cli

$(VENV)/.installed-fuzz: pyproject.toml
	@scripts/install all,test,fuzz
	@touch $@ $(VENV)/.installed-cli $(VENV)/.installed-test

$(VENV)/.installed-bench: pyproject.toml
	@scripts/install all,bench
	@touch $@ $(VENV)/.installed-cli
