# Each target sets up what it needs in .venv. PYTHON chooses the interpreter (3.10 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
STUDENT ?= 4l
RESULTS ?= results/$(STUDENT)_*

.PHONY: help smoke ablations teachers submission test lint mutation clean
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

smoke: .venv/runtime  ## the whole chain in a small embedded world (three to eight minutes); TASKS="squad1 squad2" names other tasks
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/miniworld/smoke.sh

ablations: .venv/runtime  ## the paper's ablations in the embedded world, with the report (some twenty minutes)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/miniworld/ablations.sh

teachers: .venv/runtime  ## the chain with an ELECTRA, a NEZHA and an ALBERT as teachers (four to eight minutes)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/miniworld/teachers.sh

submission: .venv/runtime  ## zip what the student STUDENT says about the test sets (in RESULTS) for the GLUE server
	$(BIN)/python -m transformer.tasks.submission --results $(RESULTS) --output submission_$(STUDENT).zip $(FLAGS)

# A process for each core, up to eight of a gigabyte each. A file stays in one, in its order, as when it is run alone;
# files are taken in their order, so that what the first of two needs of .cache is there for the second.
test: .venv/dev  ## all tests, in a process for each core
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: .venv/dev  ## ruff over everything
	$(BIN)/ruff check .

mutation: .venv/dev  ## change the code in 8,200 ways, one at a time, and count what the tests notice (hours)
	rm -rf mutants
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/python tests/mutation_table.py

clean:  ## remove what smoke, ablations, teachers, test and mutation made; data/, models/, results/ and .venv stay
	rm -rf .smoke .ablations .teachers .cache .pytest_cache .ruff_cache .hypothesis mutants

# Errors alone are shown; with --log pip would show its warnings, too. wikiextractor has no wheel, and the old way of
# building it is being given up: --use-pep517 takes the new one. Of 17,000 modules few are ever imported: Python compiles
# these when they are, pip would compile all, which takes half a minute.
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --use-pep517 --no-compile
FAILED = { echo "installing failed; to see all that pip says: $(BIN)/python -m pip install -r $<" >&2; exit 1; }

.venv/runtime: requirements.txt
	@echo "installing PyTorch and what else is in $< into .venv: a large download, silent for a minute or more ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) -r $< || $(FAILED)
	@touch $@

.venv/dev: requirements-dev.txt .venv/runtime
	@echo "installing what the tests need, $<, into .venv: up to a minute ..."
	@$(PIP) -r $< || $(FAILED)
	@touch $@
