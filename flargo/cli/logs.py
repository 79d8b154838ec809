"""`flargo logs`: what a job's program has said, and says."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import click

from flargo.cli.cluster import cluster_options, connected, site_option
from flargo.cli.output import PROBLEM, blank, data_line, json_option, reporting, say
from flargo.cluster.api import Api
from flargo.inspect.jobs import Part
from flargo.inspect.log import Line
from flargo.inspect.reader import ClusterReader, find
from flargo.inspect.tail import Tail

_AHEAD = 1000
"""Lines of each site that are read before they are shown."""
Told = tuple[str, Line]


@click.command()
@click.argument("job")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@site_option
@cluster_options
@json_option
@reporting
def logs(
    job: str,
    *,
    follow: bool,
    site: str | None,
    as_json: bool,
    **where: str | None,
) -> None:
    """Print what a job's program has said, without the lines of Argo's executor; of several sites, with their names.

    JOB is FLARE's job id, a beginning of it that no other job has, or the name of a Workflow.
    """
    api = connected(**where)
    parts = find(ClusterReader(api), job, site)
    tails = [(part, _tail(api, part)) for part in parts]
    told = _together(tails) if follow and len(tails) > 1 else _in_turn(tails, follow=follow)
    width = max(len(part.site) for part in parts)
    for name, line in told:
        if as_json:
            data_line({"site": name, "time": line.time, "line": line.text})
        else:
            click.echo(f"{name:{width}} | {blank(line.text)}" if len(parts) > 1 else blank(line.text))
    if not any(tail.begun for _, tail in tails):
        raise SystemExit(PROBLEM)


def _tail(api: Api, part: Part) -> Tail:
    return Tail(api, part.workflow.name, part.workflow.uid, time.sleep, say)


def _in_turn(tails: Sequence[tuple[Part, Tail]], *, follow: bool) -> Iterator[Told]:
    for part, tail in tails:
        yield from ((part.site, line) for line in tail.lines(follow=follow))


def _together(tails: Sequence[tuple[Part, Tail]]) -> Iterator[Told]:
    """All that are followed, as their lines come."""
    told: queue.Queue[Told | Exception | None] = queue.Queue(_AHEAD * len(tails))

    def run(name: str, tail: Tail) -> None:
        try:
            for line in tail.lines(follow=True):
                told.put((name, line))
            told.put(None)
        except Exception as error:  # noqa: BLE001  (raised where it is waited for)
            told.put(error)

    for part, tail in tails:
        threading.Thread(target=run, args=(part.site, tail), daemon=True).start()
    going = len(tails)
    while going:
        with suppress(queue.Empty):
            match told.get(timeout=1.0):
                case None:
                    going -= 1
                case Exception() as error:
                    raise error
                case line:
                    yield line
