"""Jobs as a site would submit them: one without a study, and one for each study that its files know."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flargo.flare.dry_run import SimulatedParent, dry_run
from flargo.job.documents import load_yaml
from flargo.job.settings import Settings
from flargo.job.validate import InvalidInput
from flargo.tools.doctor.facts import SampleJob
from flargo.tools.kit.files import Files
from flargo.tools.kit.site import STUDY_DATA, STUDY_RUNTIME

_IMAGE = "registry.example/flargo-doctor:none"
"""Stands for a job's. Nothing pulls it."""


def build_samples(
    job_meta: dict[str, Any] | None, files: Files, stage: SimulatedParent, settings: Settings
) -> tuple[list[SampleJob], dict[str, str]]:
    """What the site would submit, and why it would refuse the rest, both by names for people.

    Args:
        job_meta: a job's own; None: an example's, with as much as the site's policy allows.
        files: the site's kit.
        stage: its parent.
        settings: its launcher's.
    """
    made, refused = [], {}
    for name, meta in _job_metas(job_meta, files, settings):
        # The example's image is no job author's, so the site's lists of images are not held against it.
        lifted = settings if job_meta is not None else _without_image_policy(settings)
        try:
            plan = dry_run(meta, stage, lifted)
        except InvalidInput as error:
            refused[name] = str(error)
            continue
        except ValueError:  # of nvflare; its text may hold a value of the file
            refused[name] = "nvflare does not accept what the job or the site's study file says"
            continue
        workflow = json.loads(json.dumps(plan.workflow))
        made.append(SampleJob(name, workflow, frozenset({plan.startup.name, plan.credentials.name})))
    return made, refused


def study_names(files: Files) -> list[str]:
    """The studies of a site's files. A file that cannot be read is told of when a job is rendered."""
    named = {*_parse_or_empty(files, STUDY_DATA)}
    runtime = _parse_or_empty(files, STUDY_RUNTIME).get("studies")
    return sorted(str(name) for name in named | {*(runtime if isinstance(runtime, dict) else {})})


def _job_metas(
    job_meta: dict[str, Any] | None, files: Files, settings: Settings
) -> Iterator[tuple[str, dict[str, Any]]]:
    if job_meta is not None and job_meta.get("study"):
        yield f"the job, of study {job_meta['study']}", job_meta
        return
    yield ("the job" if job_meta is not None else "a job without study"), job_meta or _example(settings)
    for study in study_names(files):
        yield f"a job of study {study}", {**(job_meta or _example(settings)), "study": study}


def _example(settings: Settings) -> dict[str, Any]:
    policy = settings.argo.policy
    limits = {name: amount for name, amount in (("cpu", policy.cpu), ("memory", policy.memory)) if amount}
    return {"name": "doctor", "launcher_spec": {"default": {"k8s": {"image": _IMAGE, **limits}}}}


def _without_image_policy(settings: Settings) -> Settings:
    policy = replace(settings.argo.policy, images=None, digests=False)
    return replace(settings, argo=replace(settings.argo, policy=policy))


def _parse_or_empty(files: Files, path: str) -> dict[str, Any]:
    try:
        found = load_yaml(path, files.get(path, b""))
    except InvalidInput:
        return {}
    return found if isinstance(found, dict) else {}
