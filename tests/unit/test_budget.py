"""Tests of the Budget: what repeats is limited whatever the number of jobs, and nothing is dropped."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flargo.control.budget import BURST, CONTROLLER_SILENCE, PROBE_INTERVAL, TOKENS_PER_SECOND, Budget
from flargo.status.job_state import Action, ActionKind
from flargo.terms import Uid

KILL, CONFIRM, TOUCH, CLEAN = (
    Action(kind, Uid("u"))
    for kind in (ActionKind.DELETE_POD, ActionKind.CONFIRM, ActionKind.TOUCH, ActionKind.DELETE_SECRET)
)


def spent_budget(now: float = 0.0) -> Budget:
    budget = Budget(now)
    for number in range(int(BURST)):
        assert budget.may_go(f"spent-{number}", KILL, now, is_repeated=True)
    return budget


def take_ready(budget: Budget, now: float) -> list[tuple[str, Action]]:
    """Return all actions that may go out now."""
    taken = []
    while (entry := budget.take_next(now)) is not None:
        taken.append(entry)
    return taken


def test_first_tries_are_free() -> None:
    budget = spent_budget()
    assert all(budget.may_go(f"job-{number}", KILL, 0.0, is_repeated=False) for number in range(1000))
    assert not budget.may_go("job", KILL, 0.0, is_repeated=True)
    assert budget.waiting("job") == (KILL,)


def test_urgent_actions_come_first() -> None:
    budget = spent_budget()
    for key, action in (("a", CLEAN), ("b", CONFIRM), ("c", KILL), ("d", KILL)):
        assert not budget.may_go(key, action, 0.0, is_repeated=True)
    assert budget.next_at() == 0.5
    assert take_ready(budget, 0.4) == []
    sent = [take_ready(budget, 0.5 * (number + 1)) for number in range(4)]
    assert sent == [[("c", KILL)], [("d", KILL)], [("b", CONFIRM)], [("a", CLEAN)]]
    assert budget.next_at() is None


def test_urgent_actions_starve_no_others() -> None:
    budget = spent_budget()
    budget.may_go("patient", CLEAN, 0.0, is_repeated=True)
    sent = []
    for number in range(1, 6):
        for more in range(2):
            budget.may_go(f"job-{number}-{more}", KILL, number / 2, is_repeated=True)
        sent += take_ready(budget, number / 2)
    assert ("patient", CLEAN) in sent[:4]


def test_waiting_action_waits_once() -> None:
    budget = spent_budget()
    for _ in range(3):
        budget.may_go("job", KILL, 0.0, is_repeated=True)
    assert take_ready(budget, 100.0) == [("job", KILL)]


def test_withdrawn_action_is_not_sent() -> None:
    budget = spent_budget()
    for key in ("a", "b"):
        budget.may_go(key, KILL, 0.0, is_repeated=True)
        budget.may_go(key, CLEAN, 0.0, is_repeated=True)
    budget.withdraw("a")
    budget.withdraw("b", KILL)
    budget.withdraw("unknown", KILL)
    assert take_ready(budget, 100.0) == [("b", CLEAN)]


def test_touches_stop_while_the_controller_is_away() -> None:
    budget = Budget(0.0)
    assert budget.may_go("a", TOUCH, 10.0, is_repeated=False), "it may be at work"
    away = CONTROLLER_SILENCE + 20.0
    assert budget.may_go("b", TOUCH, away, is_repeated=False), "a probe"
    assert not budget.may_go("c", TOUCH, away, is_repeated=False)
    assert not budget.may_go("d", TOUCH, away, is_repeated=True)
    budget.may_go("d", KILL, away, is_repeated=True)
    assert take_ready(budget, away) == [("d", KILL)], "only touches are held"
    assert budget.next_at() == away + PROBE_INTERVAL
    assert take_ready(budget, away + PROBE_INTERVAL - 1) == []
    assert take_ready(budget, away + PROBE_INTERVAL) == [("c", TOUCH)]
    budget.note_progress(away + PROBE_INTERVAL + 1)
    assert take_ready(budget, away + PROBE_INTERVAL + 1) == [("d", TOUCH)]


def test_reads_that_await_the_controller_stop_while_it_is_away() -> None:
    budget, away = Budget(0.0), CONTROLLER_SILENCE + 20.0
    assert budget.may_go("a", CONFIRM, away, is_repeated=False, awaits_controller=True)
    assert not budget.may_go("a", CONFIRM, away, is_repeated=True, awaits_controller=True)
    assert budget.next_at() is None
    assert take_ready(budget, away + 1000.0) == []
    assert budget.may_go("b", KILL, away + 1000.0, is_repeated=False)
    budget.note_progress(away + 1000.0)
    assert budget.next_at() == away + 1000.0
    assert take_ready(budget, away + 1001.0) == [("a", CONFIRM)]


KEYS = st.sampled_from([f"job-{number}" for number in range(6)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), KEYS, st.sampled_from([KILL, CONFIRM, TOUCH, CLEAN])),
        st.tuples(st.just("withdraw"), KEYS, st.sampled_from([KILL, CONFIRM, TOUCH, CLEAN])),
        st.tuples(st.just("pass"), st.floats(0.0, 100.0), st.just(KILL)),
        st.tuples(st.just("progress"), KEYS, st.just(KILL)),
    ),
    max_size=60,
)


@given(st.integers(0, int(BURST)), STEPS)
def test_budget_is_kept_and_nothing_is_lost(  # noqa: C901  (one branch for each kind of step)
    spent: int, steps: list[tuple[str, str | float, Action]]
) -> None:
    budget, now, sent, touches = Budget(0.0), 0.0, 0, list[float]()
    progress_at = 0.0
    waiting: set[tuple[str, Action]] = set()
    for number in range(spent):
        sent += budget.may_go(f"spent-{number}", KILL, now, is_repeated=True)

    def note(action: Action) -> None:
        if action is TOUCH and now >= progress_at + CONTROLLER_SILENCE:
            touches.append(now)

    for what, value, action in steps:
        if what == "pass":
            now += float(value)
        elif what == "progress":
            progress_at = now
            budget.note_progress(now)
        elif what == "withdraw":
            budget.withdraw(str(value), action)
            waiting.discard((str(value), action))
        elif budget.may_go(str(value), action, now, is_repeated=True):
            sent += 1
            note(action)
        else:
            waiting.add((str(value), action))
        for entry in take_ready(budget, now):
            waiting.remove(entry)
            sent += 1
            note(entry[1])
        assert sent <= BURST + TOKENS_PER_SECOND * now + 1e-3
    assert all(later - earlier >= PROBE_INTERVAL - 1e-6 for earlier, later in pairwise(touches))
    for _ in range(len(waiting)):
        at = budget.next_at()
        assert at is not None
        now = max(now, at)
        waiting -= set(take_ready(budget, now))
    assert not waiting
    assert budget.next_at() is None
