"""The outbox table."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class OutboxRow(models.Model):
    """An event that waits for its relay. Written by `publish_on_commit`, removed by the relay, never changed."""

    position = models.BigAutoField(primary_key=True)
    event_id = models.CharField(max_length=36, unique=True)
    stream = models.CharField(max_length=255)
    body = models.BinaryField()
    content_type = models.CharField(max_length=200, null=True)  # noqa: DJ001 - none is none
    content_encoding = models.CharField(max_length=200, null=True)  # noqa: DJ001 - as above
    due_ms = models.BigIntegerField(null=True)

    class Meta:
        """Its name, and the order in which rows are relayed."""

        db_table = "streamtask_outbox"
        ordering: ClassVar = ["position"]

    def __str__(self) -> str:
        return f"{self.event_id} for {self.stream}"
