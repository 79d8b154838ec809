"""Build the launch of a job's next attempt at a site from its first one: the same pod with names of its own."""

from copy import deepcopy
from dataclasses import replace

from flargo.job import names
from flargo.terms import Launch, SecretData


def next_attempt(first: Launch, number: int, attempt: str) -> Launch:
    """Return the launch of a further attempt: the same program with the same credentials, in objects of its own.

    Args:
        first: the launch of the job's first attempt.
        number: which attempt it is, from 2.
        attempt: a new random id.
    """
    name = names.attempt_name(first.pod["metadata"]["name"], number)
    credentials = SecretData(names.credentials_secret(name, attempt), first.credentials.data)
    pod = deepcopy(first.pod)
    pod["metadata"]["name"] = name
    for container in pod["spec"]["containers"]:
        for entry in container.get("env") or () if container.get("name") == first.container else ():
            source = (entry.get("valueFrom") or {}).get("secretKeyRef") or {}
            if source.get("name") == first.credentials.name:
                source["name"] = credentials.name
    return replace(first, attempt=attempt, pod=pod, credentials=credentials, number=number)
