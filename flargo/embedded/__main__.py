"""``python -m flargo.embedded``: serve until interrupted, and say where the kubeconfig is."""

import argparse
import signal
import threading

from flargo.embedded import Embedded


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m flargo.embedded", description=__doc__)
    parser.add_argument("--namespace", default="default")
    arguments = parser.parse_args()
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    with Embedded(namespace=arguments.namespace) as embedded:
        print(
            "flargo.embedded: for trying and testing only. What it runs, it runs as you, on this machine.", flush=True
        )
        print(embedded.kubeconfig(embedded.root / "kubeconfig"), flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
