"""What is read from the environment, and where blobs are."""

from __future__ import annotations

import pytest

from streamtask import BlobStores, ConfigurationError

pydantic_settings = pytest.importorskip("pydantic_settings", reason="it comes with the extras")
settings = pytest.importorskip("streamtask_contrib.settings", reason="pydantic-settings comes with the extras")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BlobStores.__dataclass_fields__:
        monkeypatch.delenv(f"STREAMTASK_BLOBS_{name.upper()}", raising=False)


def test_without_settings_blobs_are_where_the_core_keeps_them() -> None:
    assert settings.blob_stores() == BlobStores()


def test_every_setting_of_the_core_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = BlobStores(
        default="file", folder="/srv/audio", remote=("s3://a/x/", "gs://b/"), inline=True, max_bytes=7, ttl=1.5
    )
    for name in BlobStores.__dataclass_fields__:
        value = getattr(given, name)
        monkeypatch.setenv(f"STREAMTASK_BLOBS_{name.upper()}", ", ".join(value) if name == "remote" else str(value))

    assert settings.blob_stores() == given


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [
        ("s3://a/", ("s3://a/",)),
        (" s3://a/ , s3://b/,", ("s3://a/", "s3://b/")),
        ('["s3://a/", "s3://b/x,y/"]', ("s3://a/", "s3://b/x,y/")),
        ("", ()),
    ],
)
def test_prefixes_are_a_list_with_commas_or_of_json(
    monkeypatch: pytest.MonkeyPatch, text: str, prefixes: tuple[str, ...]
) -> None:
    monkeypatch.setenv("STREAMTASK_BLOBS_REMOTE", text)
    assert settings.blob_stores().remote == prefixes


@pytest.mark.parametrize(("name", "text"), [("REMOTE", "[1"), ("MAX_BYTES", "many"), ("TTL", "")])
def test_what_cannot_be_read_is_refused_or_left_out(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(f"STREAMTASK_BLOBS_{name}", text)
    if not text:
        assert settings.blob_stores() == BlobStores()
        return
    with pytest.raises(ConfigurationError, match=f"STREAMTASK_BLOBS_{name}: "):
        settings.blob_stores()


def test_what_the_core_refuses_is_refused_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMTASK_BLOBS_DEFAULT", "file")
    with pytest.raises(ConfigurationError, match="no `folder` is given"):
        settings.blob_stores()


def test_wrong_variables_are_named_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hearing(pydantic_settings.BaseSettings):
        model_config = pydantic_settings.SettingsConfigDict(env_prefix="STREAMTASK_HEARING_")
        beam: int = 1

    assert settings.from_environment(Hearing).beam == 1

    monkeypatch.setenv("STREAMTASK_HEARING_BEAM", "wide-1234")
    with pytest.raises(ConfigurationError, match=r"STREAMTASK_HEARING_BEAM: .* valid integer") as caught:
        settings.from_environment(Hearing)
    assert "1234" not in str(caught.value)
