"""Launches with and without a pod template, and the plans and pods that they become."""

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
    """Return the launch of a case, by default of a plain job; ``changes`` replace its fields."""
    with tempfile.TemporaryDirectory() as root:
        return replace((case or Case("plain")).launch(Path(root), role), **changes)


def launch_with_template(spec: Object | None = None, **metadata: Any) -> Launch:
    """Return the launch of a job whose site has a pod template."""
    return launch(study_case("with a template", template(spec, **metadata)))


def plan_for(request: Launch | None = None, **arguments: Any) -> Plan:
    """Return the plan of a launch, with a launcher's arguments."""
    return build_plan(request or launch(), check_settings(**arguments))


def argo_pod(plan: Plan) -> Object:
    """Return the pod that Argo would create for a plan."""
    return pod_from_workflow(plan.workflow)
