"""What the Argo UI shows of a job: lengths that fit, and foreign text that stays text."""

import re
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.job import argo_ui
from flargo.terms import Annotation, TemplateAnnotation
from tests.harness.hostile_text import HOSTILE
from tests.harness.launches import launch, plan_for
from tests.harness.markdown import shown_text

JOB = launch()
DISPLAY_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-.]{0,61}[a-zA-Z0-9]")
"""The form that Argo demands of a node's display name (displayNameRegex in 3.7.18's operator.go)."""


def named(job: str, site: str = "site-1", **changes: Any) -> Any:
    return replace(JOB, job_name=job, parent=replace(JOB.parent, site=site), **changes)


def columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "FW" else 1 for each in text)


@pytest.mark.parametrize(
    ("job", "site", "attempts", "title"),
    [
        ("oom", "site-1", (1, 1), "oom@site-1"),
        ("hello-numpy", "site-1", (1, 1), "hello-numpy@site-1"),
        ("argo terminate", "site-1", (1, 1), "argo t…minate@site-1"),
        ("fedavg", "site-1", (2, 3), "fedavg@site-1 2/3"),
        ("oom", "hospital-heidelberg", (1, 1), "oom@hospital…delberg"),
        ("brain-tumour-0.01", "hospital-heidelberg", (1, 1), "brain…-0.01@hosp…erg"),
        ("brain-tumour-0.01", "hospital-heidelberg", (2, 3), "bra….01@hosp…erg 2/3"),
        ("脳腫瘍セグメンテーション", "site-1", (1, 1), "脳腫瘍…ション@site-1"),
    ],
)
def test_a_title_says_job_site_and_attempt(job: str, site: str, attempts: tuple[int, int], title: str) -> None:
    number, most = attempts
    assert shown_text(argo_ui.title(named(job, site, number=number, max_attempts=most))) == title
    assert columns(title) <= argo_ui.MAX_TITLE_WIDTH


def test_a_job_without_a_name_has_its_id_in_the_title() -> None:
    request = named("", job_id="618de000-ced4-47d9-9c7c-1557c5a489c3")
    assert shown_text(argo_ui.title(request)) == "618de000@site-1"
    assert argo_ui.node_name(request) == "618de000-site-1"


def test_a_description_begins_with_the_id() -> None:
    request = named("x", study="cardio", number=2, max_attempts=3, job_id="618de000-ced4")
    assert argo_ui.description(request) == "`618de000-ced4`, client, study `cardio`, attempt 2 of 3"
    assert argo_ui.description(named("x", job_id="618de000-ced4")) == "`618de000-ced4`, client"


@given(HOSTILE, HOSTILE, st.integers(1, 1000))
def test_titles_fit_and_are_inert(job: str, site: str, attempts: int) -> None:
    title = argo_ui.title(named(job, site, number=attempts, max_attempts=attempts))
    text = shown_text(title)
    assert columns(text) <= argo_ui.MAX_TITLE_WIDTH
    assert title == f"`{text}`"
    assert "{{" not in title


@given(HOSTILE, HOSTILE)
def test_descriptions_are_inert(job_id: str, study: str) -> None:
    description = argo_ui.description(named("x", job_id=job_id, study=study))
    shown_text(description)
    assert "{{" not in description


@given(HOSTILE, HOSTILE, HOSTILE)
def test_argo_accepts_every_nodes_name(job: str, site: str, job_id: str) -> None:
    name = argo_ui.node_name(named(job, site, job_id=job_id))
    assert DISPLAY_NAME.fullmatch(name)
    assert len(name) <= argo_ui.MAX_NODE_NAME_LENGTH
    assert not name.endswith(".onExit"), "Argo would take it for an exit handler"


def test_a_workflow_has_these_texts() -> None:
    request = named("fed avg", study="cardio")
    workflow = plan_for(request).workflow
    annotations, (template,) = workflow["metadata"]["annotations"], workflow["spec"]["templates"]
    assert annotations[Annotation.TITLE] == "`fed avg@site-1`"
    assert annotations[Annotation.DESCRIPTION] == f"`{request.job_id}`, client, study `cardio`"
    assert template["annotations"] == {TemplateAnnotation.DISPLAY_NAME: "fed-avg-site-1"}
