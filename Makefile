# make demo   install what the demo needs in .venv, and run the whole chain on handwritten digits
# make test   install what the tests need too, and run every check and test
# make clean  remove what the other two made

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint clean

demo: .venv/installed
	@# One that was interrupted goes on.
	test -e cnncodes-demo/.unfinished || rm -rf cnncodes-demo
	$(BIN)/cnncodes demo cnncodes-demo

test: lint
	@# Two processes, each with files of its own; more take a gigabyte each.
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/complete
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv cnncodes-demo

# The stamps are written last, so that an installation that failed is tried again.
.venv/installed: pyproject.toml constraints.txt
	@echo "Installing in .venv: 125 MB of packages, 0.5 GB when unpacked; a minute or two."
	$(PYTHON) -m venv .venv
	@# The start script that an older pip writes imports more, and shows a traceback on Ctrl-C then.
	$(INSTALL) --quiet --upgrade pip
	$(INSTALL) -e '.[report]'
	touch $@

.venv/complete: .venv/installed
	@echo "Installing in .venv for the tests: TensorFlow and others, 640 MB of packages, 2.4 GB"
	@echo "more when unpacked; three minutes or so."
	$(INSTALL) -e '.[export,report,estimators,heic,parquet,serve,cluster,dev]'
	touch $@
