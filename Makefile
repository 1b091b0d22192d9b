# Two commands do everything on a fresh machine with Python >= 3.11 and make:
#   make demo   install, start, show 401, get a token, show 200; leaves it running
#   make test   install what the tests need and run all of them
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo down install check test tools newcomer bench golden clean

demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo

down: $(VENV)/.installed
	@$(BIN)/apirule down

install: $(VENV)/.installed

check: $(VENV)/.installed-for-tests
	@scripts/check $(BIN)

test: tools check
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test

# What the tests need and pip cannot install; said before the minutes that all else takes.
tools:
	@scripts/test --tools

# The README from a clean clone without any cache; needs the package index.
newcomer: $(VENV)/.installed-for-tests
	@$(BIN)/pytest -m newcomer tests/newcomer

golden: $(VENV)/.installed-for-tests
	$(BIN)/pytest tests/golden --update-golden

bench: $(VENV)/.installed-for-tests
	@for what in commands start survival enforced scale; do \
	  echo "== $$what"; PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python bench/$$what.py || exit; done

clean:
	rm -rf $(VENV) .cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "apirule needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@# As pip does for what is not editable: else the first start of everything compiles it.
	$(BIN)/python -m compileall -q src
	@touch $@

$(VENV)/.installed-for-tests: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]' --group test
	@touch $@
