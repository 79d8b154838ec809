"""Records of a client's running launches on the site's disk, from which the parent's next run takes its jobs back.

A record holds what neither the cluster nor FLARE can tell a later run: how to build the job's next attempt, which
attempt was the last one, and how the job has ended, until FLARE has told its server. It holds no secret: credentials
are only in the attempt's Secret. The folder is in the parent's workspace, which in a cluster is on a volume. It is no
part of what FLARE sends to job pods: the folder ``local`` and the job's own.
"""

import json
import logging
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flargo.cluster.error_text import describe
from flargo.flare.atomic_file import append_durably, write_atomically
from flargo.flare.redact import REDACTION
from flargo.job import names
from flargo.job.documents import load_json
from flargo.job.trust import MAX_REJOIN, job_id
from flargo.job.validate import InvalidInput, Verbatim, between, dns_label, mapping, object_name, optional, seconds
from flargo.parsing import is_attempt
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.terms import Launch, Object, Parent, Role, SecretData

FOLDER = Path(".flargo", "launches")
"""The folder of the records, in the parent's workspace."""
_VERSION = 1
_MAX_BYTES = 4 * 1024 * 1024
"""Bytes of a record. A Workflow, which holds the same pod, has at most half as many (etcd's limit)."""
_MAX_DETAIL = 1000
"""Characters of a verdict's detail that a record keeps."""
_MAX_CODE = 2**32 - 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LostAttempt:
    """The attempt before the latest one."""

    attempt: str
    """Its id."""
    verdict: Verdict
    """How it was lost."""


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """One launch of a client's job, and its latest attempt."""

    first: Launch
    """The first attempt, without the content of its Secrets."""
    number: int
    """Which attempt was the latest, from 1."""
    attempt: str
    """The id of the latest attempt."""
    lost: LostAttempt | None = None
    """The attempt before the latest one: the parent may have ended before the latest one could exist."""
    verdict: Verdict | None = None
    """The verdict on the job, which FLARE's server may not have heard; None: it has not ended yet."""

    @property
    def before(self) -> "LaunchRecord | None":
        """The record as it was before its latest attempt was about to begin; None for a first attempt."""
        if self.lost is None or self.number == 1:
            return None
        return replace(self, number=self.number - 1, attempt=self.lost.attempt, lost=None)

    @property
    def workflow(self) -> str:
        """The name of the latest attempt's Workflow."""
        return names.attempt_name(self.first.pod["metadata"]["name"], self.number)

    @property
    def credentials(self) -> str:
        """The name of the latest attempt's credentials Secret."""
        return names.credentials_secret(self.workflow, self.attempt)


class RecordsError(Exception):
    """The records cannot be read at the moment, so nobody knows which jobs they name. The message is for people."""


class LaunchRecords:
    """The folder with one file for each running launch of a parent.

    Neither the folder nor the one above it may be a link: whoever made the startup kit could otherwise choose what is
    deleted.
    """

    def __init__(self, workspace: Path) -> None:
        """Use the folder of a workspace; it is created for the first record.

        Args:
            workspace: the parent's workspace.
        """
        self._folder = workspace / FOLDER

    def save(self, record: LaunchRecord) -> None:
        """Write a record, or replace it. A record that cannot be written is only logged: its job runs all the same."""
        job = record.first.job_id
        try:
            if self._is_link:
                text = "job %s: not recorded, so it ends if this parent restarts: %s is a link"
                _log.warning(text, job, self._folder)
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lines = [_to_json(record), *([] if record.verdict is None else [_verdict_to_json(record.verdict)])]
            write_atomically(self._path(job), "".join(map(_line, lines)), is_durable=True)
        except OSError as error:
            _log.warning("job %s: not recorded, so it ends if this parent restarts: %s", job, describe(error))

    def note_verdict(self, job_id: str, verdict: Verdict) -> None:
        """Add the verdict on a job to the job's record, if there is one."""
        path = self._path(job_id)
        try:
            if not self._is_link and not path.is_symlink() and path.is_file():
                append_durably(path, "\n" + _line(_verdict_to_json(verdict)))
        except OSError as error:
            _log.warning("job %s: its verdict cannot be recorded: %s", job_id, describe(error))

    def delete(self, job_id: str) -> None:
        """Delete a job's record, if there is one."""
        try:
            if not self._is_link:
                self._path(job_id).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("job %s: its record cannot be deleted: %s", job_id, describe(error))

    def load(self, parent: Parent, *, is_owner: bool = True) -> list[LaunchRecord]:
        """Return all records of a site's earlier runs.

        Args:
            parent: this run of the parent; the records get its epoch.
            is_owner: no other parent of the site writes records, so what cannot be used is logged and deleted.

        Raises:
            RecordsError: the disk does not let the records be read.
        """
        records = []
        for path in self._files():
            try:
                records.append(_from_json(path, parent))
            except FileNotFoundError:
                continue  # Another parent has deleted it meanwhile.
            except OSError as error:
                raise RecordsError(f"the record of a launch {path} cannot be read: {describe(error)}") from error
            except InvalidInput as error:
                if is_owner:
                    _log.warning("%s: this record of a launch cannot be used: %s", path, error)
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
        return records

    def _files(self) -> list[Path]:
        """Return the records, and what remains of one that was being written when the parent ended.

        Raises:
            RecordsError: the disk does not let the folder be read.
        """
        try:
            if self._is_link:
                _log.warning("%s is a link; it is not read", self._folder)
                return []
            return sorted(self._folder.iterdir())
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            _log.warning("%s: the records of launches cannot be read: %s", self._folder, describe(error))
            return []
        except OSError as error:
            problem = f"the records of launches in {self._folder} cannot be read: {describe(error)}"
            raise RecordsError(problem) from error

    @property
    def _is_link(self) -> bool:
        return self._folder.is_symlink() or self._folder.parent.is_symlink()

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"


def _to_json(record: LaunchRecord) -> Object:
    first = record.first
    return {
        "version": _VERSION,
        "job_id": first.job_id,
        "job_name": first.job_name,
        "study": first.study,
        "site": first.parent.site,
        "federation": first.parent.federation,
        "first_attempt": first.attempt,
        "pod": first.pod,
        "container": first.container,
        "startup": first.startup.name,
        "credentials": first.credentials.name,
        "pending": first.pending,
        "max_attempts": first.max_attempts,
        "refused_attempts": first.refused_attempts,
        "number": record.number,
        "attempt": record.attempt,
        "lost": _lost_to_json(record.lost),
    }


def _line(value: Object) -> str:
    return json.dumps(value) + "\n"


def _lost_to_json(lost: LostAttempt | None) -> Object | None:
    return None if lost is None else {"attempt": lost.attempt, "verdict": _verdict_to_json(lost.verdict)}


def _verdict_to_json(verdict: Verdict) -> Object:
    detail = REDACTION.redact(verdict.detail)[:_MAX_DETAIL]
    return {"reason": verdict.reason.name, "code": verdict.code, "detail": detail, "exit_code": verdict.exit_code}


def _lost_from_json(value: object) -> LostAttempt | None:
    if value is None:
        return None
    fields = mapping("lost", value)
    verdict = _verdict_from_json("lost['verdict']", fields.get("verdict"))
    return LostAttempt(_attempt(fields, "attempt", "lost['attempt']"), verdict)


def _verdict_from_json(name: str, value: object) -> Verdict:
    fields = mapping(name, value)
    reason = fields.get("reason")
    if not isinstance(reason, str) or reason not in Reason.__members__:
        raise InvalidInput(f"{name}['reason']", reason, "the name of a reason")
    code = between(0, _MAX_CODE)(f"{name}['code']", fields.get("code"))
    exit_code = optional(between(0, _MAX_CODE))(f"{name}['exit_code']", fields.get("exit_code"))
    return Verdict(Reason[reason], code, _text(fields, "detail", f"{name}['detail']"), exit_code)


def _from_json(path: Path, parent: Parent) -> LaunchRecord:
    """Read a record.

    Raises:
        InvalidInput: it is no file, not complete, not JSON, or of another site; names the field.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise InvalidInput("the file", Verbatim("a link, a folder or a device"), "a file")
    with path.open("rb") as stream:
        text = stream.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise InvalidInput("the file", Verbatim("too large"), f"at most {_MAX_BYTES} bytes")
    line, *rest = text.split(b"\n")
    # A verdict is one line. The parent may have died while it wrote one, so a line without its end does not count.
    verdicts = [each for each in rest[:-1] if each]
    fields = mapping("the file", load_json("the file", line))
    for key, value in (("version", _VERSION), ("site", parent.site), ("federation", parent.federation)):
        if fields.get(key) != value:
            raise InvalidInput(key, fields.get(key), repr(value))
    pod = mapping("pod", fields.get("pod"))
    dns_label("pod['metadata']['name']", mapping("pod['metadata']", pod.get("metadata")).get("name"))
    containers = mapping("pod['spec']", pod.get("spec")).get("containers")
    if not isinstance(containers, list) or not all(isinstance(container, dict) for container in containers):
        raise InvalidInput("pod['spec']['containers']", containers, "a list of dictionaries")
    first = Launch(
        job_id=job_id("job_id", fields.get("job_id")),
        job_name=_text(fields, "job_name"),
        study=_text(fields, "study"),
        parent=Parent(parent.site, parent.federation, parent.epoch, Role.CLIENT),
        attempt=_attempt(fields, "first_attempt"),
        pod=pod,
        container=_text(fields, "container"),
        startup=SecretData(object_name("startup", fields.get("startup")), {}),
        credentials=SecretData(object_name("credentials", fields.get("credentials")), {}),
        pending=optional(seconds)("pending", fields.get("pending")),
        max_attempts=between(1, MAX_REJOIN + 1)("max_attempts", fields.get("max_attempts")),
        refused_attempts=_text(fields, "refused_attempts"),
    )
    if path.name != f"{first.job_id}.json":
        raise InvalidInput("job_id", first.job_id, f"the file's name without .json: {path.name}")
    number = between(1, first.max_attempts)("number", fields.get("number"))
    verdict = _verdict_from_json("verdict", load_json("verdict", verdicts[-1])) if verdicts else None
    return LaunchRecord(first, number, _attempt(fields, "attempt"), _lost_from_json(fields.get("lost")), verdict)


def _text(fields: Mapping[str, Any], key: str, name: str = "") -> str:
    """Return a string of a dictionary; ``name`` is what messages call it."""
    value = fields.get(key)
    if not isinstance(value, str):
        raise InvalidInput(name or key, value, "a string")
    return value


def _attempt(fields: Mapping[str, Any], key: str, name: str = "") -> str:
    value = _text(fields, key, name)
    if not is_attempt(value):
        raise InvalidInput(name or key, value, "1 to 20 lower-case letters and digits")
    return value
