# make picture    a picture from the built-in model (PROMPT="...")
# make test       every test
# make check      everything that is not a test: formatting, lint, types, layers, generated pages

PYTHON ?= python3
PROMPT ?= a red circle on a blue background
OUTPUT ?= picture.png
BIN := .venv/bin
# Tests share the machine with others, so threads sleep while they wait instead of spinning.
export OMP_WAIT_POLICY ?= PASSIVE
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: picture install test check format clean

picture: .venv/.engine
	$(BIN)/sd-cli --prompt "$(PROMPT)" --output "$(OUTPUT)"

install: .venv/.engine

test: .venv/.test .venv/.chromium
	$(BIN)/python -m pytest -q

check: .venv/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m darkroom.cli.reference | diff docs/cli.md -
	$(BIN)/python -m darkroom.server.options_reference | diff docs/server_options.md -
	$(BIN)/python -m darkroom.server.reference | diff docs/api.md -

format: .venv/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv

.venv/.python:
	PYTHON="$(PYTHON)" scripts/make-venv .venv
	touch $@

.venv/.engine: pyproject.toml constraints.txt | .venv/.python
	$(PIP) --editable .
	touch $@

.venv/.test: .venv/.engine
	$(PIP) --group test
	touch $@

.venv/.chromium: scripts/get-chromium | .venv/.python
	scripts/get-chromium
	touch $@

.venv/.check: .venv/.test
	$(PIP) --group check
	touch $@
