"""Words for tests of the plan: a launch as FLARE asks for it, with a pod template or without."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from flargo.job.plan import build_plan
from flargo.job.settings import check_settings
from flargo.terms import Launch, Plan, Role
from tests.harness.differential.argo import pod_from_workflow
from tests.harness.differential.cases import Case, study_case, template

Object = dict[str, Any]


def launch(case: Case | None = None, role: Role = Role.CLIENT, **changes: Any) -> Launch:
    """The launch of a case, or of a plain one."""
    with tempfile.TemporaryDirectory() as root:
        return replace((case or Case("plain")).launch(Path(root), role), **changes)


def launch_with_template(spec: Object | None = None, **metadata: Any) -> Launch:
    """The launch of a job whose site has a pod template."""
    return launch(study_case("with a template", template(spec, **metadata)))


def plan_for(asked: Launch | None = None, **arguments: Any) -> Plan:
    """What becomes of it with a launcher's arguments."""
    return build_plan(asked or launch(), check_settings(**arguments))


def argo_pod(made: Plan) -> Object:
    """The pod that Argo would make of a plan."""
    return pod_from_workflow(made.workflow)
