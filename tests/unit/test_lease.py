"""The rules by which one parent takes, renews, waits for and loses the Lease of its site."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from flargo.control.lease import (
    CLEARLY_OLD_SECONDS,
    FENCED_SECONDS,
    HOLD_SECONDS,
    RECHECK_SECONDS,
    RENEW_SECONDS,
    Lease,
    LeaseFailed,
    LeaseRead,
    LeaseRejected,
    LeaseRequest,
    LeaseResult,
    LeaseStage,
    LeaseWritten,
    RequestKind,
)
from flargo.control.lease_object import LEASE_SECONDS, LeaseView
from flargo.terms import Uid

MANY = 200
US, OTHER = "new_2", "old_1"
FORBIDDEN = LeaseFailed("forbidden", is_refusal=True)
UNANSWERED = LeaseFailed("no answer", is_refusal=False)


def view(version: int, holder: str = OTHER) -> LeaseView:
    return LeaseView(Uid("u"), str(version), holder, is_of_site=True)


class Story:
    """One parent's Lease, and the results of its requests one after the other."""

    def __init__(self) -> None:
        self.lease, self.now = Lease(US), 100.0

    def gets(self, *results: LeaseResult) -> "Story":
        """Send each request when it is due, and receive its result at once."""
        for result in results:
            self.now = max(self.now, self.request.at)
            self.lease = self.lease.advance(result, self.now, self.now)
        return self

    def gets_while(self, condition: Callable[["Story"], bool], *results: LeaseResult) -> list[LeaseStage]:
        """Receive results again and again while a condition holds; return the stage after each round."""
        stages = []
        while condition(self):
            stages.append(self.gets(*results).stage)
            assert len(stages) < MANY, "it never changes"
        return stages

    @property
    def request(self) -> LeaseRequest:
        return self.lease.next_request()

    @property
    def wait(self) -> float:
        """Seconds until the next request."""
        return max(0.0, self.request.at - self.now)

    @property
    def stage(self) -> LeaseStage:
        return self.lease.status_at(self.now).stage


def is_reading(story: Story) -> bool:
    return story.request.kind is RequestKind.READ


def is_acquiring(story: Story) -> bool:
    return story.stage is LeaseStage.ACQUIRING


def held() -> Story:
    return Story().gets(LeaseRead(None), LeaseWritten(view(1, US)))


def test_the_first_parent_creates_the_lease() -> None:
    story = Story()
    assert story.request.kind is RequestKind.READ
    assert story.gets(LeaseRead(None)).request.kind is RequestKind.CREATE
    story.gets(LeaseWritten(view(1, US)))
    status = story.lease.status_at(story.now)
    assert (status.stage, status.away_seconds, story.wait) == (LeaseStage.HELD, None, RENEW_SECONDS)
    assert (story.request.kind, story.request.over) == (RequestKind.WRITE, view(1, US))


def test_belief_ends_by_itself() -> None:
    """It is counted from before the write was sent, and a request that hangs does not prolong it."""
    lease = Lease(US).advance(LeaseRead(None), 0.0, 0.0).advance(LeaseWritten(view(1, US)), 5.0, 9.0)
    assert lease.status_at(5.0 + HOLD_SECONDS - 0.01).stage is LeaseStage.HELD
    assert lease.status_at(5.0 + HOLD_SECONDS).stage is LeaseStage.ACQUIRING
    assert HOLD_SECONDS < LEASE_SECONDS


def test_a_released_lease_is_taken_at_once() -> None:
    story = Story().gets(LeaseRead(view(3, "")))
    assert (story.request.kind, story.wait) == (RequestKind.WRITE, 0.0)


def test_a_silent_holder_is_replaced_after_the_lease() -> None:
    """The write names the version that was seen all the time."""
    story, start = Story(), 100.0
    assert set(story.gets_while(is_reading, LeaseRead(view(3)))) == {LeaseStage.ACQUIRING}
    assert (story.request.at - start, story.request.over) == (LEASE_SECONDS, view(3))
    assert story.gets(LeaseWritten(view(4, US))).stage is LeaseStage.HELD


def test_a_longer_lease_is_waited_for() -> None:
    story = Story()
    story.gets_while(is_reading, LeaseRead(replace(view(3), lease_seconds=40)))
    assert story.request.at - 100.0 == 40


def test_a_clearly_old_lease_is_taken_at_once() -> None:
    story = Story().gets(LeaseRead(view(3), idle_seconds=CLEARLY_OLD_SECONDS))
    assert (story.request.kind, story.wait) == (RequestKind.WRITE, 0.0)
    story = Story().gets(LeaseRead(view(3), idle_seconds=CLEARLY_OLD_SECONDS - 0.1))
    assert story.request.kind is RequestKind.READ


def test_a_living_holder_fences() -> None:
    story = Story().gets(LeaseRead(view(3)), LeaseRead(view(4)))
    status = story.lease.status_at(story.now)
    assert (status.stage, status.holder, status.is_fenced) == (LeaseStage.FENCED, OTHER, True)
    assert (story.request.kind, story.wait) == (RequestKind.READ, FENCED_SECONDS)


def test_a_fenced_parent_takes_over_later() -> None:
    story = Story().gets(LeaseRead(view(3)), LeaseRead(view(4)))
    assert set(story.gets_while(is_reading, LeaseRead(view(4)))) == {LeaseStage.FENCED}
    assert story.gets(LeaseWritten(view(5, US))).stage is LeaseStage.HELD


def test_a_rejected_takeover_reads_again() -> None:
    story = Story().gets(LeaseRead(view(3), idle_seconds=99.0), LeaseRejected())
    assert (story.request.kind, story.wait) == (RequestKind.READ, 0.0)
    assert story.gets(LeaseRead(view(4))).stage is LeaseStage.FENCED


def test_a_lost_answer_is_found_by_reading() -> None:
    """The write took effect; the time away is still that before it."""
    before = replace(view(3), renewed_at=None)
    story = Story().gets(LeaseRead(before, idle_seconds=99.0), UNANSWERED)
    assert story.request.kind is RequestKind.READ
    assert story.gets(LeaseRead(view(4, US))).request.kind is RequestKind.WRITE
    assert not story.lease.has_acquired
    assert story.gets(LeaseWritten(view(5, US))).stage is LeaseStage.HELD
    assert story.lease.predecessor == before


def test_a_taken_lease_is_lost() -> None:
    story = held().gets(LeaseRejected(), LeaseRead(view(9)))
    status = story.lease.status_at(story.now)
    assert (status.stage, status.holder, status.is_fenced) == (LeaseStage.LOST, OTHER, True)
    assert story.gets(LeaseRead(view(10))).stage is LeaseStage.LOST
    assert story.gets(LeaseRead(view(11, "")), LeaseWritten(view(12, US))).stage is LeaseStage.HELD


def others(story: Story) -> int:
    return story.lease.status_at(story.now).other_terms


def test_terms_of_other_parents_are_counted() -> None:
    """Also those that this parent has not seen: it was suspended, and the other one has released the Lease."""
    story = held()
    assert others(story) == 0
    story.gets(LeaseRejected(), LeaseRead(view(9)), LeaseRead(view(10)), LeaseRead(view(11, "")))
    assert others(story) == 1
    story.gets(LeaseWritten(view(12, US)))
    assert others(story) == 1
    story.gets(LeaseRejected(), LeaseRead(view(13, "")), LeaseWritten(view(14, US)))
    assert (story.stage, others(story)) == (LeaseStage.HELD, 2)
    story.gets(LeaseRejected(), LeaseRead(view(15)), LeaseRead(view(15)))
    assert others(story) == 3


def test_an_outage_or_a_deleted_lease_is_no_other_parent() -> None:
    story = held()
    for _ in range(20):
        story.gets(UNANSWERED)
    story.gets(LeaseRead(view(1, US)), LeaseWritten(view(2, US)), LeaseRejected(), LeaseRead(None))
    assert others(story.gets(LeaseWritten(view(3, US)))) == 0
    released = Story().gets(LeaseRead(view(3, "")), LeaseWritten(view(4, US)))
    died = Story().gets(LeaseRead(view(3)), LeaseRead(view(3)), LeaseWritten(view(4, US)))
    assert (others(released), others(died)) == (0, 0), "predecessors of this parent"
    fenced = Story().gets(LeaseRead(view(3)), LeaseRead(view(4)))
    assert others(fenced) == 1


def test_a_lease_that_was_cleared_and_taken_is_lost() -> None:
    """Somebody cleared the holder, and another parent was faster to take the Lease."""
    story = held().gets(LeaseRejected(), LeaseRead(view(2, "")), LeaseRejected(), LeaseRead(view(3)))
    assert story.stage is LeaseStage.LOST


def test_an_outage_longer_than_the_lease_is_no_loss() -> None:
    """Nothing is believed until the Lease was read and renewed again."""
    story = held()
    for _ in range(20):
        story.gets(UNANSWERED)
    assert (story.stage, story.request.kind) == (LeaseStage.ACQUIRING, RequestKind.READ)
    assert story.gets(LeaseRead(view(1, US))).stage is LeaseStage.ACQUIRING
    assert story.gets(LeaseWritten(view(2, US))).stage is LeaseStage.HELD


def test_a_failed_renewal_is_repeated_in_time() -> None:
    story = held().gets(UNANSWERED)
    assert story.stage is LeaseStage.HELD
    assert story.gets(LeaseRead(view(1, US)), LeaseWritten(view(2, US))).stage is LeaseStage.HELD


def test_retries_begin_anew_after_a_success() -> None:
    story = held().gets(*10 * [UNANSWERED], LeaseRead(view(1, US)), LeaseWritten(view(2, US)), UNANSWERED)
    assert story.wait == 1.0


def test_a_deleted_lease_is_created_again() -> None:
    story = held().gets(LeaseRejected(), LeaseRead(None))
    assert (story.stage, story.request.kind) == (LeaseStage.HELD, RequestKind.CREATE)


def test_a_missing_right_makes_the_lease_unavailable() -> None:
    """Only after a while: an API server that has just started refuses everything."""
    story = Story()
    story.gets_while(is_acquiring, FORBIDDEN)
    assert story.stage is LeaseStage.UNAVAILABLE
    assert story.now - 100.0 == pytest.approx(18.0)
    assert story.wait == RECHECK_SECONDS
    assert story.gets(LeaseRead(None), LeaseWritten(view(1, US))).stage is LeaseStage.HELD


def test_a_right_to_read_is_not_enough() -> None:
    story = Story()
    story.gets_while(is_acquiring, LeaseRead(None), FORBIDDEN)
    assert story.stage is LeaseStage.UNAVAILABLE
    assert story.now < 125.0


def test_an_outage_never_makes_it_unavailable() -> None:
    """While the API server is away nobody can launch a job anyway."""
    story = Story()
    for _ in range(100):
        assert story.gets(UNANSWERED).stage is LeaseStage.ACQUIRING
        assert story.wait <= 5.0


def test_a_lost_right_ends_the_belief_first() -> None:
    story = held()
    stages = story.gets_while(lambda it: it.stage is not LeaseStage.UNAVAILABLE, FORBIDDEN)
    assert stages[0] is LeaseStage.HELD
    assert LeaseStage.ACQUIRING in stages


def test_a_fenced_parent_without_a_right_stays_fenced() -> None:
    story = Story().gets(LeaseRead(view(3)), LeaseRead(view(4)))
    for _ in range(20):
        assert story.gets(FORBIDDEN).stage is LeaseStage.FENCED


def test_a_foreign_object_is_left_alone() -> None:
    story = Story()
    story.gets_while(is_acquiring, LeaseRead(replace(view(3, ""), is_of_site=False)))
    assert (story.stage, story.request.kind) == (LeaseStage.UNAVAILABLE, RequestKind.READ)
    assert "not labelled" in story.lease.status_at(story.now).problem


def test_a_webhook_that_always_conflicts_is_not_flooded() -> None:
    story = Story()
    for _ in range(MANY):
        story.gets(LeaseRead(view(3), idle_seconds=99.0), LeaseRejected())
    assert story.now - 100.0 > (MANY - 10) * 5.0


def test_a_lease_that_changes_all_the_time_is_not_flooded() -> None:
    """Somebody edits a Lease that is long out of use, faster than it can be taken."""
    story = Story()
    for version in range(MANY):
        story.gets(LeaseRead(view(version), idle_seconds=99.0), LeaseRejected())
    assert story.now - 100.0 > (MANY - 10) * 5.0


def test_a_hostile_holder_is_shown_safely() -> None:
    hostile = "\x1b]0;x\x07{{evil}}\u202e\n" + "x" * 10_000
    story = Story().gets(LeaseRead(view(3, hostile)), LeaseRead(view(4, hostile)))
    shown = story.lease.status_at(story.now).holder
    assert shown.isprintable()
    assert len(shown) <= 120
    assert "{{" not in shown
