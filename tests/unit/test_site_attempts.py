"""The attempts of a job as people see them: one row, the whole story, and no failure that is not final."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.api import Api, Kind
from flargo.status.diagnosis import Diagnosis, Stage
from flargo.status.reasons import Reason
from flargo.tools.cli import jobs, terminate, why
from flargo.tools.jobs.archive_reader import ClusterAndArchiveReader
from flargo.tools.jobs.attempts import fold_attempts
from flargo.tools.jobs.explanation import explain
from flargo.tools.jobs.reader import ClusterReader, find_attempts, find_job
from flargo.tools.jobs.selection import select_job
from flargo.tools.jobs.site_job import SiteJob, site_jobs
from flargo.tools.jobs.sweepable import find_sweepable
from flargo.tools.jobs.table import build_rows, columns
from tests.harness.command_line import run
from tests.harness.fake_api import RecordingApi
from tests.harness.objects import (
    FAILED_STATUS,
    RUNNING,
    Object,
    attempt_workflow,
    job_workflow,
    lost_attempt,
    pod,
    terminated_state,
)

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)
NAMES = ["job-site", "job-site-r1", "job-site-r2"]


def folded(*workflows: Object, pods: Sequence[Object] = ()) -> list[SiteJob]:
    return fold_attempts(site_jobs(workflows, pods))


def only(*workflows: Object, pods: Sequence[Object] = ()) -> SiteJob:
    (job,) = folded(*workflows, pods=pods)
    return job


def column(jobs: Sequence[SiteJob], name: str) -> list[str]:
    """Return the cells of a column of the table; none if the table does not have it."""
    shown = [each for each in columns(jobs) if each.name == name]
    return [cell for row in build_rows(jobs, NOW, shown) for cell in row]


def running_pod(number: int = 2) -> Object:
    name = NAMES[number - 1]
    item = pod(name, uid=f"p{number}", owner=f"w{number}", main=RUNNING, phase="Running")
    item["spec"]["nodeName"] = f"n{number}"
    return item


# One row for a job


def test_a_job_is_its_latest_attempt() -> None:
    workflows = [lost_attempt(1), lost_attempt(2, reason="NODE_LOST"), attempt_workflow(3)]
    for order in itertools.permutations(workflows):
        job = only(*order, pods=[running_pod(3)])
        assert [attempt.workflow.name for attempt in job.attempts] == NAMES
        assert (job.state, job.reason, job.number, job.max_attempts) == ("RUNNING", None, 3, 3)


def test_only_jobs_that_may_have_attempts_show_them() -> None:
    plain, job = job_workflow("plain", "22222222-bbbb", uid="w9"), attempt_workflow()
    assert column(folded(plain), "ATTEMPT") == []
    assert sorted(column(folded(plain, job), "ATTEMPT")) == ["-", "1 of 3"]
    assert [row.as_dict()["attempts"] for row in folded(plain)] == [None]


def test_json_has_the_earlier_attempts() -> None:
    attempts = only(lost_attempt(1), attempt_workflow(2), pods=[running_pod()]).as_dict()["attempts"]
    (earlier,) = attempts.pop("earlier")
    assert attempts == {"number": 2, "max": 3}
    assert earlier == {
        "number": 1,
        "state": "ENDED",
        "workflow": "job-site",
        "reason": "DISRUPTED",
        "detail": "Evicted",
        "exit_code": None,
        "created": "2026-01-01T00:00:00+00:00",
        "started": None,
        "ended": "2026-01-01T00:00:30+00:00",
        "pod": None,
        "node": "n1",
        "archived": False,
    }


def test_attempts_of_other_sites_and_jobs_stay_apart() -> None:
    others = [
        attempt_workflow(2, uid="w5", site="site-2"),
        attempt_workflow(2, uid="w6", job_id="22222222-bbbb"),
        attempt_workflow(2, uid="w7"),
    ]
    others[2]["metadata"]["labels"]["flargo.dev/federation"] = "another"
    assert len(folded(lost_attempt(1), *others)) == 4


def test_a_lost_nodes_pod_is_part_of_its_attempt() -> None:
    """The pod stays on the cluster, still running as far as anybody knows, until its node is back."""
    lost = attempt_workflow(1, shutdown="Terminate", phase="Failed", notes={"flargo.dev/ending": "DISRUPTED"})
    job = only(lost, attempt_workflow(2), pods=[running_pod(1), running_pod(2)])
    assert (job.earlier[0].stage, job.earlier[0].reason, job.stage) == (Stage.RUNNING, Reason.DISRUPTED, Stage.RUNNING)
    assert job.node == "n2"


def test_a_job_keeps_its_place_in_the_list() -> None:
    later = job_workflow("later", "22222222-bbbb", uid="w9")
    later["metadata"]["creationTimestamp"] = "2026-01-01T00:00:20Z"
    names = [job.workflow.name for job in folded(lost_attempt(1), later, attempt_workflow(2))]
    assert names == ["job-site-r1", "later"]


# Labels that anybody may write


@pytest.mark.parametrize("number", ["0", "-1", "4", "1.0", "²", "٣", "1" * 30, "", "x", "{{1}}", " 1", None, 2])
def test_an_invalid_number_is_ignored(number: Any) -> None:
    forged = attempt_workflow(2, uid="w8")
    forged["metadata"]["labels"]["flargo.dev/attempt-number"] = number
    rows = folded(lost_attempt(1), forged)
    assert [(row.number, row.max_attempts) for row in rows] == [(1, 3), (1, 1)]


@pytest.mark.parametrize("most", ["0", "101", "1e3", "9" * 19, "", "three", None, ["3"]])
def test_an_invalid_limit_is_ignored(most: Any) -> None:
    forged = attempt_workflow(1)
    forged["metadata"]["annotations"]["flargo.dev/max-attempts"] = most
    assert (only(forged).number, only(forged).max_attempts) == (1, 1)


def test_a_forged_attempt_hides_nothing_that_runs() -> None:
    forged = attempt_workflow(100, of=100, created="2026-01-01T00:09:00Z")
    rows = folded(lost_attempt(1), attempt_workflow(2), forged, pods=[running_pod(2)])
    assert {row.workflow.name for row in rows} == {"job-site-r1", "job-site-r99"}
    waiting = folded(attempt_workflow(1), forged)
    assert {row.workflow.name for row in waiting} == {"job-site", "job-site-r99"}


def test_a_resubmitted_copy_is_a_row_of_its_own() -> None:
    """Argo's Resubmit copies labels and annotations to a Workflow of another name."""
    copy = attempt_workflow(1, created="2026-01-01T00:09:00Z")
    copy["metadata"] |= {"name": "job-site-x7f2k", "uid": "w8"}
    rows = folded(lost_attempt(1), attempt_workflow(2), copy)
    assert [[attempt.workflow.name for attempt in row.attempts] for row in rows] == [NAMES[:2], ["job-site-x7f2k"]]


def test_an_earlier_launch_of_the_job_is_a_row_of_its_own() -> None:
    again = attempt_workflow(1, created="2026-01-01T00:09:00Z", uid="w8")
    rows = folded(lost_attempt(2, phase="Failed"), again)
    assert [row.workflow.uid for row in rows] == ["w2", "w8"]


ATTEMPTS = st.builds(
    lambda number, most, created, kind: (number, most, created, kind),
    st.integers(-1, 5),
    st.integers(-1, 5),
    st.integers(0, 9),
    st.sampled_from(["runs", "lost", "waits"]),
)


@given(st.lists(ATTEMPTS, max_size=8))
def test_no_workflow_is_lost_or_shown_twice(rows: list[tuple[int, int, int, str]]) -> None:
    """Whatever the labels say, each Workflow is there once, and each that has not ended has a row of its own."""
    workflows, pods = [], []
    for index, (number, most, created, kind) in enumerate(rows):
        make = lost_attempt if kind == "lost" else attempt_workflow
        item = make(1, of=most, created=f"2026-01-01T00:00:0{created}Z", uid=f"w{index}")
        item["metadata"]["name"] = f"job-{index}"
        item["metadata"]["labels"]["flargo.dev/attempt-number"] = str(number)
        workflows.append(item)
        if kind == "runs":
            pods.append(pod(f"job-{index}", uid=f"p{index}", owner=f"w{index}", main=RUNNING, phase="Running"))
    jobs_ = folded(*workflows, pods=pods)
    uids = [attempt.workflow.uid for job in jobs_ for attempt in job.attempts]
    assert sorted(uids) == [f"w{index}" for index in range(len(rows))]
    unfinished = {f"w{index}" for index, row in enumerate(rows) if row[3] != "lost"}
    assert unfinished <= {job.workflow.uid for job in jobs_}


# Between two attempts


@pytest.mark.parametrize("reason", ["DISRUPTED", "NODE_LOST", "EVICTED", "POD_DELETED"])
def test_a_lost_attempt_is_no_final_failure(reason: str) -> None:
    job = only(lost_attempt(1, reason=reason))
    row = job.as_dict()
    assert (row["state"], row["reason"], row["code"]) == ("LOST", reason, None)
    assert column([job], "STATE") == ["LOST"]


@pytest.mark.parametrize("reason", [each for each in Reason if each.code is not None])
def test_other_ends_are_final(reason: Reason) -> None:
    losses = {Reason.DISRUPTED, Reason.NODE_LOST, Reason.EVICTED, Reason.POD_DELETED}
    assert only(lost_attempt(1, reason=reason.name)).may_start_again == (reason in losses)


def test_the_last_possible_loss_is_final() -> None:
    job = only(lost_attempt(1), lost_attempt(2), lost_attempt(3))
    assert (job.state, job.as_dict()["code"]) == ("ENDED", 104)


def test_a_job_without_further_attempts_is_never_lost() -> None:
    job = only(lost_attempt(1, of=1))
    assert (job.state, job.as_dict()["code"], job.as_dict()["attempts"]) == ("ENDED", 104, None)


@pytest.mark.parametrize("is_pressure", [True, False])
def test_an_eviction_for_the_jobs_own_excess_is_final(*, is_pressure: bool) -> None:
    disruption = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    evicted_pod = pod(phase="Failed", reason="Evicted", conditions=[disruption] if is_pressure else [])
    job = only(attempt_workflow(1, **FAILED_STATUS), pods=[evicted_pod])
    assert job.reason is Reason.EVICTED
    assert job.may_start_again == is_pressure


def test_a_pod_that_a_node_under_pressure_rejects_is_lost() -> None:
    """The kubelet sets no condition on such a pod, and the launcher starts the job again."""
    message = "Pod was rejected: The node had condition: [DiskPressure]. "
    rejected_pod = pod(phase="Failed", reason="Evicted", message=message)
    job = only(attempt_workflow(1, **FAILED_STATUS), pods=[rejected_pod])
    assert (job.reason, job.state) == (Reason.EVICTED, "LOST")


@pytest.mark.parametrize(("number", "state"), [(1, "ENDED"), (2, "LOST"), (3, "ENDED")])
def test_a_later_attempt_that_its_node_refuses_may_be_tried_again(number: int, state: str) -> None:
    job = only(lost_attempt(number, reason="NODE_REFUSED"))
    assert (job.reason, job.state) == (Reason.NODE_REFUSED, state)


def test_why_says_that_a_lost_job_may_go_on() -> None:
    explanation = explain(only(lost_attempt(1)), [])
    assert explanation.summary.endswith("This was attempt 1 of 3, and the job may be started again.")
    assert "Submit the job again" not in explanation.remedy
    assert "parent's log" in explanation.remedy


def test_why_says_that_the_site_grants_fewer_attempts() -> None:
    """Also of a job that has one attempt only, which nothing else tells from a job that asks for no other."""
    note = {"flargo.dev/refused-attempts": "this site grants 0\n\x1b[31m" + "x" * 2000}
    for job in (only(job_workflow(notes=note)), only(lost_attempt(2, of=2, notes=note))):
        texts = [text for of, text in explain(job, []).evidence if of == "attempts"]
        assert texts[-1].startswith("this site grants 0 ")
        assert len(texts[-1]) <= 1000
        assert texts[-1].isprintable()
    assert "attempts" not in dict(explain(only(job_workflow()), []).evidence)


# What the parent has noted


def noted(verdict: str, number: int = 1, **more: Any) -> SiteJob:
    notes = {"flargo.dev/verdict": verdict, "flargo.dev/verdict-detail": "not started again"}
    return only(lost_attempt(number, notes=notes, **more))


def test_the_parents_note_makes_a_loss_final() -> None:
    job = noted("DISRUPTED")
    row = job.as_dict()
    assert (row["state"], row["reason"], row["code"], row["detail"]) == ("ENDED", "DISRUPTED", 104, "not started again")


def test_the_note_is_what_flare_was_told() -> None:
    """The last attempt found no node, so the loss before it is the job's end; or the job was aborted in between."""
    assert noted("ABORTED").as_dict()["code"] == 9
    never_started = noted("DISRUPTED", reason="SHORTAGE")
    assert (never_started.as_dict()["reason"], never_started.as_dict()["code"]) == ("DISRUPTED", 104)
    assert noted("SUCCEEDED").as_dict()["code"] == 0


@pytest.mark.parametrize("reason", ["", "NO_SUCH_REASON", "PROGRAM_REPORTED", "name", "{{x}}"])
def test_an_unknown_note_is_ignored(reason: str) -> None:
    assert noted(reason).may_start_again


def test_a_note_on_a_running_workflow_is_ignored() -> None:
    forged = attempt_workflow(1, notes={"flargo.dev/verdict": "SUCCEEDED"})
    job = only(forged, pods=[running_pod(1)])
    assert (job.reason, job.noted_verdict) == (None, None)


def test_a_note_on_a_job_with_one_attempt_is_ignored() -> None:
    assert only(lost_attempt(1, of=1, notes={"flargo.dev/verdict": "SUCCEEDED"})).reason is Reason.DISRUPTED


# The whole story


def test_why_tells_each_attempt() -> None:
    workflows = [lost_attempt(1), lost_attempt(2, reason="NODE_LOST"), attempt_workflow(3)]
    explanation = explain(only(*workflows, pods=[running_pod(3)]), [])
    assert explanation.summary == "Nothing is wrong: the job is running. This is attempt 3 of 3."
    evidence = dict(explanation.evidence)
    assert evidence["attempt 1"] == (
        "DISRUPTED on node n1 at 2026-01-01 00:00:30 UTC after 30 s; Evicted; Workflow job-site;"
        " attempt 2 followed 30 s later"
    )
    assert evidence["attempt 2"] == (
        "NODE_LOST on node n2 at 2026-01-01 00:01:30 UTC after 30 s; Evicted; Workflow job-site-r1;"
        " attempt 3 followed 30 s later"
    )
    assert "attempt 3" not in evidence


def test_why_says_which_attempts_are_gone() -> None:
    evidence = explain(only(attempt_workflow(3), pods=[running_pod(3)]), []).evidence
    assert evidence[0] == (
        "attempts",
        "2 earlier ones are not shown: their Workflows no longer exist, or have not ended",
    )


def test_text_of_an_attempt_is_limited_and_inert() -> None:
    hostile = lost_attempt(1, notes={"flargo.dev/ending-detail": "\x1b[31m\n" + "x" * 100_000})
    hostile["status"]["nodes"]["job"]["hostNodeName"] = "n\n1\x1b"
    (text,) = [text for of, text in explain(only(hostile, attempt_workflow(2)), []).evidence if of == "attempt 1"]
    assert len(text) <= 1000
    assert text.isprintable()


@pytest.mark.parametrize("query", ["11111111-aaaa", "1111", *NAMES[:2]])
def test_any_attempts_workflow_names_the_job(query: str) -> None:
    (job,) = select_job(query, folded(lost_attempt(1), attempt_workflow(2)))
    assert job.workflow.name == "job-site-r1"
    assert select_job("1111", [job], "job-site") == [job]


# Readers and commands


def cluster(*items: Object, pods: Sequence[Object] = ()) -> RecordingApi:
    return RecordingApi(*((Kind.WORKFLOW, item) for item in items), *((Kind.POD, item) for item in pods))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use_cluster(api: RecordingApi) -> RecordingApi:
        def api_for(**_: str | None) -> Api:
            return api

        for module in (jobs, terminate, why):
            monkeypatch.setattr(module, "api_for", api_for)
        return api

    return use_cluster


def test_logs_are_those_of_the_named_attempt() -> None:
    reader = ClusterReader(cluster(lost_attempt(1), attempt_workflow(2), pods=[running_pod()]))
    for query, name in (("1111", "job-site-r1"), ("job-site-r1", "job-site-r1"), ("job-site", "job-site")):
        (attempt,) = find_attempts(reader, query)
        assert attempt.workflow.name == name


def test_a_confirmed_job_keeps_its_attempts() -> None:
    uncertain = attempt_workflow(2, nodes={"job": {"type": "Pod", "phase": "Running"}})
    (job,) = find_job(ClusterReader(cluster(lost_attempt(1), uncertain)), "1111")
    assert [attempt.number for attempt in job.attempts] == [1, 2]
    assert job.state == "LOST"


def test_terminate_ends_the_running_attempt(use: Any) -> None:
    api = use(cluster(lost_attempt(1), attempt_workflow(2), pods=[running_pod()]))
    result = run("terminate", "job-site")
    assert (result.exit_code, result.stdout) == (0, "site-1: Workflow job-site-r1 is being terminated\n")
    assert [change[2] for change in api.changes] == ["job-site-r1"]


def test_terminate_fails_between_two_attempts(use: Any) -> None:
    """Nothing runs that could be ended, and the next attempt may begin a second later."""
    api = use(cluster(lost_attempt(1)))
    result = run("terminate", "1111")
    assert (result.exit_code, api.changes) == (1, [])
    assert "job-site has already ended: DISRUPTED; attempt 2 of 3 may follow" in result.stdout
    (row,) = json.loads(run("terminate", "1111", "--json").stdout)
    assert (row["did"], row["state"]) == ("OVER", "LOST")
    assert "may follow" in row["problem"]


def test_terminate_warns_of_the_attempt_after_one_that_the_parent_ends(use: Any) -> None:
    """The shutdown of a lost attempt's Workflow is the parent's own, so another attempt follows all the same."""
    shut_down = lost_attempt(1)
    shut_down["spec"]["shutdown"] = "Terminate"
    shut_down["status"]["phase"] = "Running"
    api = use(cluster(shut_down))
    result = run("terminate", "1111")
    assert (result.exit_code, api.changes) == (1, [])
    assert "job-site is already being terminated: DISRUPTED; attempt 2 of 3 may follow" in result.stdout


def test_why_prints_the_attempt_and_no_false_code(use: Any) -> None:
    use(cluster(lost_attempt(1), attempt_workflow(2), pods=[running_pod()]))
    lines = run("why", "1111").stdout.splitlines()
    assert "site-1 (client), attempt 2 of 3: RUNNING" in lines
    assert any(line.startswith("  attempt 1      DISRUPTED on node n1") for line in lines)
    use(cluster(lost_attempt(1)))
    assert "site-1 (client), attempt 1 of 3: LOST (DISRUPTED)" in run("why", "1111").stdout.splitlines()
    use(cluster(lost_attempt(1, of=1)))
    assert "site-1 (client): DISRUPTED, FLARE hears 104" in run("why", "1111").stdout.splitlines()


def test_a_watch_tells_one_story(capsys: pytest.CaptureFixture[str]) -> None:
    """A new attempt, and the disappearance of an old one's Workflow, are no end of the job."""
    first, second = attempt_workflow(1), attempt_workflow(2)
    snapshots = [
        folded(first, pods=[running_pod(1)]),
        folded(lost_attempt(1)),
        folded(lost_attempt(1), second, pods=[running_pod(2)]),
        folded(second, pods=[running_pod(2)]),
        [],
    ]
    jobs._write_changes(iter(snapshots), None)
    lines = [line.split(maxsplit=3)[3] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "RUNNING    attempt 1 of 3",
        "LOST  DISRUPTED  attempt 1 of 3",
        "RUNNING    attempt 2 of 3",
        "GONE    attempt 2 of 3",
    ]


def test_the_archive_adds_earlier_attempts() -> None:
    """Their Workflows are deleted a week after their end, and a job may run for longer."""
    archived = [lost_attempt(1), lost_attempt(2), lost_attempt(1, job_id="22222222-bbbb", uid="w8")]
    outlines = [replace(job, is_archived=True, diagnosis=Diagnosis(Stage.ENDED)) for job in site_jobs(archived, [])]

    class Archive:
        where, read_problem = "in the archive", ""

        def site_jobs(self, _: str, __: str = "") -> list[SiteJob]:
            return fold_attempts(outlines)

        def confirmed(self, job: SiteJob) -> SiteJob:
            assert not job.earlier
            return replace(job, is_archived=True)

        def events(self, _: SiteJob) -> Sequence[Object]:
            return ()

        def log(self, _: SiteJob) -> str:
            return ""

    on_cluster = ClusterReader(cluster(lost_attempt(2), attempt_workflow(3), pods=[running_pod(3)]))
    reader = ClusterAndArchiveReader(on_cluster, Archive())
    rows = [reader.confirmed(job) for job in reader.site_jobs("")]
    assert [[(each.number, each.is_archived) for each in row.attempts] for row in rows] == [
        [(1, True), (2, False), (3, False)],
        [(1, True)],
    ]
    assert rows[1].state == "ENDED", "no parent begins another attempt that long after the loss"


def test_sweep_looks_at_each_attempt() -> None:
    items = [lost_attempt(1), attempt_workflow(2)]
    pods = [running_pod(1), running_pod(2)]
    swept = find_sweepable(site_jobs(items, pods), pods, NOW + timedelta(hours=1))
    assert [(each.kind, each.name) for each in swept] == [(Kind.POD, "job-site")]


def test_a_finished_attempt_that_failed_is_told_as_such() -> None:
    failed_pod = pod("job-site-r1", uid="p2", owner="w2", main=terminated_state(3), phase="Failed")
    job = only(lost_attempt(1), attempt_workflow(2, **FAILED_STATUS), pods=[failed_pod])
    row = job.as_dict()
    assert (row["state"], row["reason"], row["code"], row["exit_code"]) == ("ENDED", "PROGRAM_FAILED", 1, 3)
