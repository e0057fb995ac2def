# Each target does all its own set-up, so `make demo` and `make test` work on a fresh clone on a fresh machine.
# What is needed before: Python 3.11 or newer with venv, and a way to install packages.

PYTHON ?= python3
# How hard `make crash` tries: SIGKILLs, simulated power cuts, real ones of each file system, failing system calls (0: all)
# of each program, which bits and bytes of a journal are damaged (every nth), how many seconds of hostile journals, how
# many interrupts, and how much is left on a disk that fills up (7: all sizes).
KILLS ?= 200
CRASHES ?= 2500
CUTS ?= 25
CALLS ?= 6
EVERY ?= 499
FUZZ ?= 30
INTERRUPTS ?= 2000
BUDGETS ?= 2
# Which modules `make mutants` breaks, such as journal.recovery; none named: all that promise.
MUTANTS ?=
# Handed on to pytest, as in `make test ARGS="-k torn"`.
ARGS ?=

BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint check bench bench-check golden crash mutants clean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: .venv/installed ## Train three agents on real bars, kill them, resume, and prove that nothing was lost
	@$(BIN)/journal demo

test: .venv/installed ## All tests
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/installed-dev ## Format, lint, strict types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy --strict

check: lint test ## What to run before each push: lint and all tests

bench: .venv/installed-bench ## All benchmarks, some five minutes; or some of them: make bench ARGS="one-event batches"
	@$(BIN)/python -m benchmarks --save $(ARGS)

bench-check: .venv/installed ## Are the goals met by the newest results? Tells each, and fails where one is missed
	@$(BIN)/python -m benchmarks.goals $(ARGS)

golden: .venv/installed ## Make tests/golden/ anew: only after a deliberate change of the format
	$(BIN)/python tests/golden/make.py

crash: .venv/installed ## Kills, power cuts, failing calls, damage; longer by KILLS=10000 CRASHES=100000 CUTS=1000 CALLS=0 EVERY=1 INTERRUPTS=100000
	JOURNAL_KILLS=$(KILLS) JOURNAL_CRASHES=$(CRASHES) JOURNAL_CUTS=$(CUTS) JOURNAL_CALLS=$(CALLS) \
	  JOURNAL_EVERY=$(EVERY) JOURNAL_FUZZ_SECONDS=$(FUZZ) JOURNAL_INTERRUPTS=$(INTERRUPTS) JOURNAL_BUDGETS=$(BUDGETS) \
	  $(BIN)/python -m pytest tests/crash $(ARGS)

mutants: .venv/installed-mutants ## Break what promises, one thing at a time: which test goes red? Hours; MUTANTS=journal.recovery: minutes
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

clean: ## Remove everything that was made here, .venv included
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmark-* .journal-bench-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are touched last, so an interrupted set-up is done again.
.venv/installed: .venv/made pyproject.toml
	@echo "Installing what is needed into .venv (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test]'
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing ruff and mypy into .venv (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test,dev]'
	@touch $@

.venv/installed-mutants: .venv/installed
	@echo "Installing cosmic-ray into .venv (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test,mutants]'
	@touch $@

# A peer that cannot be installed here does not keep the others out; the suite skips it, and says so.
.venv/installed-bench: .venv/installed
	@echo "Installing the benchmarks' peers into .venv (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test,bench]' || \
	  $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"], sep="\n")' | \
	  while read -r peer; do $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$peer" || true; done
	@touch $@

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11: install a newer one and name it, as in: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@touch $@
