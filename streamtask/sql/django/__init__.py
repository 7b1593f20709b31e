"""The outbox for Django, as an app of INSTALLED_APPS: `"streamtask.sql.django"`.

The setting STREAMTASK_APP names your streamtask app, as `"shop.events:app"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.apps import apps as installed

from streamtask.event import Event


def publish_on_commit(
    event: Event,
    *,
    delay: float | None = None,
    at: datetime | None = None,
    headers: Mapping[str, str] | None = None,
    priority: str | None = None,
    using: str | None = None,
) -> str:
    """Publish an event if, and when, the transaction commits that this is called in; its event id.

    Without a transaction it is committed, and so published, by itself. `delay`: seconds from now, not from the commit.
    `at`: a moment, with a time zone. `priority`: one that its class declares. `using`: the database, by its alias; by
    default what the routers say.

    Raises:
        ConfigurationError: its class does not declare the priority.
        EventRefusedError: a consumer could not read it back; nothing was written.
    """
    return str(outbox().publish(event, delay=delay, at=at, headers=headers, priority=priority, using=using))


def outbox() -> Any:
    """What `publish_on_commit` writes to: a `DjangoOutbox`, whose `relay` runs inside this process.

    Raises:
        ConfigurationError: the setting STREAMTASK_APP is missing, or names no app.
    """
    return installed.get_app_config("streamtask_outbox").outbox
