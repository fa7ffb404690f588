# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.PHONY: demo test lint bench clean

$(VENV)/ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	@Testing/system-packages.sh $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,train]'
	@touch $@

demo: $(VENV)/ready
	$(BIN)/jointregseg demo --output demo

test: $(VENV)/ready lint
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/ready
	$(BIN)/python Testing/benchmarks/bench.py --system hippocampus --output bench/hippocampus
	$(BIN)/python Testing/benchmarks/document.py Resources/Benchmarks bench/*/figures.json
	$(BIN)/python Testing/benchmarks/known_affine.py
	$(BIN)/python Testing/benchmarks/large_ct.py

clean:
	rm -rf $(VENV) demo bench
