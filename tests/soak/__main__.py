"""``python -m tests.soak``: a run, printed as it goes; 1 if something was wrong."""

import argparse
import secrets
import sys

from tests.harness.cluster import Cluster
from tests.harness.real_cluster.target import find
from tests.soak.plan import plan
from tests.soak.run import soak


def main() -> None:
    """Run one."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of an earlier run, to do it again")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--controller", action="store_true", help="freeze the Workflow controller, too")
    asked = parser.parse_args()
    target = find()
    if target is None:
        sys.exit("no cluster: run inside one (python -m tests.harness.real_cluster up, exec)")
    wrong = soak(plan(asked.seed, asked.jobs, asked.seconds, controller=asked.controller), Cluster(target))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
