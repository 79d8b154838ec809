# One short command each. `make test` is everything that CI runs.
PYTHON ?= python3
BIN := .venv/bin
RECORDED := .venv/recorded
# Only unit tests need Hypothesis: what its plugin imports at the end trips over a bug of Python 3.11.7's now and then.
PYTEST := $(BIN)/pytest -p no:hypothesispytest
CLUSTER := $(BIN)/python -m tests.harness.real_cluster
# A cluster's tests wait more than they work. So this many clusters stand side by side, each with a share of the tests.
CLUSTERS ?= 3
SHARDS := $(shell seq $(CLUSTERS))
STATE := /var/tmp/flargo-cluster

.PHONY: test everything local check demo demos lint unit embedded cluster faults soak cluster-build cluster-up cluster-down bench start compare scale hostile docs pictures format lock

# The clusters' parts are built beside the tests that need none. A target's output is printed when the target is done.
test: .venv/ready
	$(MAKE) -j2 --output-sync=target cluster-build local
	$(MAKE) cluster

# All there is: also what meets its faults at random, and so tells nothing for certain.
everything: test
	$(MAKE) soak

# All that needs no cluster, the demo's own tests included.
local: check
	$(MAKE) demos

# What needs no cluster: five minutes.
check: lint
	$(MAKE) -j2 unit embedded

# A federation whose job runs as Argo Workflows, without a cluster: half a minute once .venv is there. It installs only
# what the demo needs, unless the developers' tools are there already.
demo: $(if $(wildcard .venv/ready),.venv/ready,.venv/demo)
	$(BIN)/flargo demo

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: .venv/ready
	$(BIN)/pytest -n auto tests/unit tests/harness tests/docs tests/soak

# The fault matrix and a federation on the embedded engine: Python only, no root.
embedded: .venv/ready
	rm -rf $(RECORDED) && mkdir -p $(RECORDED)
	FLARGO_RECORD=$(RECORDED) $(PYTEST) -n 8 tests/embedded \
		--ignore tests/embedded/test_recordings.py
	FLARGO_RECORD=$(RECORDED) $(PYTEST) tests/embedded/test_recordings.py

# `flargo demo` as people use it, interrupted and killed.
demos: .venv/ready
	$(PYTEST) tests/demo

# All tests on real clusters. Needs root, Debian 12's packages (see tests/harness/real_cluster/README.md), Go 1.25, and
# 1.5 GB of memory for each cluster. Argo's own command line is built with the cluster: `make embedded` before that had
# to skip its tests.
cluster: cluster-build
	$(MAKE) -j$(CLUSTERS) --output-sync=target $(SHARDS:%=shard-%)
	FLARGO_CLUSTER_STATE=$(STATE)-1 $(CLUSTER) exec -- $(PYTEST) tests/embedded/test_cli.py

shard-%: .venv/ready
	FLARGO_CLUSTER_STATE=$(STATE)-$* $(CLUSTER) up
	files=$$($(CLUSTER) shard $*/$(CLUSTERS)) && \
		FLARGO_CLUSTER_STATE=$(STATE)-$* $(CLUSTER) exec -- $(PYTEST) $$files

# The fault matrix alone: daemons stopped, nodes lost, wires cut.
faults: cluster-up
	$(CLUSTER) exec -- $(PYTEST) tests/cluster/test_faults*.py

# Two hundred short jobs with faults at random, for ten minutes; the cluster must have nothing else to do.
soak: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.soak --controller

# Ten to twenty-five minutes the first time, at a low priority: tests run beside it.
cluster-build: .venv/ready
	nice $(CLUSTER) build

cluster-up: .venv/ready
	$(CLUSTER) up

cluster-down:
	for state in $(STATE)*; do FLARGO_CLUSTER_STATE=$$state $(CLUSTER) down; done

# API requests of a job, beside the stock launcher's; then the README's table.
bench: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.bench.requests

# How soon a job's program begins, beside the same Workflow by kubectl and the stock launcher's pod.
start: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.bench.start

# What faults do to a job with flargo and with the stock launcher; then the table of docs/faults.md.
compare: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.bench.faults

# What 1 to 5,000 jobs cost, beside the stock launcher; then the tables and the picture of docs/scale.md. Half an hour;
# needs Go 1.25 and openssl, no root.
scale: .venv/ready
	$(BIN)/python -m tests.bench.scale
	$(BIN)/python -m tests.docs.tables

# What foreign text costs: seconds for a megabyte of shapes that make careless code slow, at two sizes each.
hostile: .venv/ready
	$(BIN)/python -m tests.bench.hostile

# The tables of the docs that the code is the source of.
docs: .venv/ready
	$(BIN)/python -m tests.docs.tables

# What each command shows: the pictures of docs/commands.md.
pictures: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.docs.pictures

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# After a change of the dependencies in pyproject.toml. Wheels only, so that images are built without building packages;
# the images' own locks are parts of the first.
COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --no-annotate --only-binary :all: \
	--custom-compile-command "make lock"
lock: .venv/ready
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock
	$(COMPILE) pyproject.toml --extra cli --extra metrics -c requirements.lock -o deploy/images/parent.txt
	echo nvflare | $(COMPILE) - -c requirements.lock -o deploy/images/job.txt
	printf 'editables\nhatchling\n' | $(COMPILE) pyproject.toml - --extra demo -c requirements.lock -o requirements-demo.lock

# A folder without either stamp is new, or half made: it is begun anew.
define install
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("flargo needs Python 3.11 or newer, and $(PYTHON) is %d.%d: name another one, as in `make PYTHON=python3.12 $(MAKECMDGOALS)`" % sys.version_info[:2])'
	@echo "Installing flargo's $(1) into .venv: a minute or two, once."
	@[ -e .venv/ready ] || [ -e .venv/demo ] || $(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r $(2)
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
endef

.venv/ready: requirements.lock pyproject.toml
	$(call install,tools for developers,$<)

.venv/demo: requirements-demo.lock pyproject.toml
	$(call install,demo,$<)
