# Every target sets up what it needs: on a machine with only Python >= 3.11, `make demo` and `make test` just work.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SEED ?= 0
PORT ?= 8000

.PHONY: help demo demo-real test test-slow check format docs docs-serve clean

help:
	@echo "make demo       align the embedded model and show it before and after (about a minute)"
	@echo "make demo-real  the same with SmolLM2, which it downloads (93 MB); SEED=1 for another seed (about 5 minutes)"
	@echo "make test       the quick tests"
	@echo "make test-slow  the others: what learns, kills processes, starts Ray or runs the examples"
	@echo "make check      lint, formatting, types, layers, public names, spelling"
	@echo "make format     let ruff rewrite what it can"
	@echo "make docs       build the site into build/site; make docs-serve shows it on 127.0.0.1 (PORT=8000)"
	@echo "make clean      remove the virtual environment and caches"

# constraints.txt pins the tested set; without it an open range of torch pulls gigabytes of GPU packages.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed, $$($(PYTHON) --version) found: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/textrl demo

demo-real: $(STAMP)
	$(BIN)/textrl models get smollm2
	$(BIN)/textrl demo --model smollm2 --seed $(SEED)

# The three selections are the whole suite: what starts Ray is slow too (tests/conftest.py).
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# Ray brings processes of its own: all tests that start it run in one, and share one cluster.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not ray"
	$(BIN)/python -m pytest -m ray

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell *.md docs examples agents textrl_env
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_public_names.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A warning, such as a link to nothing, is an error. Nothing is fetched.
docs: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs build/site
	@echo "build/site/index.html"

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site $(PORT)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist docs/generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
