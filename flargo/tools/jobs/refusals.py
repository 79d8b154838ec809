"""Messages for people about requests that a cluster or an Argo Server refused. Pure."""

from flargo.cluster.errors import ApiError, ArchiveError, ArchiveProblem, status_text
from flargo.cluster.meaning import NO_CONTACT, Meaning
from flargo.job.names import display_text

_MAX_CHARACTERS = 400
"""The most characters that are quoted of a server's own message."""
_RIGHTS = {"log": ("get", "pods/log")}
"""The verb and resource of a role, for verbs of ours that no role has."""
_CLUSTER_SCOPE = "at the cluster scope"
"""In the API server's message if a right on all namespaces is missing."""
_GROUPS = {"workflows": "workflows.argoproj.io"}
_SEE_SERVER_LOG = "try again; if it persists, read the Argo Server's log and its database's"
_REMEDIES = {
    ArchiveProblem.UNREACHABLE: "check --argo-server (https:// or http://) and the network route to it",
    ArchiveProblem.UNTRUSTED: "give its CA certificate with --argo-ca, and check whether it serves https:// or http://",
    ArchiveProblem.TIMEOUT: _SEE_SERVER_LOG,
    ArchiveProblem.UNAUTHENTICATED: "give a file with a valid token with --argo-token",
    ArchiveProblem.FORBIDDEN: (
        "the token's account needs the right to get and list workflows.argoproj.io in the namespace"
    ),
    ArchiveProblem.NOT_FOUND: "check --argo-server, including the path under which it is served",
    ArchiveProblem.SERVER_ERROR: _SEE_SERVER_LOG,
    ArchiveProblem.REFUSED: "see its message",
    ArchiveProblem.INVALID_ANSWER: "check --argo-server, including the path under which it is served; "
    "a login page may have answered instead",
    ArchiveProblem.NO_ARCHIVE: "its administrator can enable the archive with persistence.archive",
}
"""A remedy for each problem of an Argo Server."""


def describe_refusal(error: ApiError) -> str:
    """Describe in one line what the API server refused, and what would help."""
    message = display_text(error.message, _MAX_CHARACTERS)
    resource = error.what.partition(" ")[0]
    verb, resource = _RIGHTS.get(error.verb, (error.verb, _GROUPS.get(resource, resource)))
    answer = status_text(error.status, error.reason) if error.status else error.meaning.value
    if error.meaning is Meaning.FORBIDDEN:
        place = "all namespaces" if _CLUSTER_SCOPE in message else "the namespace"
        return f"forbidden: this account needs the right to {verb} {resource} in {place} ({message})"
    if error.meaning is Meaning.UNAUTHENTICATED:
        return "the cluster rejected the credentials (401): the kubeconfig's token or certificate is invalid or expired"
    if is_argo_missing(error):
        return "the cluster has no Argo Workflows: install Argo 3.6 or newer, see flargo's README"
    if error.meaning in NO_CONTACT:
        return (
            f"the cluster can't be reached: {f'{answer}: ' if error.status and not error.is_foreign else ''}{message}"
        )
    return f"the cluster refused to {verb} {resource}: {answer} {message}".rstrip()


def is_argo_missing(error: ApiError) -> bool:
    """Return whether the API that lists Workflows seems not to be served. A cluster without it answers with a page.

    A gateway in front of the API server may answer with the same page for a while, so this decides nothing but the
    text, and how long a command waits.
    """
    is_missing = error.meaning in {Meaning.NOT_FOUND, Meaning.NOT_SERVED}
    return is_missing and error.verb == "list" and error.what.startswith("workflows")


def describe_archive_refusal(error: ArchiveError) -> str:
    """Describe in one line what is wrong with the Argo Server or the route to it, and what would help."""
    status = f" ({error.status})" if error.status else ""
    message = f" ({display_text(error.message, _MAX_CHARACTERS)})" if error.message else ""
    return f"the Argo Server {error.server} {error.problem.value}{status}: {_REMEDIES[error.problem]}{message}"
