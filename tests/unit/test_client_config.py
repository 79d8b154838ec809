"""Who flargo is to the API server."""

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.config import incluster_config

from flargo.cluster.client_config import config_loader


class Clock(dt.datetime):
    """A time that passes when told."""

    passed = dt.timedelta()

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "Clock":
        return cls(2026, 1, 1, tzinfo=tz) + cls.passed


def test_in_a_pod_a_token_that_kubernetes_has_rotated_is_read_within_a_minute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first")
    authority.write_text("a certificate")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setattr(incluster_config, "datetime", SimpleNamespace(datetime=Clock, timedelta=dt.timedelta))
    loaded = config_loader(None)()
    assert loaded.host == "https://10.96.0.1:443"

    def sent() -> str:
        """What a request would carry: flargo.cluster.api asks anew for each."""
        settings: Any = loaded.auth_settings()
        return str(settings["BearerToken"]["value"])

    assert sent() == "bearer first"
    token.write_text("second")
    monkeypatch.setattr(Clock, "passed", dt.timedelta(seconds=61))
    assert sent() == "bearer second"
