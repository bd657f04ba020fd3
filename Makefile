# Each target sets up what it needs in .venv. PYTHON chooses the interpreter (3.10 to 3.13).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help smoke test lint clean
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

smoke: .venv/runtime  ## the whole chain in a small embedded world, with a results table (minutes)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/miniworld/smoke.sh

test: .venv/dev  ## all tests
	$(BIN)/python -m pytest -q

lint: .venv/dev  ## ruff over everything
	$(BIN)/ruff check .

clean:  ## remove what smoke and test made; data/, models/ and .venv stay
	rm -rf .smoke .cache .pytest_cache .ruff_cache .hypothesis

.venv/runtime: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt .venv/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
