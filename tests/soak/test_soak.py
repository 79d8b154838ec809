"""The soak's plan, and the reports that its oracle allows."""

from dataclasses import replace

import pytest

from flargo.status.reasons import Reason
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
from tests.soak.plan import ENDINGS, FaultKind, Intervention, Program, ProgramKind, plan

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
    again = ContainerEnd(9, "Error", "", ENDED_AT, ENDED_AT + 1)
    history = JobHistory(2, 1, False, None, ENDED_AT - 10, again)
    case = Case(
        Program(ProgramKind.EXITS, 9), 80, [intervention_at(Intervention.DELETE_POD, 85)], history, (), ENDED_AT + 20
    )
    assert allowed_reports(case) == {POD_DELETED, TWICE}
    assert allowed_reports(replace(case, faults=[FaultPeriod(FaultKind.DOWN, 80, 92)])) == {POD_DELETED, TWICE, FAILED}


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
