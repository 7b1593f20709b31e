"""How bots are, for everybody who watches one: each status once, in order, from the one that stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from streamtask import App, StoredEnvelope
from streamtask_contrib.api.delivery import Mailbox, status_message
from streamtask_contrib.api.reading import Reader, decoded
from streamtask_contrib.api.settings import ApiSettings
from streamtask_contrib.events import BotStatusUpdate

STREAM = "bot-control"
_STATUSES = {BotStatusUpdate.__name__: BotStatusUpdate}
#: Seconds that this process' clock may be ahead of the broker's without a status being missed.
_SKEW = 60.0


class Statuses(Reader):
    """Reads the statuses of bots and hands them to mailboxes, by bot."""

    def __init__(self, app: App, settings: ApiSettings) -> None:
        super().__init__(app, STREAM, since=_SKEW)
        self._most = settings.max_waiting_finals

    def take(self, stored: StoredEnvelope) -> None:
        """Hand one status to those who wait for it."""
        update = decoded(stored, _STATUSES)
        if update is None or not (mailboxes := self.mailboxes(update.bot_id)):
            return
        message = status_message(update)
        for mailbox in mailboxes:
            mailbox.put(message)

    @contextmanager
    def listen(self, bot_id: str) -> Iterator[Mailbox]:
        """A mailbox with the statuses of a bot from now on; there may be some that are older than what stands."""
        with self.waiting(bot_id, Mailbox(max_partials=1, max_finals=self._most)) as mailbox:
            yield mailbox
