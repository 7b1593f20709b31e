"""What Django is told of the app, and where the outbox of this process lives."""

from __future__ import annotations

from functools import cached_property

from django.apps import AppConfig
from django.conf import settings

from streamtask.errors import ConfigurationError
from streamtask.loading import load_app
from streamtask.sql.django.tables import DjangoOutbox


class OutboxConfig(AppConfig):
    """`apps.get_app_config("streamtask_outbox")`."""

    name = "streamtask.sql.django"
    label = "streamtask_outbox"
    verbose_name = "streamtask outbox"
    default_auto_field = "django.db.models.BigAutoField"

    @cached_property
    def outbox(self) -> DjangoOutbox:
        """The outbox of the app that STREAMTASK_APP names. Raises ConfigurationError."""
        reference = getattr(settings, "STREAMTASK_APP", None)
        if not reference:
            raise ConfigurationError('the setting STREAMTASK_APP is missing: STREAMTASK_APP = "shop.events:app"')
        return DjangoOutbox(load_app(reference), self.get_model("OutboxRow"))
