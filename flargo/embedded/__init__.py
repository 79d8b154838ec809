"""A small stand-in for Kubernetes with Argo Workflows, for trying flargo and for testing it.

It serves what flargo uses of both APIs on the loop-back device, and runs each step's main container as a process of
this machine and this user: no image, no root, no isolation. Never give it a job that you would not run yourself.
"""

from flargo.embedded.cluster import Settings
from flargo.embedded.model import Lags, Node, Policy
from flargo.embedded.server import Embedded

__all__ = ["Embedded", "Lags", "Node", "Policy", "Settings"]
