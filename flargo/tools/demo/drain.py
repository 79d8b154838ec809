"""Evicts the pod of a site while its program trains, and shows how the site comes back to the job."""

import contextlib

from flargo.cluster.errors import ApiError
from flargo.job.names import label_value
from flargo.status.views import uid_of
from flargo.terms import Label, Object, Uid
from flargo.tools.demo.backend import ClusterNamespace
from flargo.tools.demo.drain_evidence import STORY_LENGTH, Step, parse_steps, tell
from flargo.tools.demo.federation import Federation
from flargo.tools.demo.options import DemoError
from flargo.tools.demo.screen import Screen


class Drain:
    """The eviction of the first site's pod, and what follows from it."""

    def __init__(
        self, screen: Screen, cluster: ClusterNamespace, federation: Federation, job_id: str, rounds: int
    ) -> None:
        """Evict nothing yet.

        Args:
            screen: where to show what happens.
            cluster: the namespace of the job's pods.
            federation: the federation that runs the job.
            job_id: FLARE's id of the job.
            rounds: the number of the job's rounds.
        """
        self._screen, self._cluster = screen, cluster
        self._site = federation.sites[0]
        self._parent_log = federation.log_path(self._site)
        self._selector = f"{Label.JOB_ID}={job_id},{Label.SITE}={label_value(self._site)}"
        # If the program is not seen early enough in this round, the next one will do.
        self._first_round = max(1, min(2, rounds - 1))
        self._drained: Step | None = None
        self._drained_pod = Uid("")
        self._printed = 0

    def update(self) -> None:
        """Evict the pod if its program trains, or show what has happened since.

        Raises:
            DemoError: the pod cannot be evicted.
        """
        with contextlib.suppress(ApiError):  # the next update asks again
            pods = self._cluster.list_objects(self._selector)[1]
            if self._drained is None:
                self._evict_training(pods)
            else:
                self._show_news(self._drained, pods)

    def check(self) -> None:
        """Check, after the job has completed, that its site was drained and came back.

        Raises:
            DemoError: the site was not drained, or did not come back.
        """
        self.update()
        if self._drained is None:
            raise DemoError(
                f"The job completed before the pod of {self._site} could be evicted early in a round: "
                "give the job more rounds with --rounds."
            )
        if self._printed < STORY_LENGTH:
            raise DemoError(f"The job completed, but the program of {self._site} was not seen to train again.")

    def _evict_training(self, pods: list[Object]) -> None:
        for pod in pods:
            steps = parse_steps(self._cluster.read_log(pod))
            if steps and steps[-1].training_round >= self._first_round and steps[-1].is_early:
                self._cluster.evict(pod)
                self._drained, self._drained_pod = steps[-1], uid_of(pod)
                what = (
                    f"{self._site} trains round {steps[-1].training_round}: its pod is evicted, as by `kubectl drain`"
                )
                self._screen.print_line("drain", what, "yellow")
                self._screen.print_detail(pod["metadata"]["name"], "dim")
                return

    def _show_news(self, drained: Step, pods: list[Object]) -> None:
        logs = (self._cluster.read_log(pod) for pod in pods if uid_of(pod) != self._drained_pod)
        steps = parse_steps("\n".join(logs))
        story = [*tell(self._site, drained, self._parent_log.read_text(errors="replace"), steps)]
        for event in story[self._printed :]:
            self._screen.print_line(event.label, event.text, "yellow")
            if event.detail:
                self._screen.print_detail(event.detail, "dim")
        self._printed = len(story)
