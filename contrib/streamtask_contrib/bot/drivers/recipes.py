"""How the browser driver finds its way in the pages of one kind of meeting: every selector of it stands in this file.

A recipe is a value. What is looked for by the driver is a Playwright selector, which may name several things by commas
and is searched in all frames; what is looked for in the page by the capture is plain CSS, and attributes. Nothing here
may depend on the language of the page where there is a test id, an id or a class instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from streamtask_contrib.bot.drivers.port import Invitation, JoinError


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An attribute that says who somebody is: what the first group of `pattern` matches."""

    attribute: str
    pattern: str = "^(.+)$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """Within the nearest `tile` around an element, what `name` selects shows the name."""

    tile: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """How a page shows who is there and who speaks. CSS."""

    #: What participants are heard by.
    elements: str = "audio, video"
    #: Whose such an element is, by itself or by what it stands in; the first that is there counts.
    belongs: Sequence[Identity] = ()
    #: Those who are shown, heard or not; empty: only who is heard is known.
    tiles: str = ""
    tile_id: Identity = field(default_factory=lambda: Identity(attribute="id"))
    #: Where the name of one is shown, "{id}" being who; then attributes of an element, or of what it stands in; then
    #: captions.
    names: Sequence[str] = ()
    labels: Sequence[str] = ()
    captions: Sequence[Caption] = ()
    #: Whether sound from others counts that no element plays.
    connections: bool = True

    def as_json(self) -> dict[str, Any]:
        """What the capture in the page is given."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One kind of meeting."""

    name: str
    #: Hosts of which every page is of this kind, as `fnmatch` patterns; and what tells such a page elsewhere.
    hosts: Sequence[str] = ()
    marks: str = ""
    #: The address to open; None: the one that the bot was given.
    address: Callable[[Invitation], str] | None = None
    name_field: str = ""
    join_button: str = ""
    #: Seconds that a button to join is waited for in a page that may have none. 0: there is no call before `in_call`.
    join_patience: float = 0.0
    waiting_room: str = ""
    #: The bot is in the call: an expression of the page's language. Empty: as soon as it has joined.
    in_call: str = ""
    #: What refuses the bot, before or in the waiting room, and what shows the end of the call: reason → selector.
    refusals: Sequence[tuple[str, str]] = ()
    endings: Sequence[tuple[str, str]] = ()
    #: Pressed one after the other.
    leave_buttons: Sequence[str] = ()
    people: People = field(default_factory=People)

    def address_of(self, invitation: Invitation) -> str:
        """The address to open.

        Raises:
            JoinError: there is a token, and this recipe has no use for it.
        """
        if self.address is not None:
            return self.address(invitation)
        if invitation.token is not None:
            raise JoinError("token_unused", f'the recipe "{self.name}" does not know what to do with a token')
        return invitation.meeting_url


# ── Jitsi Meet ────────────────────────────────────────────────────────────────────────────────────────────────────────

#: What the meeting is asked to be like for the bot, as Jitsi reads it from the address: straight into the call, nothing
#: sent, and no more received than sound.
_JITSI_CONFIG: dict[str, object] = {
    "config.prejoinConfig.enabled": False,
    "config.prejoinPageEnabled": False,
    "config.startWithAudioMuted": True,
    "config.startWithVideoMuted": True,
    "config.channelLastN": 0,
    "config.disableDeepLinking": True,
    "config.disableInitialGUM": True,
    "config.p2p.enabled": False,
    "config.defaultLanguage": "en",
    "config.enableWelcomePage": False,
    "config.feedbackPercentage": 0,
}


def _jitsi_address(invitation: Invitation) -> str:
    parts = urlsplit(invitation.meeting_url)
    wishes = _JITSI_CONFIG | {"userInfo.displayName": invitation.display_name}
    # Its values are JSON. What the address says already counts: the last of a name does.
    fragment = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in wishes.items())
    fragment = "&".join(filter(None, (fragment, parts.fragment)))
    query = parse_qsl(parts.query, keep_blank_values=True)
    if invitation.token is not None:
        query.append(("jwt", invitation.token.get_secret_value()))
    return parts._replace(query=urlencode(query), fragment=fragment).geturl()


JITSI = Recipe(
    name="jitsi",
    hosts=("meet.jit.si", "*.jitsi.net", "8x8.vc", "jitsi.*", "*.jitsi.*"),
    marks='script[src*="lib-jitsi-meet"]',
    address=_jitsi_address,
    name_field='#premeeting-name-input, [data-testid="lobby.nameField"], #lobby-name-field',
    join_button='[data-testid="prejoin.joinMeeting"], [data-testid="lobby.knockButton"]',
    waiting_room=(
        # Knocked; talks to the host in the lobby; waits for the host to come.
        '.lobby-screen .joining-message, .lobby-screen .lobby-chat-container, [aria-label="Log-in"]'
    ),
    in_call="globalThis.APP?.conference?.isJoined?.() === true",
    refusals=(
        ("denied", '[data-testid="lobby.joinRejectedMessage"], [data-testid="lobby.joinRejectedTitle"]'),
        ("password_required", 'input[name="lockKey"], [data-testid="lobby.password"]'),
        ("meeting_full", '[data-testid="dialog.maxUsersLimitReached"]'),
        ("token_refused", '[data-testid="dialog.tokenAuthFailed"], [data-testid="dialog.tokenAuthFailedTitle"]'),
        ("connection_failed", '[data-testid="connection.CONNFAIL"]'),
    ),
    endings=(
        ("removed", '[data-testid="dialog.kickTitle"], [data-testid="dialog.leaveReason"]:has-text("kicked")'),
        ("meeting_ended", '[data-testid="dialog.leaveReason"], [data-testid="dialog.sessTerminated"]'),
    ),
    # The second is in the menu that a moderator gets.
    leave_buttons=('[aria-label="Leave the meeting"]', '[aria-label="Leave meeting"]'),
    people=People(
        # Named after the stream, "<participant>-audio-<number>-<connection>". Other elements are the page's own sounds.
        elements='audio[id^="remoteAudio_"]',
        belongs=(Identity(attribute="id", pattern="^remoteAudio_([^-]+)-"),),
        tiles='span[id^="participant_"].videocontainer',
        tile_id=Identity(attribute="id", pattern="^participant_(.+)$"),
        names=("#participant_{id}_name", "#participant_{id} .displayname"),
        connections=False,
    ),
)

# ── any page ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_JOINS = r"/^\s*(ask to |request to )?(join|enter)\b/i"
_LEAVES = r"/^\s*(leave|hang ?up|exit|end call)\b/i"

GENERIC = Recipe(
    name="generic",
    name_field=(
        'input[name="name"]:not([type="hidden"]), input[autocomplete="name"], input[placeholder*="name" i], '
        'input[aria-label*="name" i], input[id*="name" i]:not([type="hidden"])'
    ),
    join_button=f"role=button[name={_JOINS}]",
    join_patience=3.0,
    leave_buttons=(f"role=button[name={_LEAVES}]",),
    people=People(
        belongs=(Identity(attribute="data-participant-id"), Identity(attribute="data-participant")),
        labels=(
            "data-participant-name",
            "data-display-name",
            "data-name",
            "data-participant",
            "aria-label",
            "title",
        ),
        captions=(
            Caption(tile="figure", name="figcaption"),
            Caption(tile='[class*="participant"], [class*="tile"]', name='[class*="name"]'),
        ),
    ),
)

RECIPES: tuple[Recipe, ...] = (JITSI, GENERIC)


def recipe_named(name: str, recipes: Sequence[Recipe]) -> Recipe:
    """The recipe of this name.

    Raises:
        JoinError: there is none.
    """
    for recipe in recipes:
        if recipe.name == name:
            return recipe
    raise JoinError("no_such_recipe", f'there is no recipe "{name}", but {", ".join(each.name for each in recipes)}')


def recipe_for(address: str, recipes: Sequence[Recipe]) -> Recipe | None:
    """The recipe that knows this host."""
    host = urlsplit(address).hostname or ""
    return next((each for each in recipes if any(fnmatch(host, pattern) for pattern in each.hosts)), None)
