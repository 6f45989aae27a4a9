# Everything sets itself up in .venv; nothing need be installed before but Python 3.10 or later.
PYTHON ?= python3
# A release of Torch whose CPU build is at hand; on a machine with a card, TORCH=torch takes the CUDA build.
TORCH ?= torch==2.13.0
ARGS ?=

BIN := .venv/bin

.PHONY: demo test lint bench smoke downstream gpu clean

demo: .venv/demo.stamp
	$(BIN)/ksubspaces demo --out demo-output --overwrite $(ARGS)

# In as many processes as there are cores, up to 8; ARGS="-n 0" takes one.
test: .venv/dev.stamp
	$(BIN)/python -m pytest tests -n logical --maxprocesses 8 --dist worksteal $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/dev.stamp
	$(BIN)/python -m bench $(ARGS)

smoke: .venv/dev.stamp
	$(BIN)/python -m pytest bench --quick $(ARGS)

# An hour on two quiet cores, and it goes on where it was stopped; ARGS=--quick takes three minutes.
downstream: .venv/dev.stamp
	$(BIN)/python -m bench downstream $(ARGS)

# On a machine with a card, with that machine's own Python and nothing fetched: tests, figures, sanitizers, in at most
# six minutes; ARGS=--rest goes on with what these did not reach.
gpu:
	$(PYTHON) -m bench rented $(ARGS)

.venv/python.stamp:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo.stamp: .venv/python.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[cli]"
	touch $@

.venv/dev.stamp: .venv/python.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[cli,bench,dev,cuda-check]"
	touch $@

clean:
	rm -rf .venv build demo-output curve-output *.egg-info
