"""The folder of a running cluster's files, outside the source tree.

============ ==================================================================
``run/``     the files of one start; the next start empties it
``registry`` the container registry's storage, kept so that images are pushed once
============ ==================================================================

``FLARGO_CLUSTER_STATE`` names another folder. Paths in it must stay short: a Unix socket's
path has at most 107 bytes.
"""

import os
from pathlib import Path

STATE = Path(os.environ.get("FLARGO_CLUSTER_STATE", "/var/tmp/flargo-cluster"))
RUN = STATE / "run"
REGISTRY = STATE / "registry"

# The cgroup of all pods; a cluster with another state folder is another cluster.
CGROUP = STATE.name

LOGS = RUN / "logs"
PKI = RUN / "pki"
CONFIG = RUN / "config"
ADMIN = RUN / "admin.kubeconfig"
LAUNCHER = RUN / "launcher.kubeconfig"
ARGO = RUN / "argo.kubeconfig"
AUDIT = RUN / "audit.log"
CONTAINERD = RUN / "containerd.sock"
KUBECTL = RUN / "kubectl-cache"
