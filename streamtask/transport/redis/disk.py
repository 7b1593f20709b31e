"""Writing that returns when the server's own disk has it (WAITAOF), and the servers that are refused for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from streamtask.errors import ConfigurationError
from streamtask.transport.disk import unfit_for_disk
from streamtask.transport.redis import commands
from streamtask.transport.redis.capabilities import parse_info
from streamtask.transport.redis.client import Caller
from streamtask.transport.redis.line import ServerError
from streamtask.transport.values import Capabilities

log = logging.getLogger(__name__)

#: Seconds that the disk may take: one until the next sync, two for which a write waits while the one before takes long.
#: Below what a reply may take.
_WITHIN = 3.0


class OnDisk:
    """The server's own disk. See `Confirmation`."""

    async def question(self) -> Sequence[str | int]:
        """See `Confirmation.question`."""
        return ["WAITAOF", 1, 0, round(_WITHIN * 1000)]

    def missing(self, question: Sequence[str | int], answer: Any) -> str:  # noqa: ARG002 - always the same
        """See `Confirmation.missing`."""
        on_disk, _ = answer
        return "" if on_disk else f"the disk of the server did not confirm it within {_WITHIN:g} s"


async def refuse_unfit(wire: Caller, server: Capabilities) -> None:
    """Make sure that the server can say when its disk has something, and can be believed. Of a cluster, one master.

    Raises:
        ConfigurationError: it cannot; the message says what to do.
        ServerError: this user may not ask it, or it is a replica.
    """
    info, config, answer = await wire.many(
        [["INFO", "persistence"], ["CONFIG", "GET", "appendfsync"], ["WAITAOF", 1, 0, 1]]
    )
    if isinstance(info, ServerError):
        raise info
    settings = parse_info(info)
    if not isinstance(config, ServerError):
        settings |= {name: value.decode() for name, value in commands.mapping(config).items()}
    unfit = unfit_for_disk(server.engine, server.version, settings)
    if unfit is not None:
        raise ConfigurationError(f"durability='disk': {unfit.reason}; {unfit.remedy}")
    if isinstance(answer, ServerError):
        raise answer
    if settings.get("appendfsync") == "everysec":
        log.warning("disk.synced_once_a_second", extra={"publish_takes_seconds": 2.0})
