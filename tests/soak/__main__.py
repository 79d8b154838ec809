"""``python -m tests.soak``: make a run, print what happens, and exit with 1 if anything was wrong."""

import argparse
import contextlib
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flargo.embedded import Embedded
from tests.harness.cluster import Cluster
from tests.harness.embedded_cluster import REALISTIC_SETTINGS, EmbeddedCluster
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
    parser.add_argument(
        "--controller", action="store_true", help="also freeze the Workflow controller, and configure an exit handler"
    )
    parser.add_argument("--embedded", action="store_true", help="run on the embedded engine instead of a cluster")
    options = parser.parse_args()
    run_plan = plan(options.seed, options.jobs, options.seconds, controller=options.controller)
    with _cluster(is_embedded=options.embedded) as cluster:
        problems = soak(run_plan, cluster)
    sys.exit(1 if problems else 0)


@contextlib.contextmanager
def _cluster(*, is_embedded: bool) -> Iterator[Cluster]:
    if is_embedded:
        with Embedded(REALISTIC_SETTINGS, namespace="flare") as engine, tempfile.TemporaryDirectory() as folder:
            yield EmbeddedCluster(engine, Path(folder))
        return
    target = find()
    if target is None:
        sys.exit("no cluster: run inside one (python -m tests.harness.real_cluster up, exec), or use --embedded")
    yield Cluster(target)


if __name__ == "__main__":
    main()
