"""What somebody who wants a bot may say, over HTTP or on the command line, and what is refused at once."""

from __future__ import annotations

import uuid
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamtask_contrib.capture.chunks import Wishes, new_session_id
from streamtask_contrib.events import ID, AutomaticLeave, BotRequested

#: What a token's reference begins with.
_REFERENCES = ("env:", "file:", "call:")
#: Schemes that a browser would open, and that are no meeting.
_NO_MEETING = frozenset({"about", "blob", "chrome", "data", "file", "javascript", "view-source"})
_WORD = r"^[a-z][a-z0-9_-]{0,49}$"
_Fact = Annotated[str, Field(max_length=500)]


class Leaving(AutomaticLeave):
    """When it leaves by itself, in seconds; 0: never for this reason."""

    model_config = ConfigDict(extra="forbid")


class BotWish(BaseModel):
    """A meeting, and how a bot should be in it."""

    model_config = ConfigDict(extra="forbid")

    meeting_url: str = Field(min_length=1, max_length=2000)
    #: A name for it: who sends the same request again gets the same bot.
    bot_id: str | None = Field(default=None, pattern=ID)
    #: A name for its session, which must not have audio yet.
    session_id: str | None = Field(default=None, pattern=ID)
    driver: str = Field(default="browser", pattern=_WORD)
    recipe: str = Field(default="auto", pattern=_WORD)
    #: What the meeting shows.
    display_name: str = Field(default="streamtask bot", min_length=1, max_length=100)
    #: Where the token is, never the token.
    auth_token_ref: str = Field(default="", max_length=500)
    #: What is spoken; left out, the model finds out.
    language: str | None = None
    #: Languages to translate to.
    translate: list[str] = Field(default_factory=list, max_length=20)
    automatic_leave: Leaving = Field(default_factory=Leaving)
    #: Facts to find it again by.
    metadata: dict[_Fact, _Fact] = Field(default_factory=dict, max_length=20)

    def request(self, user: str | None) -> BotRequested:
        """The same as an event. Raises ValueError, with what to do, for what no bot could do, or none should."""
        check_address(self.driver, self.meeting_url)
        if self.auth_token_ref and not self.auth_token_ref.startswith(_REFERENCES):
            raise ValueError(
                "auth_token_ref says where the token is, and is never the token itself: "
                '"env:NAME", "file:name" or "call:anything"'
            )
        wishes = Wishes(language=self.language, translate=self.translate)
        return BotRequested(
            # Short enough to be typed.
            bot_id=self.bot_id or uuid.uuid4().hex[:12],
            session_id=self.session_id or new_session_id(),
            user_id=user,
            meeting_url=self.meeting_url,
            driver=self.driver,
            recipe=self.recipe,
            display_name=self.display_name,
            auth_token_ref=self.auth_token_ref,
            processing_flags=wishes.flags,
            language=wishes.language,
            automatic_leave=AutomaticLeave(**self.automatic_leave.model_dump()),
            metadata=self.metadata,
        )


def check_address(driver: str, address: str) -> None:
    """Refuse an address that is no meeting, or holds a secret; raises ValueError."""
    try:
        url = urlsplit(address)
    except ValueError as error:
        raise ValueError(f"meeting_url is no address: {error}") from error
    if driver == "file":
        if url.scheme not in {"file", "recording"}:
            raise ValueError('the driver "file" plays a recording, such as "file:name.wav", and joins no other meeting')
    elif url.scheme in _NO_MEETING:
        raise ValueError(f"meeting_url may not begin with {url.scheme}: that is no meeting for the driver {driver!r}")
    elif driver == "browser" and (url.scheme not in {"http", "https"} or not url.hostname):
        raise ValueError("meeting_url has to be a whole address, such as https://meet.example.org/room")
    if _names_somebody(url):
        raise ValueError("meeting_url holds a user or a password, which every log would show; use auth_token_ref")


def _names_somebody(url: SplitResult) -> bool:
    return url.username is not None or url.password is not None


def in_words(error: ValueError) -> str:
    """What is wrong, without what was sent: that may be a secret in the wrong place."""
    if not isinstance(error, ValidationError):
        return str(error)
    problems = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems)
