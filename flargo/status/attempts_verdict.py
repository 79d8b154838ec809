"""The verdict on a job that may have several attempts: the last one's, or the loss before a vain one."""

from dataclasses import replace

from flargo.status.attempts_state import AttemptsState
from flargo.status.job_state import DISRUPTIONS
from flargo.status.reasons import Reason, ReturnCode
from flargo.status.rejoin import has_never_started, may_have_missed_the_server
from flargo.status.verdict import Cause, Verdict
from flargo.terms import ServerJob

SYNC_SECONDS = 300.0
"""Seconds after which a program that runs has found the server's process. FLARE's own program looks for it for a minute
(nvflare's ``max_runner_sync_timeout``)."""


def must_ask_server(state: AttemptsState, verdict: Verdict, now: float) -> bool:
    """Return whether the last attempt has just begun, and has ended as if the server's process had ended before.

    Only an answer of the server tells that from a failure of the attempt's own.
    """
    if _is_final(state, verdict) or state.attempt.is_server_gone or _has_never_started(state, verdict):
        return False
    began_at = state.attempt.began_at
    is_synced = began_at is not None and now >= began_at + SYNC_SECONDS
    return not is_synced and may_have_missed_the_server(verdict)


def final_verdict(state: AttemptsState, verdict: Verdict, server: ServerJob | None) -> Verdict:
    """Return the verdict on a job whose present attempt is its last; it may be the loss before a vain attempt.

    Args:
        state: what is known about the attempts.
        verdict: the verdict on the present attempt.
        server: the answer about the server's process of the job; None if nobody had to ask.
    """
    if state.cause is not None and state.attempt.is_loss:
        return stopped_verdict(state.cause, verdict.detail)
    if _is_final(state, verdict):
        return _with_obstacle(state, verdict)
    attempt = f"attempt {state.attempt.number} of {state.rules.max_attempts}"
    if state.attempt.is_server_gone:
        return loss_verdict(state, f"{attempt} was ended: the server's process of the job runs no longer")
    if _has_never_started(state, verdict):
        return loss_verdict(state, f"{attempt} did not start ({verdict.reason.name}): {verdict.detail}")
    if server is ServerJob.GONE:
        return loss_verdict(state, f"{attempt} found no process of the server's job")
    if state.attempt.is_loss:
        return replace(verdict, detail=f"{attempt}: {verdict.detail}")
    return _with_obstacle(state, verdict)


def _is_final(state: AttemptsState, verdict: Verdict) -> bool:
    """Return whether an attempt's verdict is the job's, whatever was lost before."""
    return state.loss is None or verdict.code == ReturnCode.SUCCESS or state.cause is not None


def _has_never_started(state: AttemptsState, verdict: Verdict) -> bool:
    """Return whether the present attempt ended before its program ran. The loss before it is then the job's."""
    is_refused = verdict.reason is Reason.NODE_REFUSED and state.attempt.began_at is None
    return is_refused or has_never_started(verdict)


def _with_obstacle(state: AttemptsState, verdict: Verdict) -> Verdict:
    """Add to a disruption that is no loss why no attempt follows, if the job still had one."""
    is_last = state.attempt.number >= state.rules.max_attempts
    if verdict.reason not in DISRUPTIONS or state.attempt.is_loss or state.cause is not None or is_last:
        return verdict
    return _add(verdict, f"not started again: {state.attempt.obstacle}")


def loss_verdict(state: AttemptsState, detail: str) -> Verdict:
    """Return the verdict on a job that ends with its latest loss; the detail says why no other attempt went on."""
    assert state.loss is not None, "there was no loss"
    return _add(state.loss, detail)


def _add(verdict: Verdict, detail: str) -> Verdict:
    return replace(verdict, detail="; ".join(filter(None, (verdict.detail, detail))))


def stopped_verdict(cause: Cause, detail: str) -> Verdict:
    """Return the verdict on a job that FLARE has ended while no program of it ran to an end."""
    return Verdict(cause.value, int(cause.value.code or ReturnCode.LOST), detail)
