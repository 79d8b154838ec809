"""The soak's plan, and its opinion of what FLARE may hear."""

from dataclasses import replace

import pytest

from flargo.status.reasons import Reason
from tests.soak.oracle import Case, Disturbance, Done, End, Heard, Seen, lateness, may_hear
from tests.soak.plan import Deed, Kind, Program, Trouble, plan

ENDED = 100.0
SLEEPS = Program(Kind.SLEEPS)
SUCCEEDED, FAILED, ABORTED = (Reason.SUCCEEDED, 0), (Reason.PROGRAM_FAILED, 1), (Reason.ABORTED, 9)
CLEANED_UP, SHUT_DOWN = (Reason.CLEANED_UP, 1), (Reason.SHUT_DOWN, 9)
POD_DELETED, DISRUPTED, TWICE = (Reason.POD_DELETED, 104), (Reason.DISRUPTED, 104), (Reason.RUN_TWICE, 104)


def test_a_seed_makes_the_same_run_again() -> None:
    assert plan(7, 200, 600) == plan(7, 200, 600) != plan(8, 200, 600)


def test_a_run_has_all_that_it_is_to_have() -> None:
    rounds = plan(1, 200, 600).rounds
    jobs = [launch for each in rounds for launch in each.launches]
    assert [job.number for job in jobs] == list(range(1, 201))
    assert {job.program.kind for job in jobs} == set(Kind)
    assert {act.deed for job in jobs for act in job.acts} == set(Deed)
    assert {fault.trouble for each in rounds for fault in each.faults} == set(Trouble) - {Trouble.CONTROLLER}
    assert all(job.acts or job.program.own_end is not None for job in jobs), "it would run for ever"


def test_the_controller_is_frozen_only_when_asked() -> None:
    faults = [fault for each in plan(1, 20, 60, controller=True).rounds for fault in each.faults]
    assert Trouble.CONTROLLER in {fault.trouble for fault in faults}


def ended(code: int, program: Program | None = None, *deeds: Done, why: str = "Error") -> Case:
    """A program that ended in the second of ENDED, seen one later."""
    end = End(code, why, "", ENDED, ENDED + 1)
    return Case(program or Program(Kind.EXITS, code), 90, deeds, Seen(1, 1, True, end), (), ENDED + 20)


def done(deed: Deed, at: float, problem: str = "") -> Done:
    return Done(deed, at, at + 0.2, problem)


BEFORE, RACE, AFTER = ENDED - 5, ENDED + 2, ENDED + 15


@pytest.mark.parametrize(
    ("case", "right"),
    [
        (ended(0), {SUCCEEDED}),
        (ended(3), {FAILED}),
        (ended(9), {FAILED}),
        (ended(102), {(Reason.PROGRAM_REPORTED, 102)}),
        (ended(143, Program(Kind.SIGNALS, 15)), {FAILED}),
        (ended(137, Program(Kind.DEVOURS), why="OOMKilled"), {(Reason.OUT_OF_MEMORY, 104)}),
        # Only FLARE's abort outweighs a 0, and only if it came first.
        *((ended(0, None, done(deed, BEFORE)), {SUCCEEDED}) for deed in set(Deed) - {Deed.ABORT}),
        (ended(0, None, done(Deed.ABORT, BEFORE)), {ABORTED}),
        (ended(0, None, done(Deed.ABORT, RACE)), {ABORTED, SUCCEEDED}),
        (ended(0, None, done(Deed.ABORT, AFTER)), {SUCCEEDED}),
        (ended(102, None, done(Deed.ABORT, BEFORE)), {(Reason.PROGRAM_REPORTED, 102)}),
        # The program's own failure, and what was done to it.
        (ended(3, None, done(Deed.ABORT, BEFORE)), {ABORTED}),
        (ended(3, None, done(Deed.TERMINATE, RACE)), {FAILED, SHUT_DOWN}),
        (ended(3, None, done(Deed.TERMINATE, AFTER)), {FAILED}),
        (ended(3, None, done(Deed.TERMINATE, BEFORE, "refused")), {FAILED}),
        (ended(143, Program(Kind.EXITS, 3), done(Deed.TERMINATE, ENDED - 0.1)), {SHUT_DOWN}),
        # What does not end by itself.
        (ended(143, SLEEPS), set()),
        (ended(143, SLEEPS, done(Deed.DELETE_POD, BEFORE)), {POD_DELETED}),
        (ended(143, SLEEPS, done(Deed.EVICT_POD, BEFORE)), {DISRUPTED}),
        (ended(143, SLEEPS, done(Deed.TERMINATE, BEFORE), done(Deed.ABORT, BEFORE)), {ABORTED}),
        (ended(143, SLEEPS, done(Deed.CLEANUP, BEFORE), done(Deed.TERMINATE, RACE)), {CLEANED_UP}),
        (ended(143, SLEEPS, done(Deed.CLEANUP, BEFORE), done(Deed.ABORT, RACE)), {CLEANED_UP, ABORTED}),
        (ended(137, SLEEPS, done(Deed.TERMINATE, BEFORE)), {SHUT_DOWN}),
        (ended(3, Program(Kind.HEEDS, 3), done(Deed.TERMINATE, ENDED - 0.1)), {SHUT_DOWN}),
        (ended(0, Program(Kind.HEEDS, 0), done(Deed.TERMINATE, ENDED - 0.1)), {SUCCEEDED}),
    ],
)
def test_what_flare_may_hear(case: Case, right: set[Heard]) -> None:
    assert may_hear(case) == right


def test_of_a_job_that_never_began_only_a_deed_explains_the_end() -> None:
    never = Case(Program(Kind.EXITS, 0), 90, (), Seen(), (), ENDED)
    assert may_hear(never) == set()
    assert may_hear(replace(never, deeds=[done(Deed.TERMINATE, 91)])) == {SHUT_DOWN}


def test_a_second_pod_may_be_told_of() -> None:
    twice = ended(143, SLEEPS, done(Deed.DELETE_POD, BEFORE))
    assert may_hear(replace(twice, seen=replace(twice.seen, pods=2))) == {POD_DELETED, TWICE}


def test_a_program_that_ran_in_two_pods_was_run_twice_though_nobody_looked() -> None:
    """What the second one did, and the abort that the run had to end it with, are no answer."""
    first, again = ended(143, SLEEPS, done(Deed.EVICT_POD, BEFORE)), End(0, "", "", ENDED + 9, ENDED + 10)
    down = Disturbance(Trouble.DOWN, ENDED - 3, ENDED + 10)
    last = replace(done(Deed.ABORT, ENDED + 5), planned=False)
    seen = replace(first.seen, pods=2, started=2, gone=ENDED + 2, again=again)
    twice = replace(first, seen=seen, deeds=[*first.deeds, last], disturbed=[down])
    assert may_hear(twice) == {DISRUPTED, POD_DELETED, TWICE}


def test_a_program_that_ran_in_the_second_pod_only_may_be_judged_by_that() -> None:
    again = End(9, "Error", "", ENDED, ENDED + 1)
    seen = Seen(2, 1, False, None, ENDED - 10, again)
    case = Case(Program(Kind.EXITS, 9), 80, [done(Deed.DELETE_POD, 85)], seen, (), ENDED + 20)
    assert may_hear(case) == {POD_DELETED, TWICE}
    assert may_hear(replace(case, disturbed=[Disturbance(Trouble.DOWN, 80, 92)])) == {POD_DELETED, TWICE, FAILED}


def test_an_exit_code_may_be_missed_only_if_its_pod_went_while_the_launcher_could_not_look() -> None:
    gone = ended(0, None, done(Deed.DELETE_POD, BEFORE))
    gone = replace(gone, seen=replace(gone.seen, gone=ENDED + 3))
    assert may_hear(gone) == {SUCCEEDED}
    down = Disturbance(Trouble.DOWN, ENDED - 3, ENDED + 10)
    assert may_hear(replace(gone, disturbed=[down])) == {SUCCEEDED, POD_DELETED}


def test_who_never_saw_an_evicted_pod_has_argos_word_alone() -> None:
    seen = Seen(1, 0, False, None, ENDED)
    case = Case(Program(Kind.EXITS, 101), 80, [done(Deed.EVICT_POD, 85)], seen, (), ENDED + 6)
    assert may_hear(case) == {DISRUPTED}
    argos = (Reason.ARGO_FAILED, 104)
    assert may_hear(replace(case, disturbed=[Disturbance(Trouble.DOWN, 84, 92)])) == {DISRUPTED, POD_DELETED, argos}


def test_lateness_counts_from_when_the_end_could_be_known() -> None:
    assert lateness(ended(3)) == (19, 30)
    down = Disturbance(Trouble.DOWN, ENDED - 3, ENDED + 10)
    assert lateness(replace(ended(3), disturbed=[down])) == (10, 50)
