# Everything from a fresh clone, with python3 and make:
#   make demo    set up, index a folder of real photos, search it (PHOTOS=DIR for your own)
#   make test    set up, run all tests
#   make check   format, lint, types, sizes, layers, documentation
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
PHOTOS ?=

.PHONY: demo test test-slow check docs bench clean

$(VENV)/pip-ready:
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The demo needs the core alone and no torch; tests need the rest. Two stamps, one environment.
$(VENV)/demo-ready: $(VENV)/pip-ready pyproject.toml constraints.txt
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/test-ready: $(VENV)/pip-ready pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e '.[torch,export,hf,demo,lance,heic,raw,watch,serve,video,dev]'
	@touch $@

demo: $(VENV)/demo-ready
	$(BIN)/python tools/demo.py $(if $(PHOTOS),--photos "$(PHOTOS)")

# Clients of the server live apart: what they bring along must not hide what we lack.
$(VENV)-clients/ready: constraints-clients.txt
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/python -m pip install -q --disable-pip-version-check -r constraints-clients.txt
	@touch $@

test: $(VENV)/test-ready $(VENV)-clients/ready
	BINDERCLIP_CLIENTS_PYTHON=$(CURDIR)/$(VENV)-clients/bin/python $(BIN)/python -m pytest

test-slow: $(VENV)/test-ready $(VENV)-clients/ready
	BINDERCLIP_CLIENTS_PYTHON=$(CURDIR)/$(VENV)-clients/bin/python $(BIN)/python -m pytest -m slow

check: $(VENV)/test-ready
	$(BIN)/python tools/check.py

docs: $(VENV)/test-ready
	$(PIP) -e '.[docs]'
	$(BIN)/python tools/build_docs.py

bench: $(VENV)/test-ready
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(VENV)-clients build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis demo
