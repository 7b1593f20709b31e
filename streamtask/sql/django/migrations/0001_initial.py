"""The outbox table."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Make it."""

    initial = True
    dependencies: ClassVar[list[Any]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel(
            name="OutboxRow",
            fields=[
                ("position", models.BigAutoField(primary_key=True, serialize=False)),
                ("event_id", models.CharField(max_length=36, unique=True)),
                ("stream", models.CharField(max_length=255)),
                ("body", models.BinaryField()),
                ("content_type", models.CharField(max_length=200, null=True)),
                ("content_encoding", models.CharField(max_length=200, null=True)),
                ("due_ms", models.BigIntegerField(null=True)),
            ],
            options={"db_table": "streamtask_outbox", "ordering": ["position"]},
        ),
    ]
