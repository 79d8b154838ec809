"""The fault matrix, where a job's process is lost and started again (docs/rejoin.md)."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Annotation, Label, ServerJob
from tests.harness.cluster import Cluster, eventually, has_ended
from tests.harness.faults.by_hand import LogLines
from tests.harness.faults.daemons import CONTROLLER
from tests.harness.faults.matrix import NOTICE_SECONDS, ROWS, STUDIES, Row, verdict_of
from tests.harness.faults.wire import is_pod
from tests.harness.history import History
from tests.harness.scenarios import Scenarios, Together
from tests.harness.site import EXITS_ON_REQUEST, IGNORES_SIGTERM, SLEEPS, START_SECONDS, Job, Site, template_study
from tests.harness.wire import Match, Wire

Object = dict[str, Any]
MAX_REJOIN = 2
"""How often the site of most scenarios starts a job's process again."""
AGAIN: Object = {"argo": {"rejoin": MAX_REJOIN}}
"""The options of a job whose process may be started again."""
ALLOWED: Object = {"policy": {"rejoin": MAX_REJOIN}}
"""The launcher's settings at a site that allows it."""
GAP_SECONDS = 15.0
"""The limit within which an abort between two attempts is told FLARE, or the next attempt is submitted."""
RECENT_SECONDS = 12.0
"""Longer than the ten seconds from the start of a step in which Argo 3.7 creates a missing pod once more, although it
has seen the pod run (its RECENTLY_STARTED_POD_DURATION)."""
DRAIN_DELAY = 8
"""Seconds for which a drained program goes on at the sites that set a delay."""
GRACE_SECONDS = 30
"""The grace period of a job's pod, to which the delay is added."""
COUNTS = EXITS_ON_REQUEST.replace("time.sleep(0.05)", "print(flush=True); time.sleep(1)")
"""Code that prints ``ready`` and then a line each second, and exits when the test calls :meth:`Job.exit_program`."""
SERVER_IS_GONE = "the server's process of the job runs no longer"

scenario = Scenarios()


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    """The site that the module's tests share."""
    with Site(cluster, studies=STUDIES, argo=ALLOWED) as shared_site:
        yield shared_site


@pytest.fixture(scope="module")
def history(cluster: Cluster) -> Iterator[History]:
    """What existed on the cluster at the same time."""
    with History(cluster) as running:
        yield running


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, site: Site, history: History, cluster: Cluster) -> Iterator[Together]:
    """The module's running scenarios."""
    with Together(scenario, request, cluster, site=site, history=history) as running:
        yield running


def drain(job: Job) -> None:
    """Evict the pod of the job's latest attempt through the API, as a drain of its node does.

    It is evicted when Argo has seen it run. Else flargo has to end the Workflow, because Argo would create another pod.
    """
    eventually(lambda: step_phase(job) == "Running", NOTICE_SECONDS, "Argo has seen the pod run")
    job.cluster.evict(job.pod)


def step_phase(job: Job) -> str:
    """Return the phase of the Argo node of the latest attempt's step."""
    workflow = job.workflow
    return str(workflow["status"]["nodes"][workflow["metadata"]["name"]]["phase"])


def test_drained_while_the_controller_is_away(site: Site, history: History, cluster: Cluster) -> None:
    """Argo's status still says Pending, so Argo may create another pod of the first attempt when it is back."""
    with cluster.freeze(CONTROLLER):
        job = site.launch(EXITS_ON_REQUEST, AGAIN).expect_stage(Stage.UNCLAIMED)
    eventually(lambda: job.pods, START_SECONDS, "its pod exists")
    with cluster.freeze(CONTROLLER):
        job.expect_running()
        cluster.evict(job.pod)
        eventually(lambda: not job.pods, START_SECONDS, "its pod is gone")
        time.sleep(8)
        assert job.launched_job.verdict is None
        assert len(job.workflows) == 1, "Argo has not confirmed that it starts nothing more"
    job.expect_attempt(2)
    expect_success(job, history, 2)


def expect_success(job: Job, history: History, attempts: int) -> None:
    """Let the latest attempt exit with 0; the job must succeed, and its attempts must not have met."""
    job.exit_program(0)
    job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    expect_attempts(job, history, attempts)


def expect_attempts(job: Job, history: History, count: int) -> None:
    """Expect so many attempts of a job that has ended, one after the other, and that nothing is left of any."""
    job.expect_nothing_left()
    assert len(job.workflows) == count
    assert history.most_credentials(job.name) == 1
    assert history.most_programs(job.id) <= 1


def expect_one_attempt(job: Job) -> None:
    """Expect that a job that has ended is not started again."""
    job.expect_nothing_left()
    assert len(job.workflows) == 1
    assert job.site.server_jobs.probes(job.id) == 0


# --- started again


@scenario
def drained_while_it_runs(site: Site, history: History) -> None:
    """The second attempt's Workflow says which attempt it is, and FLARE hears only of its end."""
    job = site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
    with LogLines() as logs:
        drain(job)
        job.expect_attempt(2)
    assert [line for line in logs.about(job.id) if "attempt 1 of 3 lost (DISRUPTED)" in line]
    meta = job.workflow["metadata"]
    assert (meta["name"], meta["labels"][Label.ATTEMPT_NUMBER]) == (f"{job.name}-r1", "2")
    assert meta["annotations"][Annotation.TITLE].endswith(" 2/3`")
    assert job.handle.poll() == 127
    expect_success(job, history, 2)
    phases = {item["metadata"]["name"]: item["status"]["phase"] for item in job.workflows}
    lost = next(item for item in job.workflows if item["metadata"]["name"] == job.name)
    description = lost["metadata"]["annotations"][Annotation.DESCRIPTION]
    assert description.startswith("DISRUPTED: ")
    assert "Another attempt may follow." in description
    assert phases[f"{job.name}-r1"] == "Succeeded"
    assert phases[job.name] in {"Failed", "Error"}, "which one depends on when Argo reads the pod"


@scenario
def drained_as_soon_as_it_runs(site: Site, history: History, cluster: Cluster) -> None:
    """Argo may not have seen the pod run, and would create another one of the first attempt."""
    job = site.launch(EXITS_ON_REQUEST, AGAIN).expect_stage(Stage.RUNNING)
    cluster.evict(job.pod)
    job.expect_attempt(2)
    expect_success(job, history, 2)


@scenario
def drained_and_deaf(site: Site, history: History) -> None:
    """The program uses all of its grace period, and its successor waits for that."""
    job = site.launch(IGNORES_SIGTERM + EXITS_ON_REQUEST, AGAIN, study="short-grace").expect_running()
    drain(job)
    job.expect_attempt(2)
    expect_success(job, history, 2)


@scenario
def drained_with_a_delay(cluster: Cluster, history: History) -> None:
    """The program goes on for the delay, is then ended by SIGTERM, and is started again."""
    with Site(cluster, argo={**ALLOWED, "drain_delay": DRAIN_DELAY}) as own_site:
        job = own_site.launch(COUNTS, AGAIN).expect_running()
        drain(job)
        drained_at = time.monotonic()
        before = len(cluster.log(job.pod))
        time.sleep(DRAIN_DELAY - 3)
        assert job.pod["metadata"]["deletionTimestamp"]
        assert len(cluster.log(job.pod)) >= before + DRAIN_DELAY - 5, "the program has not gone on"
        assert job.launched_job.verdict is None
        eventually(lambda: len(job.workflows) == 2, NOTICE_SECONDS, "the second attempt is submitted")
        assert DRAIN_DELAY <= time.monotonic() - drained_at < DRAIN_DELAY + GRACE_SECONDS, "SIGTERM did not end it"
        job.expect_attempt(2)
        expect_success(job, history, 2)


@scenario
def ends_within_the_drain_delay(cluster: Cluster) -> None:
    """That is what the delay is for: a program that has delivered its results ends by itself."""
    with Site(cluster, argo={**ALLOWED, "drain_delay": DRAIN_DELAY}) as own_site:
        job = own_site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
        drain(job)
        eventually(lambda: "deletionTimestamp" in job.pod["metadata"], NOTICE_SECONDS, "the pod is being deleted")
        job.exit_program(0)
        job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
        expect_one_attempt(job)


@scenario
def drained_twice(site: Site, history: History) -> None:
    job = site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
    for number in (2, 3):
        drain(job)
        job.expect_attempt(number)
    expect_success(job, history, 3)


@scenario
def drained_while_it_starts(site: Site, history: History, cluster: Cluster) -> None:
    """The new attempt waits for the same Secret."""
    job = site.launch(SLEEPS, AGAIN, study="secret-mount").expect_stage(Stage.STARTING)
    eventually(lambda: waits(job.pod), NOTICE_SECONDS, "its container waits")
    time.sleep(RECENT_SECONDS)  # Before that, Argo makes another pod of the first attempt, with which the job goes on.
    drained: set[str] = set()

    def second_attempt_is_submitted() -> bool:
        """Drain each pod of the first attempt: a busy Argo may still have made one."""
        workflows = job.workflows
        for pod in job.pods if len(workflows) == 1 else ():
            if pod["metadata"]["uid"] not in drained and waits(pod):
                drained.add(pod["metadata"]["uid"])
                cluster.evict(pod)
        return len(workflows) == 2

    eventually(second_attempt_is_submitted, START_SECONDS, "the second attempt is submitted")
    eventually(lambda: waits(job.expect_stage(Stage.STARTING).pod), START_SECONDS, "its container waits")
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    expect_attempts(job, history, 2)


def waits(pod: Object) -> bool:
    """Return whether the kubelet has reported that a pod's main container waits."""
    rows = pod["status"].get("containerStatuses") or []
    return any(row["name"] == "main" and "waiting" in row["state"] for row in rows)


@scenario.variants(pod={"is_late": is_pod}, workflow={"is_late": lambda item: not is_pod(item)})
def drained_with_events_late_and_out_of_order(
    cluster: Cluster, history: History, is_late: Callable[[Object], bool]
) -> None:
    """What happens to the first attempt's pod, or to its Workflow, is told while the second one runs."""
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire, argo=ALLOWED) as own_site:
        job = own_site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
        held = wire.hold_events(lambda item: is_late(item) and shows_an_end(item))
        drain(job)
        job.expect_attempt(2)
        assert held.hits
        wire.release_events()
        time.sleep(2)
        expect_success(job, history, 2)


def shows_an_end(item: Object) -> bool:
    """Return whether a Workflow has ended, or a pod's program."""
    rows = item["status"].get("containerStatuses") or []
    return has_ended(item) or any("terminated" in row["state"] for row in rows)


@scenario
def drained_with_its_events_lost(cluster: Cluster) -> None:
    """Nothing shows that the pod was drained once it is gone; the deletion of a pod is no loss."""
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire, argo=ALLOWED) as own_site:
        job = own_site.launch(SLEEPS, AGAIN).expect_running()
        time.sleep(RECENT_SECONDS)
        wire.stop_answering()
        drain(job)
        eventually(lambda: not job.pods, START_SECONDS, "its pod is gone")
        wire.resume_answering()
        job.expect_end(Reason.POD_DELETED, 104, START_SECONDS)
        expect_one_attempt(job)


@scenario
def second_attempt_is_submitted_with_difficulty(cluster: Cluster, history: History) -> None:
    """Each request of the second submit has an answer that is lost, or an error that may pass."""
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire, argo=ALLOWED) as own_site:
        job = own_site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
        second = f"{job.name}-r1"
        faults = [
            wire.lose_reply(Match("create", "workflows", second)),
            wire.answer_with_status(Match("create", "secrets", f"nvflare-cred-{second}"), 503),
            wire.lose_reply(Match("patch", "workflows", second)),
        ]
        drain(job)
        job.expect_attempt(2)
        assert [fault.hits for fault in faults] == [1, 1, 1]
        expect_success(job, history, 2)


@scenario
def api_server_away_between_attempts(cluster: Cluster, history: History) -> None:
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire, argo=ALLOWED) as own_site:
        job = own_site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
        own_site.server_jobs.answer(job.id, ServerJob.UNKNOWN)
        drain(job)
        job.expect_gap()
        wire.stop_answering()
        own_site.server_jobs.answer(job.id, ServerJob.RUNS)
        time.sleep(8)
        assert job.launched_job.verdict is None
        wire.resume_answering()
        job.expect_attempt(2)
        expect_success(job, history, 2)


@scenario
def pod_deleted_where_that_counts(cluster: Cluster, history: History) -> None:
    with Site(cluster, argo={**ALLOWED, "rejoin_deleted": True}) as own_site:
        job = own_site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
        eventually(lambda: step_phase(job) == "Running", NOTICE_SECONDS, "Argo has seen the pod run")
        cluster.delete("pod", job.pod)
        job.expect_attempt(2)
        expect_success(job, history, 2)


@scenario
def log_of_a_lost_attempt_is_kept(cluster: Cluster, history: History) -> None:
    with Site(cluster, argo={**ALLOWED, "keep_lost_log": True}) as own_site:
        job = own_site.launch(IGNORES_SIGTERM + EXITS_ON_REQUEST, AGAIN).expect_running()
        run_dir = own_site.root / job.id
        run_dir.mkdir()
        drain(job)
        job.expect_attempt(2)
        assert "ready" in (run_dir / "argo_attempt_1_log_tail.txt").read_text()
        expect_success(job, history, 2)
        assert [path.name for path in run_dir.iterdir()] == ["argo_attempt_1_log_tail.txt"]


# --- how the last attempt ends


@scenario
def limit_reached(site: Site, history: History) -> None:
    job = site.launch(SLEEPS, {"argo": {"rejoin": 1}}).expect_running()
    drain(job)
    job.expect_attempt(2)
    drain(job)
    job.expect_end(Reason.DISRUPTED, 104, NOTICE_SECONDS)
    assert "attempt 2 of 2" in verdict_of(job).detail
    expect_attempts(job, history, 2)


@scenario
def second_attempt_fails(site: Site, history: History) -> None:
    job = site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
    drain(job)
    job.expect_attempt(2).exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    expect_attempts(job, history, 2)


@scenario.variants(
    runs={"server": ServerJob.RUNS, "reason": Reason.PROGRAM_REPORTED, "code": 101},
    gone={"server": ServerJob.GONE, "reason": Reason.DISRUPTED, "code": 104},
)
def second_attempt_finds_no_server(site: Site, history: History, server: ServerJob, reason: Reason, code: int) -> None:
    """FLARE's program exits with 101 if it finds no process of the server's job: then the loss is the reason."""
    job = site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
    drain(job)
    job.expect_attempt(2)
    site.server_jobs.answer(job.id, server)
    job.exit_program(101)
    job.expect_end(reason, code, NOTICE_SECONDS)
    expect_attempts(job, history, 2)


@scenario
def second_attempt_finds_no_node(cluster: Cluster, history: History) -> None:
    """The loss stays the reason, with what kept the second attempt from its start."""
    with Site(cluster, argo=ALLOWED) as own_site:
        with cluster.offer_gpus(1):
            job = own_site.launch(SLEEPS, {**AGAIN, "num_of_gpus": 1, "pending_timeout": 3}).expect_running()
        drain(job)
        job.expect_end(Reason.DISRUPTED, 104, START_SECONDS)
        detail = verdict_of(job).detail
        assert "attempt 2 of 3 did not start (SHORTAGE)" in detail
        assert "nvidia.com/gpu" in detail
        expect_attempts(job, history, 2)


@scenario
def second_attempt_is_refused_by_its_node(cluster: Cluster, history: History) -> None:
    """The third one follows when the scheduler has had time to see what the kubelet has against the pod."""
    label = {"flargo.test/takes-attempts": "yes"}
    study = template_study(nodeName=cluster.node_name, nodeSelector=label)
    with Site(cluster, studies={"picky": study}, argo=ALLOWED) as own_site:
        with cluster.label_node(**label):
            job = own_site.launch(EXITS_ON_REQUEST, AGAIN, study="picky").expect_running()
        with LogLines() as logs:
            drain(job)
            refused = "attempt 2 of 3 lost (NODE_REFUSED)"
            eventually(lambda: any(refused in line for line in logs.about(job.id)), START_SECONDS, "it is refused")
        with cluster.label_node(**label):
            job.expect_attempt(3)
        expect_success(job, history, 3)


@scenario
def second_attempt_is_refused(cluster: Cluster, history: History) -> None:
    with Site(cluster, argo=ALLOWED) as own_site:
        job = own_site.launch(SLEEPS, AGAIN).expect_running()
        with cluster.deny("workflows", own_site.federation):
            drain(job)
            job.expect_end(Reason.DISRUPTED, 104, START_SECONDS)
        assert "attempt 2 of 3 did not start (LAUNCH_FAILED)" in verdict_of(job).detail
        assert "not on a Tuesday" in verdict_of(job).detail
        expect_attempts(job, history, 1)


# --- FLARE ends the job


@scenario.variants(
    abort={"end": Job.abort, "reason": Reason.ABORTED, "code": 9},
    cleanup={"end": Job.cleanup, "reason": Reason.CLEANED_UP, "code": 1},
)
def ended_between_attempts(site: Site, history: History, end: Any, reason: Reason, code: int) -> None:
    job = site.launch(SLEEPS, AGAIN).expect_running()
    site.server_jobs.answer(job.id, ServerJob.UNKNOWN)
    drain(job)
    job.expect_gap()
    end(job)
    job.expect_end(reason, code, within=1)
    site.server_jobs.answer(job.id, ServerJob.RUNS)
    time.sleep(3)
    expect_attempts(job, history, 1)


@scenario
def abort_while_the_pod_is_drained(site: Site, history: History) -> None:
    """The loss has not been noticed, or not been told yet."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS, AGAIN, study="short-grace").expect_running()
    drain(job)
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    time.sleep(3)
    expect_attempts(job, history, 1)


@scenario
def abort_while_the_second_attempt_is_submitted(cluster: Cluster, history: History) -> None:
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire, argo=ALLOWED) as own_site:
        job = own_site.launch(SLEEPS, AGAIN).expect_running()
        delay = wire.delay(Match("create", "workflows"), 3)
        drain(job)
        eventually(lambda: delay.hits, START_SECONDS, "the create request is on its way")
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
        expect_attempts(job, history, 1)


@scenario.variants(heeds={"code": SLEEPS}, deaf={"code": IGNORES_SIGTERM + SLEEPS})
def abort_while_the_second_attempt_runs(site: Site, history: History, code: str) -> None:
    job = site.launch(code, AGAIN, study="short-grace").expect_running()
    drain(job)
    job.expect_attempt(2).abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    expect_attempts(job, history, 2)


@scenario
def parent_is_shut_down_between_attempts(cluster: Cluster, history: History) -> None:
    with Site(cluster, argo=ALLOWED) as own_site:
        job = own_site.launch(SLEEPS, AGAIN).expect_running()
        own_site.server_jobs.answer(job.id, ServerJob.UNKNOWN)
        drain(job)
        job.expect_gap()
        own_site.shut_down()
        job.expect_end(Reason.PARENT_ENDED, 104, within=1)
        expect_attempts(job, history, 1)


@scenario
def parent_is_killed_while_the_second_attempt_runs(cluster: Cluster, history: History) -> None:
    """The parent's next run ends the attempt, whose name is not the job's own."""
    with Site(cluster, argo=ALLOWED) as own_site:
        job = own_site.launch(IGNORES_SIGTERM + SLEEPS, AGAIN).expect_running()
        drain(job)
        job.expect_attempt(2)
        own_site.restart_parent()
        cluster.wait_until_clear(job.id, job.name, within=30)
        assert history.most_programs(job.id) == 1


# --- the server's job


@scenario
def servers_job_has_ended_before_the_second_attempt(site: Site, history: History) -> None:
    job = site.launch(SLEEPS, AGAIN).expect_running()
    site.server_jobs.answer(job.id, ServerJob.GONE)
    drain(job)
    job.expect_end(Reason.DISRUPTED, 104, NOTICE_SECONDS)
    assert f"not started again: {SERVER_IS_GONE}" in verdict_of(job).detail
    expect_attempts(job, history, 1)


@scenario
def servers_job_ends_before_the_second_attempt_runs(site: Site, history: History) -> None:
    """The program would look for the server's process for a minute, and then fail a job that may have finished."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS, AGAIN, study="short-grace").expect_running()
    site.server_jobs.answer(job.id, ServerJob.RUNS, ServerJob.GONE)
    drain(job)
    job.expect_end(Reason.DISRUPTED, 104, START_SECONDS)
    assert f"attempt 2 of 3 was ended: {SERVER_IS_GONE}" in verdict_of(job).detail
    expect_attempts(job, history, 2)


@scenario
def server_cannot_be_reached_for_a_moment(site: Site, history: History) -> None:
    job = site.launch(EXITS_ON_REQUEST, AGAIN).expect_running()
    site.server_jobs.answer(job.id, ServerJob.UNKNOWN, ServerJob.UNKNOWN, ServerJob.RUNS)
    drain(job)
    job.expect_attempt(2)
    expect_success(job, history, 2)


# --- not started again


@scenario
def drained_without_the_jobs_consent(site: Site) -> None:
    job = site.launch(SLEEPS).expect_running()
    drain(job)
    job.expect_end(Reason.DISRUPTED, 104, NOTICE_SECONDS)
    expect_one_attempt(job)


@scenario
def drained_without_the_sites_permission(cluster: Cluster) -> None:
    with Site(cluster) as own_site:
        job = own_site.launch(SLEEPS, AGAIN).expect_running()
        assert "this site grants 0" in job.workflow["metadata"]["annotations"][Annotation.REFUSED_ATTEMPTS]
        drain(job)
        job.expect_end(Reason.DISRUPTED, 104, NOTICE_SECONDS)
        expect_one_attempt(job)


OWN_ENDS = {row.name: row for row in ROWS}


@scenario.variants(
    exit_code_1={"row": OWN_ENDS["exit code 1"]},
    out_of_memory={"row": OWN_ENDS["out of memory"]},
    past_its_deadline={"row": OWN_ENDS["past its deadline"]},
    more_on_disk_than_its_limit={"row": OWN_ENDS["more on disk than its limit"]},
    no_room={"row": OWN_ENDS["not enough cpu, no patience"]},
)
def own_end(site: Site, row: Row) -> None:
    """What the job itself has brought about would happen to the next attempt, too."""
    more = {"study": row.study} if row.study else {}
    job = site.launch(row.program or SLEEPS, {**row.spec, **AGAIN}, **more)
    job.expect_end(row.reason, row.code, row.within)
    assert ("a limit of its own" in verdict_of(job).detail) is (row.reason is Reason.EVICTED)
    expect_one_attempt(job)


@scenario
def terminated_by_hand(site: Site, cluster: Cluster) -> None:
    job = site.launch(SLEEPS, AGAIN).expect_running()
    cluster.argo("terminate", job.name)
    job.expect_end(Reason.SHUT_DOWN, 9, NOTICE_SECONDS)
    expect_one_attempt(job)


@scenario.variants(
    pod={"kind": "pod", "reason": Reason.POD_DELETED},
    workflow={"kind": "workflows.argoproj.io", "reason": Reason.WORKFLOW_DELETED},
)
def deleted_by_hand(site: Site, cluster: Cluster, kind: str, reason: Reason) -> None:
    """Whoever deletes a job's objects may mean the job."""
    job = site.launch(SLEEPS, AGAIN).expect_running()
    eventually(lambda: step_phase(job) == "Running", NOTICE_SECONDS, "Argo has seen the pod run")
    cluster.delete(kind, job.pod if kind == "pod" else job.workflow)
    job.expect_end(reason, 104, NOTICE_SECONDS)
    assert ("argo.rejoin_deleted" in verdict_of(job).detail) is (kind == "pod")
    job.expect_nothing_left()
    assert [item["metadata"]["name"] for item in job.workflows] == ([job.name] if kind == "pod" else [])


@scenario.variants(terminated={"command": "terminate"}, stopped={"command": "stop"}, deleted={"command": ""})
def ended_by_hand_while_it_is_drained(site: Site, cluster: Cluster, command: str) -> None:
    """The drain stays the reason, but a person wants no other attempt."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS, AGAIN, study="short-grace").expect_running()
    drain(job)
    eventually(lambda: job.launched_job.is_stopping, NOTICE_SECONDS, "the drain is noticed")
    if command:
        cluster.argo(command, job.name)
    else:
        cluster.delete("workflows.argoproj.io", job.workflow)
    assert job.launched_job.verdict is None, "the program has ended too early"
    job.expect_end(Reason.DISRUPTED, 104, NOTICE_SECONDS)
    assert "not started again: its Workflow was terminated or deleted" in verdict_of(job).detail
    job.expect_nothing_left()
    assert len(job.workflows) == (1 if command else 0)
    assert site.server_jobs.probes(job.id) == 0


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
