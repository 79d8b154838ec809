# One short command each. `make test` is everything that CI runs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test demo lint unit embedded cluster faults soak cluster-up cluster-down bench compare scale docs format lock

test: lint unit cluster

# A federation whose job runs as Argo Workflows, without a cluster: half a minute once .venv is there.
demo: .venv/ready
	$(BIN)/flargo demo

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: .venv/ready
	$(BIN)/pytest tests/unit

# flargo and real federations on the embedded engine: Python only, no root.
# Without Hypothesis, which nothing there needs: what it imports at the end trips over a bug of Python 3.11.7's now and then.
embedded: .venv/ready
	$(BIN)/pytest -p no:hypothesispytest tests/embedded tests/demo

# Needs root, Debian 12's packages (see tests/cluster/README.md), Go 1.25, and 15 minutes the first time.
cluster: cluster-up
	$(BIN)/python -m tests.cluster exec -- $(BIN)/pytest tests/cluster --ignore-glob='*/test_faults*'

# The fault matrix: daemons stopped, nodes lost, wires cut; a quarter of an hour on a quiet machine.
faults: cluster-up
	$(BIN)/python -m tests.cluster exec -- $(BIN)/pytest tests/cluster/test_faults*.py

# Two hundred short jobs with faults at random, for ten minutes; the cluster must have nothing else to do.
soak: cluster-up
	$(BIN)/python -m tests.cluster exec -- $(BIN)/python -m tests.cluster.soak --controller

cluster-up: .venv/ready
	$(BIN)/python -m tests.cluster up

cluster-down:
	$(BIN)/python -m tests.cluster down

# API requests of a job, beside the stock launcher's; then the README's table.
bench: cluster-up
	$(BIN)/python -m tests.cluster exec -- $(BIN)/python -m tests.bench.requests

# What faults do to a job with flargo and with the stock launcher; then the table of docs/faults.md.
compare: cluster-up
	$(BIN)/python -m tests.cluster exec -- $(BIN)/python -m tests.bench.faults

# What 1 to 5,000 jobs cost, beside the stock launcher; then the tables and the picture of docs/scale.md. Half an hour;
# needs Go 1.25 and openssl, no root.
scale: .venv/ready
	$(BIN)/python -m tests.bench.scale
	$(BIN)/python -m tests.docs

# The tables of the docs that the code is the source of.
docs: .venv/ready
	$(BIN)/python -m tests.docs

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# After a change of the dependencies in pyproject.toml.
lock: .venv/ready
	$(BIN)/uv pip compile -q pyproject.toml --extra dev --universal --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -o requirements.lock

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes -r requirements.lock
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@
