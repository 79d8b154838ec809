# Commands for developers; CONTRIBUTING.md explains them. CI runs `make test`.
PYTHON ?= python3
BIN := .venv/bin
RECORDED := .venv/recorded
FEDERATIONS := $(wildcard tests/embedded/test_federation*.py) tests/embedded/test_adoption.py
# Only unit tests use Hypothesis. In all others its pytest plugin is off, because modules that it imports at the end of
# a run sometimes trigger a bug of Python 3.11.7.
PYTEST := $(BIN)/pytest -p no:hypothesispytest
# Python before 3.11.8 parses source once more to mark the place in a traceback's line. If two threads do that at once,
# one of them gets a SystemError (python/cpython issue 106905), which ends a worker of xdist.
export PYTHONNODEBUGRANGES := 1
CLUSTER := $(BIN)/python -m tests.harness.real_cluster
# Tests on a cluster wait most of the time, so this many clusters run side by side, each with a share of the tests.
CLUSTERS ?= 3
SHARDS := $(shell seq $(CLUSTERS))
STATE := /var/tmp/flargo-cluster

.PHONY: test everything local check demo demo-drain demos lint unit embedded cluster faults soak cluster-build cluster-up cluster-down bench start rejoin compare scale hostile nvflare-next yaml-jobs docs pictures format lock

# The clusters' programs and images are built while the tests without a cluster run. Each target's output is printed
# when the target has finished.
test: .venv/ready
	$(MAKE) -j2 --output-sync=target cluster-build local
	$(MAKE) cluster

# All tests, including extra scenarios, which differ from others in a detail, and the soak test, whose faults are random:
# its result depends on its seed and on the machine.
everything: export FLARGO_EVERYTHING = 1
everything: test
	$(MAKE) soak

# All tests that need no cluster, including those of the demo.
local: check
	$(MAKE) demos

# Linters and tests without a cluster: about ten minutes. One after the other, because the tests on the embedded engine
# measure times.
check: lint
	$(MAKE) unit
	$(MAKE) embedded

# Runs a FLARE federation whose job runs as Argo Workflows, without a cluster: half a minute once .venv exists. It
# installs only what the demo needs, unless the tools for developers are installed already.
demo: $(if $(wildcard .venv/ready),.venv/ready,.venv/demo)
	$(BIN)/flargo demo

# The same with a site's pod that is evicted in the middle of a round: a minute.
demo-drain: $(if $(wildcard .venv/ready),.venv/ready,.venv/demo)
	$(BIN)/flargo demo --drain

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: .venv/ready
	$(BIN)/pytest -n auto tests/unit tests/harness tests/docs tests/soak

# The fault matrix and federations on the embedded engine. Needs only Python, and no root. A federation keeps the
# machine busy with processes that start, so these tests come after those that measure times.
embedded: .venv/ready
	rm -rf $(RECORDED) && mkdir -p $(RECORDED)
	FLARGO_RECORD=$(RECORDED) $(PYTEST) -n 8 tests/embedded \
		$(addprefix --ignore ,$(FEDERATIONS) tests/embedded/test_recordings.py)
	FLARGO_RECORD=$(RECORDED) $(PYTEST) -n 3 $(FEDERATIONS)
	FLARGO_RECORD=$(RECORDED) $(PYTEST) tests/embedded/test_recordings.py

# Runs `flargo demo` as people use it, and interrupts and kills it.
demos: .venv/ready
	$(PYTEST) tests/demo

# All tests on real clusters. Needs root, Debian 12's packages (see tests/harness/real_cluster/README.md), Go 1.25, and
# 1.5 GB of memory for each cluster. The argo command is built with the clusters, so its tests on the embedded engine
# run here; `make embedded` skips them where the command does not exist.
cluster: cluster-build
	$(MAKE) -j$(CLUSTERS) --output-sync=target $(SHARDS:%=shard-%)
	FLARGO_CLUSTER_STATE=$(STATE)-1 $(CLUSTER) exec -- $(PYTEST) tests/embedded/test_cli.py

shard-%: .venv/ready
	FLARGO_CLUSTER_STATE=$(STATE)-$* $(CLUSTER) up
	files=$$($(CLUSTER) shard $*/$(CLUSTERS)) && \
		FLARGO_CLUSTER_STATE=$(STATE)-$* $(CLUSTER) exec -- $(PYTEST) $$files

# Only the fault matrix: stopped daemons, lost nodes, cut connections.
faults: cluster-up
	$(CLUSTER) exec -- $(PYTEST) tests/cluster/test_faults*.py

# Runs two hundred short jobs with random faults, for ten minutes. Nothing else may run on the cluster.
soak: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.soak --controller

# Takes ten to twenty-five minutes the first time. It has a low priority, because tests run at the same time.
cluster-build: .venv/ready
	nice $(CLUSTER) build

cluster-up: .venv/ready
	$(CLUSTER) up

cluster-down:
	for state in $(STATE)*; do [ ! -d "$$state" ] || FLARGO_CLUSTER_STATE="$$state" $(CLUSTER) down; done

# Counts the API requests of a job, with flargo and with the stock launcher, for README's table.
bench: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.bench.requests

# Measures how soon a job's program starts: with flargo, as the same Workflow created by kubectl, and with the stock
# launcher.
start: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.bench.start

# Measures how soon a drained site trains again, and who takes the time, for the table of docs/rejoin.md.
rejoin: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.bench.rejoin
	$(BIN)/python -m tests.docs.tables

# Shows what faults do to a job, with flargo and with the stock launcher, for the table of docs/faults.md.
compare: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.bench.faults

# Measures the cost of 1 to 5,000 jobs, with flargo and with the stock launcher, and writes the tables and the picture
# of docs/scale.md. Takes half an hour. Needs Go 1.25 and openssl, and no root.
scale: .venv/ready
	$(BIN)/python -m tests.bench.scale
	$(BIN)/python -m tests.docs.tables

# Measures the time for a megabyte of text that is made to slow parsers down, at two sizes for each kind of text.
hostile: .venv/ready
	$(BIN)/python -m tests.bench.hostile

# Writes the tables and examples whose source is the code.
docs: .venv/ready
	$(BIN)/python -m tests.docs.tables

# Writes the pictures of docs/commands.md, which show each command's output.
pictures: cluster-up
	$(CLUSTER) exec -- $(BIN)/python -m tests.docs.pictures

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tests whether the newest nvflare, pre-releases included, still has what flargo needs of its internals. Without it
# argo.adopt is off, so this fails before sites notice.
NEXT := .venv/nvflare-next
nvflare-next: .venv/ready
	rm -rf $(NEXT)
	$(BIN)/pip install -q --disable-pip-version-check --pre --no-deps --target $(NEXT) nvflare
	PYTHONPATH=$(NEXT) $(BIN)/pytest tests/unit/test_nvflare_internals.py tests/unit/test_client_restart.py

# Tests jobs whose metadata is YAML. FLARE reads it with omegaconf, which flargo does not need, and which needs a package
# without a wheel.
OMEGACONF := .venv/omegaconf
yaml-jobs: .venv/ready
	rm -rf $(OMEGACONF)
	$(BIN)/pip install -q --disable-pip-version-check --target $(OMEGACONF) omegaconf
	PYTHONPATH=$(OMEGACONF) $(BIN)/pytest tests/unit/test_job_meta.py

# Run this after a change of the dependencies in pyproject.toml. Only wheels are allowed, so that an image's build
# compiles no package. The lock files of the demo and of the images are subsets of requirements.lock.
COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --no-annotate --only-binary :all: \
	--custom-compile-command "make lock"
lock: .venv/ready
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock
	$(COMPILE) pyproject.toml --extra cli --extra metrics -c requirements.lock -o deploy/images/parent.txt
	echo nvflare | $(COMPILE) - -c requirements.lock -o deploy/images/job.txt
	printf 'editables\nhatchling\n' | $(COMPILE) pyproject.toml - --extra demo -c requirements.lock -o requirements-demo.lock

# A .venv with neither of the files `ready` and `demo` is incomplete, and is created again.
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
