"""The network policy of ``deploy/``, made to fit the test cluster."""

import yaml

from tests.harness.cluster import Object
from tests.harness.paths import DEPLOY

POLICY = DEPLOY / "network-policy.yaml"
API_SERVER = ("10.96.0.1", 443)
"""The API server's address and port as pods get them: an address that the node itself has."""
WAITS_FOR_POLICY = """
import socket, time
for _ in range(100):
    try:
        socket.create_connection(('10.88.0.1', 10250), 3).close()
    except OSError:
        break
    time.sleep(0.3)
else:
    raise RuntimeError('the pod reaches the kubelet')
"""
"""Code that goes on as soon as the policy is enforced for its pod, and fails where it never is."""


def policy_for_test_cluster() -> Object:
    """Return the policy of ``deploy/`` with the test cluster's API server in place of the example's."""
    text = POLICY.read_text()
    address, port = API_SERVER
    for example, own in (("cidr: 198.51.100.1/32", f"cidr: {address}/32"), ("port: 6443", f"port: {port}")):
        assert example in text
        text = text.replace(example, own)
    policy: Object = yaml.safe_load(text)
    return policy
