"""The package needs what is optional only where it is used, and opens nothing by being imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from streamtask_contrib import config_sync
from streamtask_contrib.config_sync.settings import ConfigSettings
from streamtask_contrib.config_sync.worker import sources

from streamtask import ConfigurationError

WITHOUT = """
import sys
for missing in ("yaml", "httpx", "pydantic_settings"):
    sys.modules[missing] = None
from streamtask_contrib.config_sync import Follower, differences, redaction, versions
from streamtask_contrib.config_sync.documents import DocumentError, parse
assert parse(b"a = 1", "toml") == parse(b'{"a": 1}', "json") == {"a": 1}
try:
    parse(b"a: 1", "yaml")
except DocumentError as error:
    assert "PyYAML is not installed" in str(error)
else:
    raise AssertionError("YAML without PyYAML")
try:
    from streamtask_contrib.config_sync import app
except ImportError as error:
    assert "pip install '.[config]'" in str(error), error
else:
    raise AssertionError("settings without pydantic-settings")
"""


def test_who_reads_versions_needs_nothing_optional():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_app_is_made_of_the_environment_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREAMTASK_CONFIG_KEEP", "1")
    with pytest.raises(ConfigurationError, match="STREAMTASK_CONFIG_KEEP"):
        config_sync.app  # noqa: B018 - it is made by being asked for
    monkeypatch.setenv("STREAMTASK_CONFIG_KEEP", "7")
    assert config_sync.app.name == "config-sync"
    # Its router's, and that of `reporting`.
    assert len(config_sync.app.worker_lifespans) == 2
    monkeypatch.delitem(vars(config_sync), "app")


@pytest.mark.parametrize(
    ("settings", "said"),
    [({}, "STREAMTASK_CONFIG_FOLDER, _HASHES or _PAGES"), ({"hashes": {"a": "b"}}, "STREAMTASK_CONFIG_REDIS_URL")],
)
def test_what_is_missing_in_the_settings_is_said(settings, said):
    with pytest.raises(ConfigurationError, match=said):
        sources(ConfigSettings(**settings))


def test_secrets_of_the_settings_are_not_in_their_text():
    settings = ConfigSettings(redis_url="redis://u:hunter2@h/0", http_token="hunter2")
    assert "hunter2" not in repr(settings)
