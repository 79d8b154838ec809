"""Builds sample jobs as a site would submit them: one of FLARE's default study, and one for each other study it has."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nvflare.apis.job_def import DEFAULT_STUDY, get_job_meta_study

from flargo.flare.dry_run import SimulatedParent, dry_run
from flargo.job.documents import load_yaml
from flargo.job.settings import Settings
from flargo.job.validate import InvalidInput
from flargo.tools.doctor.facts import SampleJob
from flargo.tools.kit.files import Files
from flargo.tools.kit.site import STUDY_DATA, STUDY_RUNTIME

_IMAGE = "registry.example/flargo-doctor:none"
"""A placeholder for a job's image; nothing pulls it."""


def build_samples(
    job_meta: dict[str, Any] | None, files: Files, parent: SimulatedParent, settings: Settings
) -> tuple[list[SampleJob], dict[str, str]]:
    """Return the jobs that the site would submit, and why flargo would reject the others, by the names of the jobs.

    Args:
        job_meta: the metadata of a user's job; None is an example that requests the most that the site's policy allows.
        files: the files of the site's kit.
        parent: the site's parent.
        settings: the settings of the site's launcher.
    """
    samples, rejected_jobs = [], {}
    for name, meta in _job_metas(job_meta, files, settings):
        # The example's image is not a job author's choice, so the site's image policy does not apply to it.
        effective = settings if job_meta is not None else _without_image_policy(settings)
        try:
            plan = dry_run(meta, parent, effective)
        except InvalidInput as error:
            rejected_jobs[name] = str(error)
            continue
        except ValueError:  # from nvflare; its text may contain a value of the file
            rejected_jobs[name] = "nvflare does not accept what the job or the site's study file says"
            continue
        workflow = json.loads(json.dumps(plan.workflow))
        samples.append(SampleJob(name, workflow, frozenset({plan.startup.name, plan.credentials.name})))
    return samples, rejected_jobs


def study_names(files: Files) -> list[str]:
    """Return the names of the studies in a site's files. Errors in a file are reported when a job is built."""
    names = {*_parse_or_empty(files, STUDY_DATA)}
    runtime = _parse_or_empty(files, STUDY_RUNTIME).get("studies")
    return sorted(str(name) for name in names | {*(runtime if isinstance(runtime, dict) else {})})


def _job_metas(
    job_meta: dict[str, Any] | None, files: Files, settings: Settings
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each sample job's name for users, and its metadata."""
    meta = _example(settings) if job_meta is None else job_meta
    own = get_job_meta_study(meta)
    if own != DEFAULT_STUDY:
        yield f"the job, of study {own}", meta
        return
    yield (f"a job of study {own}" if job_meta is None else "the job"), meta
    for study in study_names(files):
        if study != DEFAULT_STUDY:
            yield f"a job of study {study}", {**meta, "study": study}


def _example(settings: Settings) -> dict[str, Any]:
    policy = settings.argo.policy
    limits = {name: amount for name, amount in (("cpu", policy.cpu), ("memory", policy.memory)) if amount}
    return {"name": "doctor", "launcher_spec": {"default": {"k8s": {"image": _IMAGE, **limits}}}}


def _without_image_policy(settings: Settings) -> Settings:
    policy = replace(settings.argo.policy, images=None, digests=False)
    return replace(settings, argo=replace(settings.argo, policy=policy))


def _parse_or_empty(files: Files, path: str) -> dict[str, Any]:
    try:
        document = load_yaml(path, files.get(path, b""))
    except InvalidInput:
        return {}
    return document if isinstance(document, dict) else {}
