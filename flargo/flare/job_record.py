"""The record of one running job, which two threads may change: one begins an attempt, another one ends the job."""

import threading
from collections.abc import Callable

from flargo.flare.launch_records import LaunchRecord, LaunchRecords
from flargo.status.verdict import Verdict


class JobRecord:
    """Keeps one job's record up to date. It holds no launch, which has a startup kit."""

    def __init__(self, records: LaunchRecords, job_id: str, may_change: Callable[[], bool]) -> None:
        """Prepare; nothing is written yet.

        Args:
            records: the records of the parent.
            job_id: FLARE's id of the job.
            may_change: returns whether the record is this parent's: another parent of the site, which has taken it
                over, may have one under the same name.
        """
        self._records = records
        self._job_id = job_id
        self._may_change = may_change
        self._lock = threading.Lock()
        self._has_ended = False

    def begin(self, record: LaunchRecord) -> None:
        """Record an attempt that is about to begin, unless the job has ended meanwhile."""
        with self._lock:
            if not self._has_ended:
                self._records.save(record)

    def end(self, verdict: Verdict) -> None:
        """Record the verdict, which FLARE has to report to its server."""
        with self._lock:
            self._has_ended = True
            if self._may_change():
                self._records.note_verdict(self._job_id, verdict)

    def delete(self) -> None:
        """Delete the record: nobody is to take the job back, or to report its end, any more."""
        with self._lock:
            if self._may_change():
                self._records.delete(self._job_id)
