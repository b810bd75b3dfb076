# Every target makes the environment it needs; it is made again only when the lock file or the project changes.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
UV     := 0.13.9
# What the demo is given; Ctrl-C ends it sooner.
DEMO   ?= --seconds 10
# Processes that share the tests: 0 runs them in this one, for a debugger.
JOBS   ?= 2

ATHERIS := 3.0.0
# What docs/clients/node.md is about.
NODE_CLIENT := @firetiger-oss/flight-sql-client@1.1.1
# Inputs that `make fuzz` tries.
RUNS   ?= 1000000
# How long `make torture` goes on, and its plan of faults.
SECONDS ?= 60
SEED    ?= 1

.PHONY: help demo test lint format bench bench-setup torture fuzz proto lock record clean

help:
	@echo "make demo    run the main job: one DuckDB, two writers, one reader"
	@echo "make test    run the tests"
	@echo "make lint    ruff, mypy and the import contract"
	@echo "make bench   measure, print the table, keep what was found; make bench-setup gets the peers first"
	@echo "make torture kill the server and hurt the clients for a minute; count what is lost"
	@echo "make fuzz    try a million inputs on whatever reads a client's bytes (Linux)"
	@echo "make record  record the terminal demo again"
	@echo "make proto   compile Flight SQL's messages again"
	@echo "make lock    choose the versions again and write requirements.lock"

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV)"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.ready
	@$(BIN)/ducktower demo $(DEMO)

# Where there is a Node.js; without it, or without a registry, the page's test is skipped.
$(VENV)/node/.ready: $(VENV)/.ready
	@mkdir -p $(@D)
	@if command -v npm >/dev/null; then npm install --silent --ignore-scripts --no-audit --no-fund --no-package-lock \
		--prefix $(@D) "$(NODE_CLIENT)" || echo "without Node.js' client"; fi
	@touch $@

test: $(VENV)/.ready $(VENV)/node/.ready
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(TEST)

lint: $(VENV)/.ready
	@$(BIN)/python scripts/flight_sql_messages.py --check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.ready
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.ready
	@$(BIN)/python -m benchmarks $(BENCH)

# The peers' environments from the registry, and PostgreSQL where Debian's packages can be installed.
bench-setup: $(VENV)/.ready
	@if command -v apt-get >/dev/null && ! test -d /usr/lib/postgresql; then \
		$$(test "$$(id -u)" = 0 || echo sudo) apt-get install --yes --quiet postgresql; fi
	@$(BIN)/python -m benchmarks.peers.environments

torture: $(VENV)/.ready
	@$(BIN)/python -m torture --seconds $(SECONDS) --seed $(SEED) $(TORTURE)

fuzz: $(VENV)/.ready
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps "atheris==$(ATHERIS)"
	@FUZZ_RUNS=$(RUNS) $(BIN)/python scripts/fuzz.py .fuzz/corpus

proto: $(VENV)/.ready
	@$(BIN)/python scripts/flight_sql_messages.py

record: $(VENV)/.ready
	@VENV=$(VENV) docs/recording/record

lock:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV)"
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
		--all-extras --group dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
