"""Which jobs a command is about: the options that narrow a list of jobs down. Pure."""

from dataclasses import dataclass

from flargo.tools.jobs.site_job import selector


@dataclass(frozen=True, slots=True)
class JobFilter:
    """A choice of jobs. Without any value it is all jobs."""

    site: str | None = None
    federation: str | None = None
    workflow_labels: str = ""
    """A label selector for Workflows."""

    @property
    def labels(self) -> str:
        """The label selector of the jobs' Workflows and pods, without ``workflow_labels``."""
        return selector(self.site, self.federation)

    def describe_none(self, namespace: str, others: int) -> str:
        """Return the sentence that there are no such jobs.

        Args:
            namespace: where they were looked for; empty: in all namespaces.
            others: how many jobs there are that the filter leaves out.
        """
        words = [f"of site {self.site}"] if self.site else []
        words += [f"of federation {self.federation}"] if self.federation else []
        words += [f"with labels {self.workflow_labels}"] if self.workflow_labels else []
        words += [f"in namespace {namespace}" if namespace else "in any namespace"]
        hint = f" ({others} other{'s' if others > 1 else ''})" if others else ""
        return f"No jobs {' '.join(words)}{hint}."
