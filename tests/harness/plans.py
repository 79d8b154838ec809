"""A plan as :mod:`flargo.job.plan` makes it, with the least that submitting it needs."""

from flargo.terms import Annotation, Label, Object, Plan, SecretData, StartTimeouts

STARTUP = SecretData("nvflare-startup-site", {"rootCA.pem": b"root"})
LABELS = {Label.MANAGED_BY: "flargo", Label.FEDERATION: "f", Label.SITE: "s"}


def submit_plan(attempt: str = "a1", startup: SecretData = STARTUP) -> Plan:
    """Return the plan of one attempt to run the job ``job-site``."""
    workflow: Object = {
        "metadata": {
            "name": "job-site",
            "labels": LABELS | {Label.PARENT: "me"},
            "annotations": {Annotation.ATTEMPT: attempt},
        },
        "spec": {"suspend": True},
    }
    credentials = SecretData(f"nvflare-cred-job-site-{attempt}", {"TOKEN": b"t"})
    return Plan("job-site", "flare", attempt, workflow, startup, credentials, StartTimeouts(), grace=3)
