"""Groups the Workflows that are attempts of one job at one site. Pure.

The labels that say so are text that anybody may write who may write Workflows. A Workflow that has not ended is
therefore never hidden behind another one, and neither is one that does not fit into the order of attempts, such as a
copy that Argo's Resubmit has made.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from flargo.status.diagnosis import Stage
from flargo.tools.jobs.site_job import SiteJob, oldest_first


def fold_attempts(workflows: Iterable[SiteJob]) -> list[SiteJob]:
    """Return each job at each site once, as its latest attempt with the earlier ones. The oldest job comes first.

    Attempts have rising numbers in the order of their creation. A number that does not rise begins another launch of
    the job, which is a row of its own.

    Args:
        workflows: the attempts, in any order, each without earlier ones.
    """
    launches: list[list[SiteJob]] = []
    latest_launch: dict[tuple[str, str, str, str], list[SiteJob]] = {}
    for attempt in sorted(workflows, key=_order_of_creation):
        launch = latest_launch.get(attempt.identity)
        if attempt.max_attempts > 1 and launch is not None and launch[-1].number < attempt.number:
            launch.append(attempt)
            continue
        launch = [attempt]
        launches.append(launch)
        if attempt.max_attempts > 1:
            latest_launch[attempt.identity] = launch
    return oldest_first(job for launch in launches for job in _fold_launch(launch))


def _order_of_creation(attempt: SiteJob) -> tuple[bool, datetime | None, int]:
    # Times have whole seconds. A Workflow without a time is malformed.
    return attempt.created_at is not None, attempt.created_at, attempt.number


def _fold_launch(launch: Sequence[SiteJob]) -> Iterator[SiteJob]:
    *earlier, latest = launch
    yield replace(latest, earlier=tuple(filter(_has_ended, earlier)))
    yield from (attempt for attempt in earlier if not _has_ended(attempt))


def _has_ended(attempt: SiteJob) -> bool:
    """Return whether an attempt has ended, or ends: a lost node's pod stays on the cluster until its node is back."""
    return attempt.stage is Stage.ENDED or attempt.reason is not None
