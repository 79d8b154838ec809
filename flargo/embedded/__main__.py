"""Runs the embedded engine until it is interrupted: ``python -m flargo.embedded``."""

import argparse
import signal
import threading

from flargo.embedded import Embedded


def main() -> None:
    """Serve until the process gets SIGINT or SIGTERM."""
    description = "Run the embedded engine until it is interrupted. It prints the path of a kubeconfig."
    parser = argparse.ArgumentParser(prog="python -m flargo.embedded", description=description)
    parser.add_argument("--namespace", default="default", help="the kubeconfig's namespace (default: %(default)s)")
    arguments = parser.parse_args()
    stop_requested = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop_requested.set())
    with Embedded(namespace=arguments.namespace) as embedded:
        print("flargo.embedded is for trials and tests only: it runs jobs on this machine, as you.", flush=True)
        print(embedded.kubeconfig(embedded.root / "kubeconfig"), flush=True)
        stop_requested.wait()


if __name__ == "__main__":
    main()
