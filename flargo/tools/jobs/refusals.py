"""What a person is told when a cluster does not do what it is asked. Pure."""

from http import HTTPStatus

from flargo.cluster.errors import ApiError, ArchiveError, ArchiveProblem
from flargo.job.names import display_text

_LONGEST = 400
_RIGHTS = {"log": ("get", "pods/log")}
_GROUPS = {"workflows": "workflows.argoproj.io"}
_ITS_LOG = "try again; if it stays so, see its log and its database's"
_REMEDIES = {
    ArchiveProblem.UNREACHED: "check --argo-server (https:// or http://), and that a way leads there",
    ArchiveProblem.UNTRUSTED: "name its CA's file by --argo-ca, and check whether it speaks https:// or http://",
    ArchiveProblem.SILENT: _ITS_LOG,
    ArchiveProblem.UNKNOWN: "name a file with a token that is good by --argo-token",
    ArchiveProblem.BARRED: "the token's account needs the right to get and list workflows.argoproj.io in the namespace",
    ArchiveProblem.ABSENT: "check --argo-server, with the path that it is served under",
    ArchiveProblem.FAILS: _ITS_LOG,
    ArchiveProblem.REFUSES: "see what it says",
    ArchiveProblem.STRANGE: "check --argo-server, with the path that it is served under; "
    "a login page may be in the way",
    ArchiveProblem.NO_ARCHIVE: "its administrator can have it keep one, by persistence.archive",
}
"""What to do about an Argo Server."""


def refusal(error: ApiError) -> str:
    """One line: what is wrong, and what would be right."""
    said = display_text(error.message, _LONGEST)
    resource = error.what.partition(" ")[0]
    verb, resource = _RIGHTS.get(error.verb, (error.verb, _GROUPS.get(resource, resource)))
    if error.status == HTTPStatus.FORBIDDEN:
        return f"not allowed: this account needs the right to {verb} {resource} in the namespace ({said})"
    if error.status == HTTPStatus.UNAUTHORIZED:
        return (
            "the cluster does not know who asks (401): the kubeconfig's token or certificate is not, or no longer, good"
        )
    if error.status == HTTPStatus.NOT_FOUND and error.verb == "list" and resource == _GROUPS["workflows"]:
        return "the cluster has no Argo Workflows: install Argo 3.6 or newer, see flargo's README"
    if error.status == 0:
        return f"the cluster can't be reached: {said}"
    return f"the cluster refuses to {verb} {resource}: {error.status} {error.reason} {said}".rstrip()


def archive_refusal(error: ArchiveError) -> str:
    """One line: what is wrong with the Argo Server or the way to it, and what would be right."""
    status = f" ({error.status})" if error.status else ""
    said = f" ({display_text(error.message, _LONGEST)})" if error.message else ""
    return f"the Argo Server {error.server} {error.problem.value}{status}: {_REMEDIES[error.problem]}{said}"
