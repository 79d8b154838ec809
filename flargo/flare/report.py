"""Where the reason for a job's end reaches people: the parent's log, and the job's own files.

What people elsewhere may read, the outcome and FLARE's error log, has none of the values that Kubernetes quotes when
it refuses an object: they can be of the site's pod template. The parent's log has them.

On the server the run directory is archived when the job has ended, and ``download_job`` brings it to the
researcher: an outcome, and for a failure the end of the log. A client's run directory stays at the site. What
leaves it, where the site allows log streaming, is FLARE's own error log, so a client's reason is one line there;
the log itself may hold patients' data and stays.
"""

import json
import logging
import os
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

from flargo.cluster.error_text import describe
from flargo.control.loop import MAX_LOG_BYTES, MAX_LOG_LINES
from flargo.flare.redact import REDACTION
from flargo.job.names import display_text
from flargo.status.field_errors import hide_values
from flargo.status.reasons import ReturnCode
from flargo.status.verdict import Cause, Verdict
from flargo.terms import Role

OUTCOME = "argo_outcome.json"
LOG_TAIL = "argo_log_tail.txt"
_LONGEST, _IN_FULL = 1000, 10_000
"""Characters of a reason's detail: in a log, and in the outcome."""
_log = logging.getLogger(__name__)


class Report:
    """Tells what became of one job."""

    def __init__(self, job_id: str, site: str, role: Role, *, run_dir: Path, error_log: Path) -> None:
        """Of a job at a site.

        Args:
            job_id: FLARE's.
            site: FLARE's name of it.
            role: which side of the job.
            run_dir: the job's run directory at the parent.
            error_log: FLARE's error log of the job at the parent.
        """
        self.job_id = job_id
        """FLARE's."""
        self._site = site
        self._role = role
        self._run_dir = run_dir
        self._error_log = error_log
        self._lock = threading.Lock()
        self._told = False

    def write_preliminary(self, cause: Cause, workflow: str) -> None:
        """Write down on the server what a job is about to end of.

        Where its process does not end when FLARE tells it to, FLARE archives the run directory without waiting
        for the verdict. If the verdict is in time, it replaces this.

        Args:
            cause: who in FLARE ends it.
            workflow: its Workflow's name.
        """
        with self._lock:
            if self._told or self._role is not Role.SERVER:
                return
            verdict = Verdict(cause.value, int(cause.value.code or ReturnCode.LOST), "it is being ended")
            try:
                self._write(verdict, workflow, verdict.detail, tail="")
            except OSError as error:
                _log.warning("job %s: its outcome could not be written: %s", self.job_id, describe(error))

    def publish(self, verdict: Verdict, workflow: str, tail: str = "") -> None:
        """Tell it; what cannot be written is passed over, for the verdict must not wait for a disk.

        Args:
            verdict: what became of the job.
            workflow: the Workflow's name, where there was one.
            tail: the end of the program's log, and more of it than is kept.
        """
        level = logging.INFO if verdict.code == ReturnCode.SUCCESS else logging.WARNING
        detail = REDACTION.redact(verdict.detail)
        said = _sentence(verdict, detail)
        public = hide_values(detail)
        _log.log(level, "job %s at %s: %s (%d): %s", self.job_id, self._site, verdict.reason.name, verdict.code, said)
        try:
            if self._role is Role.SERVER:
                with self._lock:
                    self._told = True
                    self._write(verdict, workflow, public, _kept(REDACTION.redact(tail)))
            elif verdict.code != ReturnCode.SUCCESS:
                self._append(verdict, _sentence(verdict, public))
        except OSError as error:
            _log.warning("job %s: its outcome could not be written: %s", self.job_id, describe(error))

    def summary(self, verdict: Verdict) -> str:
        """A verdict in one line, as a researcher may read it."""
        return f"{verdict.reason.name}: {_sentence(verdict, hide_values(REDACTION.redact(verdict.detail)))}"

    def _write(self, verdict: Verdict, workflow: str, detail: str, tail: str) -> None:
        # FLARE may have archived and removed it by now; it must not come back.
        if not self._run_dir.is_dir():
            return
        outcome = {
            "job_id": self.job_id,
            "site": self._site,
            "workflow": workflow,
            "reason": verdict.reason.name,
            "code": verdict.code,
            "exit_code": verdict.exit_code,
            "what_happened": verdict.reason.sentence,
            "detail": detail[:_IN_FULL],
            "what_to_do": verdict.reason.remedy,
            "seen_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _put(self._run_dir / OUTCOME, json.dumps(outcome, indent=2) + "\n")
        if tail and verdict.code != ReturnCode.SUCCESS:
            _put(self._run_dir / LOG_TAIL, tail)

    def _append(self, verdict: Verdict, said: str) -> None:
        if not self._error_log.parent.is_dir():
            return
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
        line = f"{when} - flargo - ERROR - {verdict.reason.name} ({verdict.code}): {said}\n"
        # The job's own files have come home there: one of them may be a link to anywhere.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(self._error_log, flags, 0o600), "a", encoding="utf-8") as log:
            log.write(line)


def _sentence(verdict: Verdict, detail: str) -> str:
    """One line: the detail may be the program's own last words, and they must not look like a log's next entry."""
    return " ".join(filter(None, (verdict.reason.sentence, display_text(detail, _LONGEST), verdict.reason.remedy)))


def _kept(log: str) -> str:
    """The end of a log that has been redacted: whole lines, but for one that is too long by itself."""
    end = "\n".join(log.split("\n")[-MAX_LOG_LINES - log.endswith("\n") :])
    content = end.encode(errors="replace")
    if len(content) <= MAX_LOG_BYTES:
        return end
    cut = content[-MAX_LOG_BYTES:]
    # A line that ends right before what is kept leaves the next one whole.
    begin = 0 if content[-MAX_LOG_BYTES - 1] == ord("\n") else cut.find(b"\n", 0, -1) + 1
    return cut[begin:].decode(errors="ignore")


def _put(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all; its directory is not made anew."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
