"""What the Argo UI shows of a Workflow: its title, its description, and the name of its node in the graph.

The UI renders title and description as Markdown, and Argo evaluates ``{{``. Text that others chose is therefore put
into code spans, in which neither has an effect.

Sources: Argo 3.7.18 (ui/src/workflows/components/workflows-row, ui/src/shared/components/graph/label.tsx,
displayNameRegex and IsExitNode in its controller).
"""

import unicodedata

from flargo.job import names
from flargo.terms import Launch

MAX_TITLE_WIDTH = 20
"""Columns of a title: about as many as the UI's list has room for. Wide characters take two."""
MAX_NODE_NAME_LENGTH = 28
"""Characters of a node's name: the graph breaks it at a dash into two lines, and cuts longer names in the middle."""
_MIN_SITE_WIDTH = 8
"""Columns that a long site's name gets beside a long job's name."""
_MAX_JOB_PART, _MAX_SITE_PART = 15, 12
"""Characters that the names of the job and of the site have at most in a node's name."""
_SHORT_ID_LENGTH = 8


def title(launch: Launch) -> str:
    """Return the title of a Workflow as a code span, such as ```fedavg@site-1 2/3```: job, site and attempt."""
    attempt = f" {launch.number}/{launch.max_attempts}" if launch.max_attempts > 1 else ""
    job = names.display_text(launch.job_name) or _short_id(launch)
    site = names.display_text(launch.parent.site)
    room = MAX_TITLE_WIDTH - len(f"@{attempt}")
    site = _leave_middle_out(site, max(_MIN_SITE_WIDTH, room - _width(job)))
    return names.markdown_code(f"{_leave_middle_out(job, room - _width(site))}@{site}{attempt}")


def description(launch: Launch) -> str:
    """Return the description of a Workflow whose job has not ended. It begins with FLARE's job id."""
    study = f", study {names.markdown_code(launch.study)}" if launch.study else ""
    attempt = f", attempt {launch.number} of {launch.max_attempts}" if launch.max_attempts > 1 else ""
    return f"{names.markdown_code(launch.job_id)}, {launch.parent.role}{study}{attempt}"


def node_name(launch: Launch) -> str:
    """Return the name of the job's node in the graph: letters, digits and dashes.

    Argo fails a step whose name has another form, and takes one that ends with ``.onExit`` for an exit handler.
    """
    job = names.readable_part(launch.job_name, _MAX_JOB_PART) or names.readable_part(launch.job_id, _SHORT_ID_LENGTH)
    site = names.readable_part(launch.parent.site, _MAX_SITE_PART)
    return f"{job or 'job'}-{site or launch.parent.role}"


def _short_id(launch: Launch) -> str:
    return names.display_text(launch.job_id)[:_SHORT_ID_LENGTH]


def _width(text: str) -> int:
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in {"F", "W"} else 1


def _leave_middle_out(text: str, width: int) -> str:
    """Return the beginning and the end of a text that has more columns: names of a kind differ at either end."""
    if _width(text) <= width:
        return text
    head = _cut(text, width // 2)
    tail = _cut(text[::-1], width - 1 - width // 2)[::-1]
    return f"{head.rstrip()}…{tail.lstrip()}"


def _cut(text: str, width: int) -> str:
    while _width(text) > width:
        text = text[:-1]
    return text
