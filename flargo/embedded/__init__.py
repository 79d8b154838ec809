"""A small stand-in for Kubernetes with Argo Workflows, for trying flargo and for testing it.

It serves the part of both APIs that flargo uses, on the loopback interface only. It runs each step's main container as
a process of this machine and of the current user: without image, root or isolation. Never give it a job that you would
not run yourself.
"""

from flargo.embedded.cluster import Settings
from flargo.embedded.model import Delays, Node, Policy
from flargo.embedded.server import Embedded

__all__ = ["Delays", "Embedded", "Node", "Policy", "Settings"]
