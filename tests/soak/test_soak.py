"""The soak's plan, and the reports that its oracle allows."""

from dataclasses import replace

import pytest

from flargo.status.reasons import Reason
from flargo.terms import Role
from tests.soak.attempts import Attempts
from tests.soak.oracle import (
    Case,
    ContainerEnd,
    DoneIntervention,
    FaultPeriod,
    JobHistory,
    Report,
    allowed_reports,
    lateness,
)
from tests.soak.plan import (
    ENDINGS,
    MAX_REJOINS,
    FaultKind,
    Intervention,
    Program,
    ProgramKind,
    StartPoint,
    attempt_names,
    plan,
)
from tests.soak.restarts import LoggedVerdict, ParentRestart, allowed_ends, as_understood, why_lost

ENDED_AT = 100.0
SLEEPS = Program(ProgramKind.SLEEPS)
SUCCEEDED, FAILED, ABORTED = (Reason.SUCCEEDED, 0), (Reason.PROGRAM_FAILED, 1), (Reason.ABORTED, 9)
CLEANED_UP, SHUT_DOWN = (Reason.CLEANED_UP, 1), (Reason.SHUT_DOWN, 9)
POD_DELETED, DISRUPTED, TWICE = (Reason.POD_DELETED, 104), (Reason.DISRUPTED, 104), (Reason.RUN_TWICE, 104)


def test_a_seed_repeats_its_plan() -> None:
    assert plan(7, 200, 600) == plan(7, 200, 600) != plan(8, 200, 600)


def test_a_plan_has_every_kind_of_everything() -> None:
    rounds = plan(1, 200, 600).rounds
    jobs = [launch for each in rounds for launch in each.launches]
    assert [job.number for job in jobs] == list(range(1, 201))
    assert {job.program.kind for job in jobs} == set(ProgramKind)
    assert {each.intervention for job in jobs for each in job.interventions} == set(Intervention)
    assert {fault.kind for each in rounds for fault in each.faults} == set(FaultKind) - {FaultKind.CONTROLLER}
    assert all(job.interventions or job.program.own_end is not None for job in jobs), "it would run for ever"
    assert {job.rejoins for job in jobs} == set(range(MAX_REJOINS + 1))
    assert {job.role for job in jobs if job.rejoins} == {Role.CLIENT}
    assert {each.since for job in jobs for each in job.interventions} == set(StartPoint)


def test_the_controller_freezes_only_on_request() -> None:
    faults = [fault for each in plan(1, 20, 60, controller=True).rounds for fault in each.faults]
    assert FaultKind.CONTROLLER in {fault.kind for fault in faults}


def test_what_starts_a_second_program_explains_no_end() -> None:
    for each in set(Intervention) - ENDINGS:
        assert allowed_reports(ended_case(3, None, intervention_at(each, BEFORE))) == {FAILED}
        assert allowed_reports(ended_case(143, SLEEPS, intervention_at(each, BEFORE))) == set()


def ended_case(
    code: int, program: Program | None = None, *interventions: DoneIntervention, reason: str = "Error"
) -> Case:
    """Return the case of a program that ended in the second ENDED_AT, observed one second later."""
    end = ContainerEnd(code, reason, "", ENDED_AT, ENDED_AT + 1)
    return Case(
        program or Program(ProgramKind.EXITS, code), 90, interventions, JobHistory(1, 1, True, end), (), ENDED_AT + 20
    )


def intervention_at(intervention: Intervention, at: float, error: str = "") -> DoneIntervention:
    return DoneIntervention(intervention, at, at + 0.2, error)


BEFORE, RACE, AFTER = ENDED_AT - 5, ENDED_AT + 2, ENDED_AT + 15


@pytest.mark.parametrize(
    ("case", "reports"),
    [
        (ended_case(0), {SUCCEEDED}),
        (ended_case(3), {FAILED}),
        (ended_case(9), {FAILED}),
        (ended_case(102), {(Reason.PROGRAM_REPORTED, 102)}),
        (ended_case(143, Program(ProgramKind.SIGNALS, 15)), {FAILED}),
        (ended_case(137, Program(ProgramKind.EXCEEDS_MEMORY), reason="OOMKilled"), {(Reason.OUT_OF_MEMORY, 104)}),
        # Only FLARE's abort outweighs a 0, and only if it came first.
        *(
            (ended_case(0, None, intervention_at(each, BEFORE)), {SUCCEEDED})
            for each in set(Intervention) - {Intervention.ABORT}
        ),
        (ended_case(0, None, intervention_at(Intervention.ABORT, BEFORE)), {ABORTED}),
        (ended_case(0, None, intervention_at(Intervention.ABORT, RACE)), {ABORTED, SUCCEEDED}),
        (ended_case(0, None, intervention_at(Intervention.ABORT, AFTER)), {SUCCEEDED}),
        (ended_case(102, None, intervention_at(Intervention.ABORT, BEFORE)), {(Reason.PROGRAM_REPORTED, 102)}),
        # A program that fails by itself, with interventions.
        (ended_case(3, None, intervention_at(Intervention.ABORT, BEFORE)), {ABORTED}),
        (ended_case(3, None, intervention_at(Intervention.TERMINATE, RACE)), {FAILED, SHUT_DOWN}),
        (ended_case(3, None, intervention_at(Intervention.TERMINATE, AFTER)), {FAILED}),
        (ended_case(3, None, intervention_at(Intervention.TERMINATE, BEFORE, "refused")), {FAILED}),
        (
            ended_case(143, Program(ProgramKind.EXITS, 3), intervention_at(Intervention.TERMINATE, ENDED_AT - 0.1)),
            {SHUT_DOWN},
        ),
        # A program that does not end by itself.
        (ended_case(143, SLEEPS), set()),
        (ended_case(143, SLEEPS, intervention_at(Intervention.DELETE_POD, BEFORE)), {POD_DELETED}),
        (ended_case(143, SLEEPS, intervention_at(Intervention.EVICT_POD, BEFORE)), {DISRUPTED}),
        (
            ended_case(
                143,
                SLEEPS,
                intervention_at(Intervention.TERMINATE, BEFORE),
                intervention_at(Intervention.ABORT, BEFORE),
            ),
            {ABORTED},
        ),
        (
            ended_case(
                143,
                SLEEPS,
                intervention_at(Intervention.CLEANUP, BEFORE),
                intervention_at(Intervention.TERMINATE, RACE),
            ),
            {CLEANED_UP},
        ),
        (
            ended_case(
                143, SLEEPS, intervention_at(Intervention.CLEANUP, BEFORE), intervention_at(Intervention.ABORT, RACE)
            ),
            {CLEANED_UP, ABORTED},
        ),
        (ended_case(137, SLEEPS, intervention_at(Intervention.TERMINATE, BEFORE)), {SHUT_DOWN}),
        (
            ended_case(
                3, Program(ProgramKind.HANDLES_SIGTERM, 3), intervention_at(Intervention.TERMINATE, ENDED_AT - 0.1)
            ),
            {SHUT_DOWN},
        ),
        (
            ended_case(
                0, Program(ProgramKind.HANDLES_SIGTERM, 0), intervention_at(Intervention.TERMINATE, ENDED_AT - 0.1)
            ),
            {SUCCEEDED},
        ),
    ],
)
def test_allowed_reports(case: Case, reports: set[Report]) -> None:
    assert allowed_reports(case) == reports


def test_only_interventions_explain_jobs_that_never_ran() -> None:
    never = Case(Program(ProgramKind.EXITS, 0), 90, (), JobHistory(), (), ENDED_AT)
    assert allowed_reports(never) == set()
    assert allowed_reports(replace(never, interventions=[intervention_at(Intervention.TERMINATE, 91)])) == {SHUT_DOWN}


def test_a_second_pod_may_be_reported() -> None:
    twice = ended_case(143, SLEEPS, intervention_at(Intervention.DELETE_POD, BEFORE))
    assert allowed_reports(replace(twice, history=replace(twice.history, pod_count=2))) == {POD_DELETED, TWICE}


def test_a_program_in_two_pods_ran_twice() -> None:
    """The second run's end, and the abort with which the soak had to end it, are not what FLARE may hear."""
    first, again = (
        ended_case(143, SLEEPS, intervention_at(Intervention.EVICT_POD, BEFORE)),
        ContainerEnd(0, "", "", ENDED_AT + 9, ENDED_AT + 10),
    )
    outage = FaultPeriod(FaultKind.DOWN, ENDED_AT - 3, ENDED_AT + 10)
    last = replace(intervention_at(Intervention.ABORT, ENDED_AT + 5), is_planned=False)
    history = replace(first.history, pod_count=2, started_count=2, first_pod_gone_at=ENDED_AT + 2, last_end=again)
    twice = replace(first, history=history, interventions=[*first.interventions, last], faults=[outage])
    assert allowed_reports(twice) == {DISRUPTED, POD_DELETED, TWICE}


def test_a_program_only_in_the_second_pod() -> None:
    """The launcher may have seen that the first pod's program did not begin; then the second pod is the job's."""
    again = ContainerEnd(9, "Error", "", ENDED_AT, ENDED_AT + 1)
    history = JobHistory(2, 1, False, None, ENDED_AT - 10, again)
    case = Case(
        Program(ProgramKind.EXITS, 9), 80, [intervention_at(Intervention.DELETE_POD, 85)], history, (), ENDED_AT + 20
    )
    assert allowed_reports(case) == {POD_DELETED, TWICE, FAILED}
    began = replace(case, history=replace(history, first_pod_started=True))
    assert allowed_reports(began) == {POD_DELETED, TWICE}


def test_exit_code_may_be_missed_during_fault() -> None:
    case = ended_case(0, None, intervention_at(Intervention.DELETE_POD, BEFORE))
    case = replace(case, history=replace(case.history, first_pod_gone_at=ENDED_AT + 3))
    assert allowed_reports(case) == {SUCCEEDED}
    outage = FaultPeriod(FaultKind.DOWN, ENDED_AT - 3, ENDED_AT + 10)
    assert allowed_reports(replace(case, faults=[outage])) == {SUCCEEDED, POD_DELETED}


def test_an_evicted_pod_that_was_never_observed() -> None:
    history = JobHistory(1, 0, False, None, ENDED_AT)
    case = Case(
        Program(ProgramKind.EXITS, 101), 80, [intervention_at(Intervention.EVICT_POD, 85)], history, (), ENDED_AT + 6
    )
    assert allowed_reports(case) == {DISRUPTED}
    argos = (Reason.ARGO_FAILED, 104)
    assert allowed_reports(replace(case, faults=[FaultPeriod(FaultKind.DOWN, 84, 92)])) == {
        DISRUPTED,
        POD_DELETED,
        argos,
    }


def test_lateness_counts_from_the_knowable_end() -> None:
    assert lateness(ended_case(3)) == (19, 30)
    outage = FaultPeriod(FaultKind.DOWN, ENDED_AT - 3, ENDED_AT + 10)
    assert lateness(replace(ended_case(3), faults=[outage])) == (10, 50)


# --- jobs whose programs may be started again

FIRST, SECOND, THIRD = attempt_names("w")
ENDS = {FIRST: 100.0, SECOND: 120.0, THIRD: 140.0}
"""When the program of each attempt ended. The next one's Workflow appeared three seconds later."""


def attempt(name: str, code: int, reason: str = "Error") -> JobHistory:
    """Return the history of an attempt whose program ran for five seconds."""
    ended_at = ENDS[name]
    end = ContainerEnd(code, reason, "", ended_at, ended_at + 1)
    return JobHistory(
        1, 1, True, end, workflow_at=ended_at - 17, name=name, started_at=ended_at - 5, over_at=ended_at + 1
    )


def drain(name: str) -> DoneIntervention:
    return DoneIntervention(Intervention.EVICT_POD, ENDS[name] - 1, ENDS[name] - 0.5, target=name)


def attempts(
    *histories: JobHistory, done: tuple[DoneIntervention, ...] = (), at_most: int = 3, program: Program = SLEEPS
) -> Attempts:
    """Return a job with these attempts, of which the last one's end was told five seconds after it."""
    verdict_at = ENDS[histories[-1].name] + 5
    return Attempts(Case(program, 80, done, JobHistory(), (), verdict_at), histories, at_most)


def test_a_job_ends_as_its_last_attempt_did() -> None:
    """The reports about attempts that were lost are no ends of the job."""
    for code, program, report in (
        (0, Program(ProgramKind.EXITS, 0), SUCCEEDED),
        (3, Program(ProgramKind.EXITS, 3), FAILED),
        (137, Program(ProgramKind.EXCEEDS_MEMORY), (Reason.OUT_OF_MEMORY, 104)),
    ):
        reason = "OOMKilled" if code == 137 else "Error"
        job = attempts(attempt(FIRST, 143), attempt(SECOND, code, reason), done=(drain(FIRST),), program=program)
        assert job.allowed_ends() == {report}
        assert not job.problems()


def test_a_drain_is_an_end_only_after_the_last_attempt() -> None:
    lost = attempts(attempt(FIRST, 143), attempt(SECOND, 143), done=(drain(FIRST), drain(SECOND)))
    assert lost.allowed_ends() == set(), "a third attempt should have followed"
    assert replace(lost, max_attempts=2).allowed_ends() == {DISRUPTED}
    unknown = attempts(attempt(FIRST, 137, "ContainerStatusUnknown"), done=(drain(FIRST),))
    assert unknown.allowed_ends() == set(), "its pod had no container yet"
    single = attempts(attempt(FIRST, 143), done=(drain(FIRST),))
    assert single.allowed_ends() == set()
    assert replace(single, max_attempts=1).allowed_ends() == {DISRUPTED}, "its author has not asked for more"


def test_other_ends_are_no_losses() -> None:
    terminated = DoneIntervention(Intervention.TERMINATE, 95, 96, target=FIRST)
    deleted = DoneIntervention(Intervention.DELETE_POD, 95, 96, target=FIRST)
    for done in (terminated, deleted):
        again = attempts(attempt(FIRST, 143), attempt(SECOND, 0), done=(done,))
        assert again.problems() == ["attempt 2 follows one that was not lost"]
    for code in (0, 101):
        handled = attempts(attempt(FIRST, code), attempt(SECOND, 0), done=(drain(FIRST),))
        assert handled.problems() == ["attempt 2 follows one that was not lost"], "the program had an end of its own"


def test_a_drained_workflow_may_be_ended_by_hand() -> None:
    """The drain and the termination race: each of them may be what FLARE hears."""
    terminated = DoneIntervention(Intervention.TERMINATE, 99.2, 99.8, target=FIRST)
    job = attempts(attempt(FIRST, 143), done=(drain(FIRST), terminated))
    assert job.allowed_ends() == {DISRUPTED, SHUT_DOWN}


def test_an_abort_ends_all_attempts() -> None:
    between = DoneIntervention(Intervention.ABORT, 102, 102.1)
    assert attempts(attempt(FIRST, 143), done=(drain(FIRST), between)).allowed_ends() == {ABORTED}
    late = attempts(
        attempt(FIRST, 143), attempt(SECOND, 143), done=(drain(FIRST), DoneIntervention(Intervention.ABORT, 118, 118.1))
    )
    assert late.allowed_ends() == {ABORTED}
    # The second attempt's Workflow came at 103: one that comes later than a race is wrong.
    history = replace(attempt(SECOND, 143), workflow_at=110.0)
    job = attempts(attempt(FIRST, 143), history, done=(drain(FIRST), between))
    assert job.problems() == ["attempt 2 was submitted although FLARE had ended the job"]


def test_the_soak_may_have_to_abort_the_last_attempt() -> None:
    """Whatever was planned to end the job came while earlier attempts were being drained."""
    abort = DoneIntervention(Intervention.ABORT, 118, 118.1, is_planned=False)
    deleted = DoneIntervention(Intervention.DELETE_POD, ENDS[FIRST] - 0.4, ENDS[FIRST] - 0.3, target=FIRST)
    histories = attempt(FIRST, 143), attempt(SECOND, 143)
    assert attempts(*histories, done=(drain(FIRST), deleted, abort)).allowed_ends() == {ABORTED}
    terminated = DoneIntervention(Intervention.TERMINATE, 100, 101, target=SECOND)
    assert ABORTED not in attempts(*histories, done=(drain(FIRST), terminated, abort)).allowed_ends()
    assert attempts(histories[0], done=(abort,)).allowed_ends() == set(), "nothing was planned for its only attempt"


def test_interventions_concern_their_own_attempt() -> None:
    terminated = DoneIntervention(Intervention.TERMINATE, 118, 119, target=SECOND)
    job = attempts(attempt(FIRST, 143), attempt(SECOND, 143), done=(drain(FIRST), terminated))
    assert job.allowed_ends() == {SHUT_DOWN}
    assert not job.problems()


def test_attempts_are_limited_and_do_not_meet() -> None:
    lost = (attempt(FIRST, 143), attempt(SECOND, 143), attempt(THIRD, 0))
    job = attempts(*lost, done=(drain(FIRST), drain(SECOND)), at_most=2)
    assert job.problems() == ["3 attempts; 2 are allowed"]
    for over_at in (None, 116.0):
        beside = replace(lost[0], over_at=over_at)
        job = attempts(beside, lost[1], done=(drain(FIRST), drain(SECOND)), at_most=2)
        assert job.problems() == ["attempt 2 started while the program of the one before ran"]


def test_the_next_attempt_comes_soon() -> None:
    slow = replace(attempt(SECOND, 0), workflow_at=140.0, started_at=141.0)
    job = attempts(attempt(FIRST, 143), slow, done=(drain(FIRST),))
    assert job.problems() == ["attempt 2 came 39.0 s after the loss; the limit is 30 s"]
    assert job.gaps() == [39]


# --- jobs whose parent restarts

KILLED_AT, BACK_AT = 110.0, 140.0
RESTART = FaultPeriod(FaultKind.PARENT_RESTART, KILLED_AT, BACK_AT)
JOB = "a job"
ORPHANED: Report = (Reason.ORPHANED, 104)


def test_a_plan_restarts_only_before_its_last_rounds() -> None:
    """The growth of the last process is measured between two rounds."""
    for seed in range(20):
        counts = [
            sum(fault.kind is FaultKind.PARENT_RESTART for fault in each.faults) for each in plan(seed, 8, 600).rounds
        ]
        assert all(2 <= count <= 3 for count in counts[:-2])
        assert counts[-2:] == [0, 0]


def alive(program: Program = SLEEPS, *histories: JobHistory, done: tuple[DoneIntervention, ...] = ()) -> Attempts:
    """Return a job that was launched and released long before the kill."""
    histories = histories or (JobHistory(1, 1, True, workflow_at=81, released_at=82, name=FIRST, started_at=83),)
    return Attempts(Case(program, 80, done, JobHistory(), (RESTART,), 0.0), histories, 3)


def why(
    job: Attempts, *verdicts: LoggedVerdict, record: bool = True, credentials: str = FIRST, launched: bool = True
) -> str:
    restart = ParentRestart(KILLED_AT, BACK_AT, [JOB] if record else [], [credentials])
    return why_lost(JOB, job, restart, verdicts, is_launched=launched)


def test_a_job_that_runs_must_be_taken_back() -> None:
    assert why(alive()) == ""
    assert why(alive(), record=False) == "", "nothing explains that its record is gone"
    verdict = LoggedVerdict(KILLED_AT - 1, SUCCEEDED)
    assert why(alive(), verdict, record=False) == "", "nothing explains its verdict"


def test_a_launch_may_be_lost_with_its_parent() -> None:
    assert why(alive(), launched=False)
    assert why(alive(SLEEPS, JobHistory()))
    assert why(alive(SLEEPS, JobHistory(workflow_at=109, name=FIRST)))
    assert why(alive(SLEEPS, JobHistory(workflow_at=109, released_at=109.5, name=FIRST)))
    assert why(alive(SLEEPS, JobHistory(workflow_at=105, released_at=108.5, name=FIRST))) == ""
    assert why(alive(SLEEPS, JobHistory(workflow_at=KILLED_AT + 1, released_at=KILLED_AT + 2, name=FIRST)))


def test_a_verdict_may_be_lost_with_its_parent() -> None:
    exits = Program(ProgramKind.EXITS, 3)
    end = ContainerEnd(3, "Error", "", 108, 109)
    ended = JobHistory(1, 1, True, end, workflow_at=81, released_at=82, name=FIRST, started_at=83, over_at=109)
    job = alive(exits, ended)
    assert why(job, LoggedVerdict(KILLED_AT - 1, FAILED), record=False)
    assert why(job, record=False) == "", "its record was there until it had logged the verdict"
    assert why(job, LoggedVerdict(KILLED_AT - 3, FAILED), record=False) == "", "FLARE should have heard it"
    assert why(job, LoggedVerdict(KILLED_AT - 1, SUCCEEDED), record=False) == "", "it is wrong"
    assert why(job) == "", "its record is there"
    later = replace(ended, first_end=replace(end, finished_at=115, observed_at=116))
    assert why(alive(exits, later), record=False) == "", "it had not ended"


def test_a_job_between_two_attempts_is_taken_back() -> None:
    """It ends with the loss if neither attempt has credentials at the kill."""
    lost = replace(attempt(FIRST, 143), released_at=84)
    job = alive(SLEEPS, lost, done=(drain(FIRST),))
    job = replace(job, whole=replace(job.whole, verdict_at=150))
    following = JobHistory(workflow_at=109.5, name=SECOND)
    for between in (job, replace(job, histories=(lost, following))):
        assert why(between, credentials="") == ""
        assert ends(between, "") == {DISRUPTED}
        assert ends(between, FIRST) == set()
    assert ends(replace(job, histories=(lost, following)), SECOND) == set()
    again = replace(job, histories=(lost, replace(attempt(SECOND, 0), released_at=106)))
    assert ends(again, SECOND) == {SUCCEEDED}
    assert ends(alive(), "") == set(), "it was not lost"
    over = replace(job, whole=replace(job.whole, verdict_at=KILLED_AT - 1))
    assert ends(over, "") == set(), "it had ended before"


def test_a_job_of_which_nothing_is_left_is_an_orphan() -> None:
    """Its launch had not come to the release, or somebody deleted its Workflow while the parent was away."""
    early = JobHistory(workflow_at=109, name=FIRST)
    deleted = DoneIntervention(Intervention.DELETE_WORKFLOW, 120, 121, target=FIRST)
    for job in (alive(SLEEPS, early), alive(done=(deleted,))):
        told = replace(job, whole=replace(job.whole, verdict_at=145))
        assert ORPHANED in ends(told, FIRST)
        assert ORPHANED not in ends(replace(told, whole=replace(told.whole, verdict_at=KILLED_AT - 1)), FIRST)
        assert ORPHANED not in ends(replace(told, whole=replace(told.whole, launched_at=KILLED_AT + 1)), FIRST)
    late = replace(deleted, started_at=BACK_AT + 1, finished_at=BACK_AT + 2)
    for other in (alive(), alive(done=(late,))):
        assert ORPHANED not in ends(replace(other, whole=replace(other.whole, verdict_at=145)), FIRST)


def test_the_end_of_the_only_pod_that_the_next_run_knows_counts() -> None:
    """Argo replaced the first pod, which was drained, and the second one has ended before the parent was back."""
    exits = Program(ProgramKind.EXITS, 3)
    history = JobHistory(
        2,
        2,
        first_pod_started=True,
        first_end=ContainerEnd(143, "Error", "", 114, 115),
        last_end=ContainerEnd(3, "Error", "", 130, 131),
        first_pod_gone_at=116,
        workflow_at=81,
        released_at=82,
        name=FIRST,
        started_at=83,
    )
    job = alive(exits, history, done=(DoneIntervention(Intervention.EVICT_POD, 113, 113.5, target=FIRST),))
    job = replace(job, whole=replace(job.whole, verdict_at=145))
    assert job.allowed_ends() >= {FAILED, (Reason.RUN_TWICE, 104)}
    seen = replace(history, first_pod_gone_at=KILLED_AT - 20)
    assert FAILED not in replace(job, histories=(seen,)).allowed_ends()


def ends(job: Attempts, credentials: str) -> frozenset[Report]:
    return allowed_ends(job, [ParentRestart(KILLED_AT, BACK_AT, [JOB], [credentials])])


def test_a_job_without_a_workflow_is_lost() -> None:
    for at, allowed in ((KILLED_AT - 5, True), (BACK_AT - 5, True), (BACK_AT + 5, False)):
        done = DoneIntervention(Intervention.DELETE_WORKFLOW, at, at + 1, target=FIRST)
        assert bool(why(alive(done=(done,)))) is allowed


def test_a_pod_that_was_gone_unseen_is_lost() -> None:
    """Nothing tells a deletion from a drain then."""
    deleted = DoneIntervention(Intervention.DELETE_POD, 120, 121, target=FIRST)
    end = ContainerEnd(143, "Error", "", 121, 122)
    for gone_at, is_loss in ((KILLED_AT - 6, False), (125, True), (BACK_AT + 6, False)):
        history = JobHistory(
            1, 1, True, end, gone_at, workflow_at=81, released_at=82, name=FIRST, started_at=83, over_at=122
        )
        job = alive(SLEEPS, history, done=(deleted,))
        job = replace(job, whole=replace(job.whole, verdict_at=170))
        assert job.allowed_ends() == (set() if is_loss else {POD_DELETED})
        assert replace(job, max_attempts=1).allowed_ends() == {POD_DELETED}
        again = replace(attempt(SECOND, 0), workflow_at=BACK_AT + 8, started_at=BACK_AT + 9)
        problems = replace(job, histories=(history, again)).problems()
        assert problems == ([] if is_loss else ["attempt 2 follows one that was not lost"])


def test_a_cleanup_of_an_adopted_job_is_an_abort() -> None:
    """FLARE's server can end it only so."""
    for finished_at, expected in ((109, {CLEANED_UP}), (BACK_AT + 1, {ABORTED}), (BACK_AT + 9, {ABORTED})):
        cleanup = DoneIntervention(Intervention.CLEANUP, min(finished_at - 1, BACK_AT - 5), finished_at)
        case = replace(alive(done=(cleanup,)).whole, verdict_at=170)
        assert allowed_reports(as_understood(case)) == expected
        assert allowed_reports(as_understood(replace(case, launched_at=KILLED_AT + 1))) == {CLEANED_UP}, "not adopted"


def test_a_request_right_before_the_kill_may_be_forgotten() -> None:
    exits = Program(ProgramKind.EXITS, 3)
    end = ContainerEnd(3, "Error", "", 120, 121)
    history = JobHistory(1, 1, True, end, workflow_at=81, released_at=82, name=FIRST)
    for at, expected in ((KILLED_AT - 2, {ABORTED, FAILED}), (KILLED_AT - 9, {ABORTED})):
        abort = DoneIntervention(Intervention.ABORT, at, at + 0.1)
        assert allowed_reports(Case(exits, 80, (abort,), history, (RESTART,), 145)) == expected


def test_a_verdict_is_late_only_after_the_return() -> None:
    end = ContainerEnd(3, "Error", "", 112, 113)
    case = Case(Program(ProgramKind.EXITS, 3), 80, (), JobHistory(1, 1, True, end), (RESTART,), BACK_AT + 3)
    assert lateness(case) == (3, 50)
