"""Reports a job's outcome to people: in the parent's log, and in the job's own files.

Kubernetes quotes values when it refuses an object, and these may come from the site's pod template. The parent's log
shows them. The outcome file and FLARE's error log, which people elsewhere may read, do not.

On the server, FLARE archives the run directory when the job has ended, and ``download_job`` brings it to the
researcher: it then holds the outcome and, after a failure, the end of the log. A client's run directory stays at the
site. Only FLARE's own error log leaves a client, if the site allows log streaming, so a client's reason is one line
there. The program's log may hold patients' data and stays at the site.
"""

import json
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from flargo.cluster.error_text import describe
from flargo.control.loop import MAX_LOG_BYTES, MAX_LOG_LINES
from flargo.flare.atomic_file import write_atomically
from flargo.flare.job_files import read_end, read_round_count
from flargo.flare.redact import REDACTION
from flargo.job.names import display_text
from flargo.log_errors import find_errors
from flargo.status.field_errors import hide_values
from flargo.status.reasons import ReturnCode
from flargo.status.verdict import Cause, Verdict
from flargo.terms import Object, Role

OUTCOME = "argo_outcome.json"
"""The file in a server's run directory that holds the job's outcome."""
LOG_TAIL = "argo_log_tail.txt"
"""The file in a server's run directory that holds the end of a failed program's log."""
LOST_LOG = "argo_attempt_{}_log_tail.txt"
"""The file in a client's run directory that holds the end of the log of an attempt that the cluster has lost."""
_MAX_LOGGED_DETAIL = 1000
"""Characters of a verdict's detail in a log."""
_MAX_OUTCOME_DETAIL = 10_000
"""Characters of a verdict's detail in the outcome."""
_log = logging.getLogger(__name__)


class Report:
    """Writes the outcome of one job to the parent's log and to the job's files."""

    def __init__(self, job_id: str, site: str, role: Role, *, run_dir: Path, error_log: Path) -> None:
        """Create the report of a job at a site; nothing is written yet.

        Args:
            job_id: FLARE's id of the job.
            site: FLARE's name of the site.
            role: which side of the job runs at the site.
            run_dir: the job's run directory at the parent.
            error_log: FLARE's error log of the job at the parent.
        """
        self.job_id = job_id
        """FLARE's id of the job."""
        self._site = site
        self._role = role
        self._run_dir = run_dir
        self._error_log = error_log
        self._lock = threading.Lock()
        self._is_final = False
        """True once the verdict has been published."""
        self._lost_attempts: list[tuple[int, Verdict]] = []

    def write_preliminary(self, cause: Cause, workflow: str) -> None:
        """Write an outcome before the verdict is known, on the server only, when FLARE ends a job.

        If the job's process does not end when FLARE tells it to, FLARE archives the run directory without waiting for
        the verdict. A verdict that comes in time replaces this outcome.

        Args:
            cause: why FLARE ends the job.
            workflow: the name of the job's Workflow.
        """
        with self._lock:
            if self._is_final or self._role is not Role.SERVER:
                return
            verdict = Verdict(cause.value, int(cause.value.code or ReturnCode.LOST), "it is being ended")
            try:
                self._write_files(self._outcome(verdict, workflow, verdict.detail), tail="")
            except OSError as error:
                _log.warning("job %s: cannot write its outcome: %s", self.job_id, describe(error))

    def publish(self, verdict: Verdict, workflow: str, tail: str = "") -> Object:
        """Log the verdict and write it to the job's files. A file that cannot be written does not hold up the verdict.

        Return the outcome, as a researcher may read it.

        Args:
            verdict: how the job ended.
            workflow: the Workflow's name; empty if there was none.
            tail: the end of the program's log, longer than the part that is kept.
        """
        level = logging.INFO if verdict.code == ReturnCode.SUCCESS else logging.WARNING
        detail = "; ".join(filter(None, (self._describe_lost_attempts(), REDACTION.redact(verdict.detail))))
        public_detail = hide_values(detail)
        outcome = self._outcome(verdict, workflow, public_detail)
        reason, text = verdict.reason.name, _describe(verdict, detail)
        _log.log(level, "job %s at %s: %s (%d): %s", self.job_id, self._site, reason, verdict.code, text)
        try:
            if self._role is Role.SERVER:
                with self._lock:
                    self._is_final = True
                    self._write_files(outcome, _trim_tail(REDACTION.redact(tail)))
            elif verdict.code != ReturnCode.SUCCESS:
                self._append_error(verdict, _describe(verdict, public_detail))
        except OSError as error:
            _log.warning("job %s: cannot write its outcome: %s", self.job_id, describe(error))
        return outcome

    def outcome(self, verdict: Verdict, workflow: str) -> Object:
        """Return the outcome of a verdict that was published by an earlier run of the parent."""
        return self._outcome(verdict, workflow, self.public_detail(verdict))

    def note_lost_attempt(self, number: int, max_attempts: int, verdict: Verdict, tail: str) -> None:
        """Log that an attempt was lost and that another one may follow; keep the end of its log, if there is one.

        The file stays in the job's run directory at the site. Its beginning is cut off after the redaction.

        Args:
            number: which attempt it was, from 1.
            max_attempts: how many attempts the job may have.
            verdict: how the attempt ended.
            tail: the end of its log, longer than the part that is kept; empty: there is none, or the site keeps none.
        """
        self._lost_attempts.append((number, verdict))
        _log.warning(
            "job %s at %s: attempt %d of %d lost (%s), another one may follow: %s",
            self.job_id,
            self._site,
            number,
            max_attempts,
            verdict.reason.name,
            _describe_loss(verdict, REDACTION.redact(verdict.detail)),
        )
        if not tail or not self._run_dir.is_dir():
            return
        try:
            write_atomically(self._run_dir / LOST_LOG.format(number), _trim_tail(REDACTION.redact(tail)))
        except OSError as error:
            _log.warning("job %s: cannot keep the log of attempt %d: %s", self.job_id, number, describe(error))

    def read_round_count(self) -> int | None:
        """Return the number of rounds that a server's job is configured to train for; None if it is unknown."""
        return read_round_count(self._run_dir)

    def read_error(self) -> str:
        """Return the last error in the error log of a server's job, as one redacted line; empty if there is none.

        FLARE writes the log in the job's process; it returns with the job's results. It holds the server's own words,
        not those of the sites, whose error logs stay in FLARE's job store.
        """
        try:
            errors = find_errors(REDACTION.redact(read_end(self._error_log, MAX_LOG_BYTES).decode(errors="replace")))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                _log.info("job %s: cannot read its error log: %s", self.job_id, describe(error))
            return ""
        return display_text(errors[-1].message, _MAX_LOGGED_DETAIL) if errors else ""

    def summary(self, verdict: Verdict) -> str:
        """Describe a verdict in one line that a researcher may read."""
        return f"{verdict.reason.name}: {_describe(verdict, self.public_detail(verdict))}"

    def loss_summary(self, verdict: Verdict) -> str:
        """Describe the loss of an attempt in one line that a researcher may read."""
        return f"{verdict.reason.name}: {_describe_loss(verdict, self.public_detail(verdict))}"

    def public_detail(self, verdict: Verdict) -> str:
        """Return a verdict's detail as a researcher may read it."""
        return hide_values(REDACTION.redact(verdict.detail))

    def _describe_lost_attempts(self) -> str:
        losses = ", ".join(f"{number} ({verdict.reason.name})" for number, verdict in self._lost_attempts)
        return f"attempts lost: {losses}" if losses else ""

    def _outcome(self, verdict: Verdict, workflow: str, detail: str) -> Object:
        return {
            "job_id": self.job_id,
            "site": self._site,
            "workflow": workflow,
            "reason": verdict.reason.name,
            "code": verdict.code,
            "exit_code": verdict.exit_code,
            "what_happened": verdict.reason.sentence,
            "detail": detail[:_MAX_OUTCOME_DETAIL],
            "what_to_do": verdict.reason.remedy,
            "seen_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _write_files(self, outcome: Object, tail: str) -> None:
        # FLARE may have archived and removed the run directory by now, and it must not be created again.
        if not self._run_dir.is_dir():
            return
        write_atomically(self._run_dir / OUTCOME, json.dumps(outcome, indent=2) + "\n")
        if tail and outcome["code"] != ReturnCode.SUCCESS:
            write_atomically(self._run_dir / LOG_TAIL, tail)

    def _append_error(self, verdict: Verdict, text: str) -> None:
        if not self._error_log.parent.is_dir():
            return
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
        line = f"{now} - flargo - ERROR - {verdict.reason.name} ({verdict.code}): {text}\n"
        # The job's results are in the same folder, and one of them may be a link to any file: do not follow it.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(self._error_log, flags, 0o600), "a", encoding="utf-8") as log:
            log.write(line)


def _describe(verdict: Verdict, detail: str) -> str:
    """Return one line: the detail may hold text of the program, which must not look like the next entry of a log."""
    return " ".join(
        filter(None, (verdict.reason.sentence, display_text(detail, _MAX_LOGGED_DETAIL), verdict.reason.remedy))
    )


def _describe_loss(verdict: Verdict, detail: str) -> str:
    """Return one line without a remedy: the job goes on."""
    return " ".join(filter(None, (verdict.reason.sentence, display_text(detail, _MAX_LOGGED_DETAIL))))


def _trim_tail(log: str) -> str:
    """Return the end of a redacted log: whole lines, unless the last one alone is too long."""
    end = "\n".join(log.split("\n")[-MAX_LOG_LINES - log.endswith("\n") :])
    content = end.encode(errors="replace")
    if len(content) <= MAX_LOG_BYTES:
        return end
    last_bytes = content[-MAX_LOG_BYTES:]
    # The first line is whole if the byte before it is a line end.
    begin = 0 if content[-MAX_LOG_BYTES - 1] == ord("\n") else last_bytes.find(b"\n", 0, -1) + 1
    return last_bytes[begin:].decode(errors="ignore")
