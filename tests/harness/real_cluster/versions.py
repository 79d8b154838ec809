"""The versions of the test cluster's parts, and the folders of built parts.

The environment can set these, so that the tests run with another Kubernetes or Argo:

====================== ==========================================================================
FLARGO_KUBERNETES      Kubernetes version, from the Go module proxy
FLARGO_ARGO            Argo Workflows version (3.x: of 4.x the module proxy has no version)
FLARGO_CLUSTER_CACHE   the folder of built parts, with one folder per part and version
FLARGO_CLUSTER_READY   a folder of ready-made parts: ``bin/<name>``, ``images/<name>.tar`` and
                       ``crds/`` in it are used instead of being built
====================== ==========================================================================
"""

import os
from pathlib import Path

KUBERNETES = os.environ.get("FLARGO_KUBERNETES", "1.34.4")
ARGO = os.environ.get("FLARGO_ARGO", "3.7.18")
ETCD = "3.6.5"
COREDNS = "1.12.4"
HELM = "3.19.5"
KUBE_ROUTER = "2.1.0"
NVFLARE = "2.9.0"

CACHE = Path(os.environ.get("FLARGO_CLUSTER_CACHE", Path.home() / ".cache" / "flargo-cluster"))
READY = Path(os.environ["FLARGO_CLUSTER_READY"]) if os.environ.get("FLARGO_CLUSTER_READY") else None
