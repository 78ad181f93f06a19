# Every target installs what it needs into .venv by itself: Python >= 3.11, make and gcc are enough. Python compiles what
# it imports, so that pip need not compile everything: that takes a third of an installation.
PYTHON ?= python3
BIN := .venv/bin
# Tests run in as many processes as there are hardware threads: `auto` would leave the second of a core idle.
JOBS ?= logical
# Without files of bytecode every process would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install frameworks demo test lint docs bench clean
install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("fluctua needs Python >= 3.11, this is %s: set PYTHON=..." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-compile -c constraints.txt -e ".[train,dev]"
	touch $@

# snnTorch, Norse and the others, for the tests of their adapters; torch stays the one that is pinned.
frameworks: .venv/.frameworks

.venv/.frameworks: .venv/.installed requirements-frameworks.txt
	$(BIN)/pip install -q --no-compile --no-deps -r requirements-frameworks.txt
	touch $@

demo: install
	$(BIN)/fluctua demo

test: frameworks lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --durations=20

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into build/site: a strict build, and every link of it checked.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python docs/scripts/links.py build/site

.venv/.docs: .venv/.installed
	$(BIN)/pip install -q --no-compile -c constraints.txt -e ".[train,docs]"
	touch $@

# LIBRARIES: interpreters of environments with other libraries; `make frameworks` brings most of them into .venv.
bench: install
	$(BIN)/python benchmarks/bench.py --python $(LIBRARIES)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/growth.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kernels.py

clean:
	rm -rf .venv runs build dist
