"""The results of sessions, for everybody who waits for them.

The hub reads `stream:audio-results` from the beginning of the replay window on, and keeps what it read, as far as
memory allows: a client that comes back is served from there.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from streamtask import App, StoredEnvelope
from streamtask_contrib.api.delivery import Mailbox, Message, Result, message_of, partial_of, tell
from streamtask_contrib.api.reading import Reader, decoded
from streamtask_contrib.api.settings import ApiSettings
from streamtask_contrib.events import (
    ProcessingFailed,
    TranscriptionCompleted,
    TranslationCompleted,
)
from streamtask_contrib.transcript.agreement import Agreement

STREAM = "audio-results"
_RESULTS: Mapping[str, type[Result]] = {
    cls.__name__: cls for cls in (TranscriptionCompleted, TranslationCompleted, ProcessingFailed)
}
#: Sessions of which is remembered how far their speech has come.
_MAX_SPOKEN = 10_000


@dataclass(slots=True)
class _Spoken:
    """What is being spoken in a session: its open chunk, and which of its words are stable."""

    sequence: int = -1
    agreement: Agreement = field(default_factory=Agreement)


class Hub(Reader):
    """Reads results and hands them to mailboxes, by session."""

    def __init__(self, app: App, settings: ApiSettings) -> None:
        super().__init__(app, STREAM, since=settings.replay)
        self._settings = settings
        self._kept: deque[Message] = deque()
        self._kept_bytes = 0
        self._by_session: dict[str, deque[Message]] = {}
        #: The last id that was forgotten: whoever asks from before it misses something.
        self._forgotten = ""
        self._spoken: OrderedDict[str, _Spoken] = OrderedDict()

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, stored: StoredEnvelope) -> None:
        """Hand one result to those who wait for it."""
        result = decoded(stored, _RESULTS)
        message = None if result is None else self._message(result, stored.entry_id)
        if message is None:
            return
        if not message.is_passing:
            self._keep(message)
        for mailbox in self.mailboxes(message.session_id):
            mailbox.put(message)

    def _message(self, result: Result, entry_id: str) -> Message | None:
        if not isinstance(result, TranscriptionCompleted):
            return message_of(result, entry_id=entry_id)
        spoken = self._spoken.setdefault(result.session_id, _Spoken())
        self._spoken.move_to_end(result.session_id)
        if len(self._spoken) > _MAX_SPOKEN:
            self._spoken.popitem(last=False)
        if not result.is_partial:
            if result.sequence >= spoken.sequence:
                self._spoken[result.session_id] = _Spoken(result.sequence + 1)
            return message_of(result, entry_id=entry_id)
        if result.sequence < spoken.sequence:
            return None  # what is said of it by now is final
        if result.sequence > spoken.sequence:
            spoken.sequence, spoken.agreement = result.sequence, Agreement()
        words = [word for segment in result.segments for word in segment.words]
        return partial_of(result, *spoken.agreement.update(words))

    # ── keeping ───────────────────────────────────────────────────────────────────────────────────────────────

    def _keep(self, message: Message) -> None:
        self._kept.append(message)
        self._kept_bytes += len(message.text)
        self._by_session.setdefault(message.session_id, deque()).append(message)
        oldest = order(message.id)[0] - round(self._settings.replay * 1000)
        while self._kept and (self._kept_bytes > self._settings.replay_bytes or order(self._kept[0].id)[0] < oldest):
            self._forget()

    def _forget(self) -> None:
        message = self._kept.popleft()
        self._kept_bytes -= len(message.text)
        self._forgotten = message.id
        kept = self._by_session[message.session_id]
        kept.popleft()
        if not kept:
            del self._by_session[message.session_id]

    # ── giving ────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def listen(self, session_id: str, *, after: str = "0") -> Iterator[Mailbox]:
        """A mailbox with the results of a session behind an entry id ("0": all that is kept, "$": none), then live."""
        mailbox = Mailbox(
            max_partials=self._settings.max_waiting_partials,
            max_finals=self._settings.max_waiting_finals,
            earlier=self._earlier(session_id, after),
            last_id="" if after == "$" else after,
        )
        with self.waiting(session_id, mailbox):
            yield mailbox

    def known(self, session_id: str) -> list[Result]:
        """The final results of a session that are kept."""
        return [message.result for message in self._by_session.get(session_id, ()) if message.result is not None]

    def _earlier(self, session_id: str, after: str) -> list[Message]:
        if after == "$":
            return []
        since = order(after)
        found = [message for message in self._by_session.get(session_id, ()) if order(message.id) > since]
        if since > (0, 0) and self._forgotten and since < order(self._forgotten):
            where = f"/api/sessions/{session_id}/transcript"
            found.insert(0, tell("gap", session_id=session_id, after=after, transcript=where))
        return found


def order(entry_id: str) -> tuple[int, int]:
    """An entry id, to be compared: "1700000000000-3", or milliseconds alone. Raises ValueError."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
