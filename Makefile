# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# The oldest Slicer that is supported, of which there are packages for Linux and Windows.
OLDER := $(VENV)/slicer-5.11

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

$(OLDER)/ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target $(OLDER) \
		slicer-core==5.11.0.6
	@site=$$($(BIN)/python -c 'import vtkmodules, pathlib; print(pathlib.Path(vtkmodules.__file__).parents[1])') && \
		ln -sfn $$site/vtkmodules $$site/vtk.py $(OLDER)/ # it looks for VTK beside itself
	@touch $@

test: $(VENV)/ready lint $(if $(filter Darwin,$(shell uname)),,$(OLDER)/ready)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest Testing/acceptance -n 2 --dist loadfile --durations=10 # without --cov, for time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest Testing/integration -n 2 --dist loadfile \
		--no-loadscope-reorder --cov --cov-report= --durations=20 # the longest come first
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest Testing/unit Testing/scene Testing/widget -n 2 --dist loadfile \
		--cov --cov-append --cov-report=term:skip-covered --cov-fail-under=90 --durations=20
	test ! -e $(OLDER)/ready || OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(OLDER) $(BIN)/python -m pytest Testing/scene \
		-n 2 --dist loadfile --ignore Testing/scene/test_runs.py --ignore Testing/scene/test_registrar.py \
		--deselect Testing/scene/test_sample_data.py::test_the_command_that_makes_the_pictures_makes_them # which compute

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/ready
	for system in $$($(BIN)/python Testing/benchmarks/bench.py --list); do \
		$(BIN)/python Testing/benchmarks/bench.py --system $$system --output bench/$$system || exit 1; done
	$(BIN)/python Testing/benchmarks/breaths.py --output bench/breaths
	$(BIN)/python Testing/benchmarks/breathing.py --output bench/breathing
	$(BIN)/python Testing/benchmarks/document.py Resources/Benchmarks bench/*/figures.json
	$(BIN)/python Testing/benchmarks/known_affine.py
	$(BIN)/python Testing/benchmarks/large_ct.py

clean:
	rm -rf $(VENV) demo bench
