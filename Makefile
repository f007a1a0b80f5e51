# Everything works on a machine with Python 3.11 to 3.13 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml constraints.txt

.PHONY: demo test test-slow test-all lint format format-check types check docs clean help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: $(VENV)/.core ## install, train the Ant until it walks, print its return and where run and video lie
	$(BIN)/epvf train ant
	-$(BIN)/epvf play latest --seconds 8 # without OpenGL or a codec there is no video, and it says why

# Tests of a module stay together, as far as both processes have work: what they share, such as what
# was compiled, is made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(VENV)/.dev ## the tests that take no more than a few seconds each
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev ## all others
	$(PYTEST) -m slow

test-all: $(VENV)/.dev ## both, which takes less time than one after the other
	$(PYTEST)

lint: $(VENV)/.dev ## complaints about the code
	$(BIN)/ruff check .

format: $(VENV)/.dev ## format the code, mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .

format-check: $(VENV)/.dev ## whether the code is formatted
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## check the types
	$(BIN)/mypy

check: test-all lint format-check types ## all that has to pass

docs: $(VENV)/.docs ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove the virtual environment and what tools left
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Stamps: nothing is installed again until the requirements change.
$(VENV)/.core: $(SOURCES) | $(VENV)/.made
	$(PIP_INSTALL) --editable ".[mjx,video]"
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(VENV)/.made
	$(PIP_INSTALL) --editable ".[dev,mjx,baselines]"
	@touch $@ $(VENV)/.core

$(VENV)/.docs: $(SOURCES) | $(VENV)/.made
	$(PIP_INSTALL) --editable ".[docs]"
	@touch $@ $(VENV)/.core

$(VENV)/.made:
	@command -v $(PYTHON) > /dev/null || { \
		echo "$(PYTHON) is not there; epvf needs Python 3.11 to 3.13: make PYTHON=python3.12 ..." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V); epvf needs Python 3.11 to 3.13: make PYTHON=python3.12 ..." >&2; \
		exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		rm -rf $(VENV); \
		echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; }
	@touch $@
