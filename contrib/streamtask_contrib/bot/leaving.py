"""When a bot leaves by itself. Pure: it is shown the meeting again and again, and keeps what it has seen."""

from __future__ import annotations

from dataclasses import dataclass

from streamtask_contrib.events import AutomaticLeave

#: So often in a row nobody is there before that is believed: pages show nobody while they rebuild their list.
_LOOKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The meeting at one moment."""

    #: Seconds of any clock that goes on evenly.
    at: float
    is_waiting: bool = False
    is_in_call: bool = False
    #: Others in the call.
    participants: int = 0
    #: Somebody has spoken since the last look.
    has_speech: bool = False


class Leaving:
    """Says when it is time to go. A limit of 0: never for this reason."""

    def __init__(self, limits: AutomaticLeave) -> None:
        self._limits = limits
        self._waiting_since: float | None = None
        #: The call, from the first look into it on.
        self._call: _Call | None = None

    def see(self, look: Look, *, in_call_before: float = 0.0) -> str | None:
        """Take a look; the reason to leave, for programs, or None.

        `in_call_before`: seconds for which the bot's earlier processes have been in the call.
        """
        if look.is_in_call:
            self._waiting_since = None
            if self._call is None:
                self._call = _Call(since=look.at - in_call_before, spoken_at=look.at, empty_since=look.at)
            return self._call.see(look, self._limits)
        if not look.is_waiting:
            return None
        if self._waiting_since is None:
            self._waiting_since = look.at
        return "waiting_room_timeout" if _is_over(self._limits.waiting_room, look.at - self._waiting_since) else None


@dataclass(slots=True, kw_only=True)
class _Call:
    """What has been seen of a call."""

    since: float
    spoken_at: float
    empty_since: float
    #: How often in a row nobody was there.
    empty_looks: int = 0
    had_company: bool = False

    def see(self, look: Look, limits: AutomaticLeave) -> str | None:
        if look.has_speech:
            self.spoken_at = look.at
        # Whoever speaks is there, whatever the page says.
        if look.participants or look.has_speech:
            self.had_company = True
            self.empty_looks, self.empty_since = 0, look.at
        else:
            self.empty_looks += 1
        return self._reason(look.at, limits)

    def _reason(self, now: float, limits: AutomaticLeave) -> str | None:
        alone_for = now - self.empty_since if self.empty_looks >= _LOOKS else 0.0
        reasons = {
            "longest": _is_over(limits.longest, now - self.since),
            "everyone_left": self.had_company and _is_over(limits.everyone_left, alone_for),
            "nobody_joined": not self.had_company and _is_over(limits.nobody_joined, alone_for),
            "silence": _is_over(limits.silence, now - self.spoken_at),
        }
        return next((reason for reason, is_so in reasons.items() if is_so), None)


def _is_over(limit: float, passed: float) -> bool:
    return 0 < limit <= passed
