PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup train test test-slow test-nightly lint format lock clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

train: setup
	$(BIN)/python -m experiments.train_cells

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered --cov-fail-under=90

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-nightly: setup
	$(BIN)/python -m pytest -m nightly

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One lock for every supported Python and platform; needs uv (pip install uv).
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --fork-strategy fewest --no-header -o requirements.lock

clean:
	rm -rf .venv .pytest_cache .ruff_cache .coverage *.egg-info
