# make run    everything on this machine, on http://127.0.0.1:8000 (PORT=8080 make run: another port)
# make test   the whole test suite, in parallel, against a database of its own
# Both need Python 3.11 or later and make, nothing else; both make .venv when it is missing or out of date.

PORT ?= 8000
# Test processes in parallel.
JOBS ?= auto
# The first of these that starts and is new enough; PYTHON=/path/to/python names another.
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	command -v $$candidate >/dev/null 2>&1 && \
	$$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && \
	echo $$candidate && break; done)

BIN := .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --require-hashes --only-binary :all:
LOCK = uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	--python-version 3.11 --fork-strategy fewest --no-annotate --quiet --custom-compile-command 'make lock'

.PHONY: run test check lint format types layers migrations lock clean help

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

run: .venv/.runtime
	@exec $(BIN)/python manage.py up --port $(PORT)

test: .venv/.development
	$(BIN)/python -m pytest -n $(JOBS)

check: lint types layers migrations

lint: .venv/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.development
	$(BIN)/mypy portal apps tests manage.py

layers: .venv/.development
	$(BIN)/lint-imports

migrations: .venv/.development
	$(BIN)/python manage.py makemigrations --check --dry-run

# Anew from pyproject.toml, with the newest versions that fit when UPGRADE=--upgrade; needs uv.
lock:
	$(LOCK) $(UPGRADE) --output-file requirements.txt
	$(LOCK) $(UPGRADE) --extra google --extra azure --constraint requirements.txt --output-file requirements-secrets.txt
	$(LOCK) $(UPGRADE) --group dev --constraint requirements.txt --output-file requirements-dev.txt

clean:
	rm -rf .venv staticfiles .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv/.python:
ifeq ($(strip $(PYTHON)),)
	@echo "Python 3.11 or later was not found. Install it, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2
else
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "Making .venv with $(PYTHON)"; rm -rf .venv; $(PYTHON) -m venv .venv; }
	@touch $@
endif

# requirements-dev.txt holds the same versions and more, so either of them satisfies `make run`.
.venv/.runtime: .venv/.python requirements.txt
	@echo "Installing what requirements.txt lists"
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

.venv/.development: .venv/.python requirements-dev.txt requirements.txt
	@echo "Installing what requirements-dev.txt lists"
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@ .venv/.runtime
