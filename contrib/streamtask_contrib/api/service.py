"""What all endpoints of one API process share, and how an endpoint gets at it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from streamtask import App
from streamtask_contrib.api.handover import Handover
from streamtask_contrib.api.hub import Hub
from streamtask_contrib.api.keys import Keys, Seats
from streamtask_contrib.api.pressure import Pressure
from streamtask_contrib.api.settings import ApiSettings
from streamtask_contrib.api.statuses import Statuses
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.capture.register import Register


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of one API process."""

    settings: ApiSettings
    #: The streamtask app, "orchestration-api".
    events: App
    keys: Keys
    hub: Hub
    pressure: Pressure
    handover: Handover
    #: Sockets and event streams, and uploads, that are open.
    connections: Seats
    uploads: Seats
    bots: Bots
    statuses: Statuses
    #: Held by who asks for a bot.
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(cls, settings: ApiSettings, events: App) -> Service:
        """The parts, made for these settings."""
        return cls(
            settings=settings,
            events=events,
            keys=Keys(settings.keys),
            hub=Hub(events, settings),
            pressure=Pressure(events, settings),
            handover=Handover(),
            connections=Seats(settings.max_connections),
            uploads=Seats(settings.max_uploads),
            bots=Bots(events),
            statuses=Statuses(events, settings),
        )

    def register(self, session_id: str) -> Register:
        """What is written down of a session's audio."""
        return Register(self.events, session_id, ttl=self.settings.session_ttl)


def current_service(connection: HTTPConnection) -> Service:
    """The service that a request or a socket has come to."""
    service: Service = connection.app.state.service
    return service


def current_user(connection: HTTPConnection) -> str:
    """Whose request it is; `Guard` has let it in."""
    user: str = connection.state.user
    return user


Serving = Annotated[Service, Depends(current_service)]
User = Annotated[str, Depends(current_user)]
