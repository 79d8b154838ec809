"""The configuration and credentials that flargo sends to the API server."""

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.config import incluster_config

from flargo.cluster.client_config import config_loader


class Clock(dt.datetime):
    """A clock that a test advances."""

    elapsed = dt.timedelta()

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "Clock":
        return cls(2026, 1, 1, tzinfo=tz) + cls.elapsed


def test_a_rotated_token_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a pod, a token that Kubernetes has rotated is used within a minute."""
    token, certificate = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first")
    certificate.write_text("a certificate")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate))
    monkeypatch.setattr(incluster_config, "datetime", SimpleNamespace(datetime=Clock, timedelta=dt.timedelta))
    configuration = config_loader(None)()
    assert configuration.host == "https://10.96.0.1:443"

    def token_value() -> str:
        """Return the credential of a request: flargo.cluster.connection reads it again for each one."""
        settings: Any = configuration.auth_settings()
        return str(settings["BearerToken"]["value"])

    assert token_value() == "bearer first"
    token.write_text("second")
    monkeypatch.setattr(Clock, "elapsed", dt.timedelta(seconds=61))
    assert token_value() == "bearer second"
