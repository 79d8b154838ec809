"""``python -m tests.soak``: make a run, print what happens, and exit with 1 if anything was wrong."""

import argparse
import secrets
import sys

from tests.harness.cluster import Cluster
from tests.harness.real_cluster.target import find
from tests.soak.plan import plan
from tests.soak.run import soak


def main() -> None:
    """Make one run on the cluster that is found."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(10**6), help="the seed of an earlier run, to repeat it"
    )
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--controller", action="store_true", help="also freeze the Workflow controller")
    options = parser.parse_args()
    target = find()
    if target is None:
        sys.exit("no cluster: run inside one (python -m tests.harness.real_cluster up, exec)")
    problems = soak(plan(options.seed, options.jobs, options.seconds, controller=options.controller), Cluster(target))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
