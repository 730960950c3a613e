# make demo   set everything up in .venv and run the whole chain on handwritten digits
# make test   set everything up in .venv and run every check and test
# make clean  remove what the other two made

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed
	rm -rf cnncodes-demo
	$(BIN)/cnncodes demo cnncodes-demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv cnncodes-demo

# The stamp is written last, so that an installation that failed is tried again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@# The start script that an older pip writes imports more, and shows a traceback on Ctrl-C then.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[export,report,estimators,heic,parquet,dev]'
	touch $@
