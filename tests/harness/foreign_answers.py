"""Answers of what is no Kubernetes: login pages, gateways, web firewalls, captive portals and other services."""

import json
from dataclasses import dataclass

SECRET = "t0psecret-of-a-page"
"""A token that every body has, and every location. No message may quote it."""
JSON, HTML, TEXT = "application/json", "text/html; charset=utf-8", "text/plain; charset=utf-8"


@dataclass(frozen=True)
class ForeignAnswer:
    """An answer to any request."""

    code: int
    content_type: str
    body: bytes
    location: str = ""

    @property
    def raw(self) -> tuple[int, bytes, str, str]:
        """The answer as a KubernetesApi sends it."""
        return self.code, self.body, self.content_type, self.location


def _page(title: str) -> bytes:
    return f"<html><title>{title}</title><input name=csrf value={SECRET}></html>\n".encode()


def _document(**fields: object) -> bytes:
    return json.dumps({**fields, "token": SECRET}).encode()


def _object(kind: str, api_version: str = "v1") -> bytes:
    return _document(kind=kind, apiVersion=api_version, metadata={"name": "x", "uid": "u", "resourceVersion": "1"})


FOREIGN_ANSWERS = {
    "login page": ForeignAnswer(200, HTML, _page("Sign in")),
    "login page without a line end": ForeignAnswer(200, HTML, _page("Sign in").strip()),
    "login page for JSON": ForeignAnswer(200, JSON, _page("Sign in")),
    "empty object": ForeignAnswer(200, JSON, b"{}"),
    "empty objects in lines": ForeignAnswer(200, JSON, b"{}\n{}\n"),
    "list of nothing": ForeignAnswer(200, JSON, b"[]"),
    "null": ForeignAnswer(200, JSON, b"null"),
    "another service's object": ForeignAnswer(200, JSON, _document(status="ok", items=[])),
    "another kind": ForeignAnswer(200, JSON, _object("ConfigMap")),
    "another kind's list": ForeignAnswer(
        200, JSON, json.dumps({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": []}).encode()
    ),
    "a kind without a version": ForeignAnswer(200, JSON, _document(kind="List", items=[])),
    "failure with status 200": ForeignAnswer(200, JSON, _document(kind="Status", status="Failure", code=404)),
    "truncated JSON": ForeignAnswer(200, JSON, b'{"kind": "WorkflowList", "items": [{"token": "%s' % SECRET.encode()),
    "empty body": ForeignAnswer(200, "", b""),
    "empty body for JSON": ForeignAnswer(200, JSON, b""),
    "no content": ForeignAnswer(204, "", b""),
    "redirect": ForeignAnswer(302, HTML, _page("Found"), f"/login?token={SECRET}"),
    "captive portal": ForeignAnswer(307, HTML, b"", f"https://u:{SECRET}@portal.example/{SECRET}?token={SECRET}"),
    "firewall": ForeignAnswer(403, HTML, _page("Request blocked")),
    "firewall for JSON": ForeignAnswer(403, JSON, _document(message=f"forbidden {SECRET}", reason="NotFound")),
    "page for an expired session": ForeignAnswer(401, HTML, _page("Sign in")),
    "http for https": ForeignAnswer(400, "", b"Client sent an HTTP request to an HTTPS server.\n"),
    "page for nothing there": ForeignAnswer(404, HTML, _page("Not Found")),
    "JSON for nothing there": ForeignAnswer(404, JSON, _document(message="no Route matched", reason="NotFound")),
    "conflict": ForeignAnswer(409, JSON, _document(reason="AlreadyExists", message="exists")),
    "gone": ForeignAnswer(410, HTML, _page("Gone")),
    "too large": ForeignAnswer(413, HTML, _page("Request Entity Too Large")),
    "not valid": ForeignAnswer(422, JSON, _document(reason="Invalid", message="metadata.uid: Invalid value: 1")),
    "too many requests": ForeignAnswer(429, HTML, _page("Slow down")),
    "bad gateway": ForeignAnswer(502, HTML, _page("Bad Gateway")),
    "maintenance": ForeignAnswer(503, TEXT, f"back soon {SECRET}".encode()),
}
"""Answers by their names."""
