"""The driver `browser`: goes to a meeting's page in a Chromium of its own, and hears each participant.

    addresses  where it may go            recipes  how it finds its way in the page
    chromium   the browser's processes    window   the page, by Playwright
    hearing    what the capture reports   page/    the capture, which runs in the page

This module puts them in order: what a bot asks of a driver becomes steps in a page, and what is to be seen there
becomes what happens in the meeting.
"""

from __future__ import annotations

from streamtask_contrib.extras import require

require("bot", "playwright", "psutil", "pydantic_settings")

import asyncio  # noqa: E402 - what is missing is said before it is missed
import logging  # noqa: E402
import time  # noqa: E402
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence  # noqa: E402
from contextlib import suppress  # noqa: E402
from urllib.parse import urlsplit  # noqa: E402

from pydantic import ValidationError  # noqa: E402

from streamtask_contrib.bot.drivers.addresses import Addresses  # noqa: E402
from streamtask_contrib.bot.drivers.chromium import Chromium, find_chromium  # noqa: E402
from streamtask_contrib.bot.drivers.hearing import READ, Hearing, Now, Refused  # noqa: E402
from streamtask_contrib.bot.drivers.port import (  # noqa: E402
    Admitted,
    Ended,
    Happening,
    Invitation,
    JoinError,
    WaitingRoom,
)
from streamtask_contrib.bot.drivers.recipes import (  # noqa: E402
    GENERIC,
    RECIPES,
    Recipe,
    recipe_for,
    recipe_named,
)
from streamtask_contrib.bot.drivers.window import Window  # noqa: E402
from streamtask_contrib.bot.settings import BotSettings  # noqa: E402
from streamtask_contrib.settings import from_environment  # noqa: E402

_log = logging.getLogger(__name__)

#: Seconds between two looks at the page.
_LOOKS_EVERY = 0.4
#: Seconds that a page which belongs to the call may be out of it: Jitsi loads itself anew after a failure.
_RETURNS_WITHIN = 15.0
#: Seconds that a page gets for what a pressed button makes it do; and all of leaving.
_GOODBYE = 0.5
_LEAVES_WITHIN = 3.5
#: Seconds above the bot's own limit: it is the bot that says that joining took too long.
_ABOVE = 5.0


def make_driver(
    invitation: Invitation, *, settings: BotSettings | None = None, recipes: Sequence[Recipe] = RECIPES
) -> BrowserDriver:
    """The driver for one meeting. Settings are those of the environment; recipes of your own come before ours."""
    return BrowserDriver(invitation, settings or from_environment(BotSettings), recipes)


class BrowserDriver:
    """One meeting in one browser. See `port.Driver` for what may be asked of it."""

    def __init__(self, invitation: Invitation, settings: BotSettings, recipes: Sequence[Recipe]) -> None:
        self._made = time.monotonic()
        self._invitation = invitation
        self._settings = settings
        self._recipes = recipes
        self._recipe = GENERIC
        self._chromium: Chromium | None = None
        self._window = Window(self, Addresses(settings.meeting_hosts))
        self._opening: asyncio.Task[None] | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._hearing = Hearing()
        #: The document that each frame shows.
        self._documents: dict[object, str] = {}
        #: What has happened; None: nothing more will.
        self._happened: asyncio.Queue[Happening | None] = asyncio.Queue()
        self._is_over = False
        self._is_admitted = False
        self._is_waiting = False
        #: Whether those in the call are told of.
        self._has_met = False
        #: Since when the page is out of the call, by the monotonic clock; None: it is in it.
        self._out_since: float | None = None

    # ── what a bot asks ───────────────────────────────────────────────────────────────────────────────────────────────

    async def join(self) -> None:
        """Go there and ask to be let in. Raises `JoinError`."""
        address, self._recipe = self._plan()
        # Whoever is cancelled while processes are being started would not know what to end.
        self._opening = asyncio.create_task(self._open_browser())
        await asyncio.shield(self._opening)
        await self._show(address)
        await self._enter()
        await self._look_once()
        self._watch(self._look())

    async def happenings(self) -> AsyncIterator[Happening]:
        """What happens from then on, until `Ended` or the driver's end."""
        while (happening := await self._happened.get()) is not None:
            yield happening
            if isinstance(happening, Ended):
                return

    async def leave(self) -> None:
        """Leave as a person does. What was heard so far is still given by `happenings`."""
        if self._is_over or not self._window.is_open:
            return
        self._is_over = True
        try:
            async with asyncio.timeout(_LEAVES_WITHIN):
                await self._window.flush()
                await self._say_goodbye()
                await self._window.leave()
        except TimeoutError:
            _log.warning("browser.left_without_goodbye")
        finally:
            self._happened.put_nowait(None)

    async def close(self) -> None:
        """End all that was started. May be called at any time, and again."""
        self._is_over = True
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        if self._opening is not None:
            with suppress(JoinError):
                await self._opening
        await self._window.close()
        if self._chromium is not None:
            await self._chromium.close()
        self._happened.put_nowait(None)

    # ── into the meeting ──────────────────────────────────────────────────────────────────────────────────────────────

    def _plan(self) -> tuple[str, Recipe]:
        """The address to open, and the recipe, as far as the address tells."""
        if refusal := Addresses(self._settings.meeting_hosts).refusal(self._invitation.meeting_url):
            raise JoinError("address_refused", refusal)
        if self._invitation.recipe != "auto":
            recipe = recipe_named(self._invitation.recipe, self._recipes)
            return recipe.address_of(self._invitation), recipe
        recipe = recipe_for(self._invitation.meeting_url, self._recipes) or GENERIC
        # A page whose kind is found out when it is seen gets its token then.
        is_known = recipe is not GENERIC
        return (recipe.address_of(self._invitation) if is_known else self._invitation.meeting_url), recipe

    async def _open_browser(self) -> None:
        program = find_chromium(self._settings.chromium)
        folder = self._invitation.folder / "browser"
        self._chromium = Chromium(program, folder)
        endpoint = await self._chromium.start()
        self._watch(self._notice_crash(self._chromium))
        await self._window.connect(endpoint, folder)

    async def _show(self, address: str) -> None:
        within = self._settings.join_timeout + _ABOVE
        await self._window.open(address, self._recipe.people.as_json(), within=within)
        if self._invitation.recipe == "auto" and self._recipe is GENERIC:
            if recipe := await self._recognised():
                self._recipe = recipe
                address = recipe.address_of(self._invitation)
                await self._window.open(address, recipe.people.as_json(), within=within)
            else:
                GENERIC.address_of(self._invitation)
        _log.info("browser.shown", extra={"host": urlsplit(address).hostname, "recipe": self._recipe.name})

    async def _recognised(self) -> Recipe | None:
        for recipe in self._recipes:
            if recipe.marks and await self._window.has(recipe.marks):
                return recipe
        return None

    async def _enter(self) -> None:
        """Give the name and press what has to be pressed, until the bot is in the call or waits before it."""
        began = time.monotonic()
        while not self._is_over:
            if refusal := await self._shown(self._recipe.refusals):
                raise JoinError(refusal, f"the meeting does not let the bot in: {refusal}")
            if await self._is_in_call() or await self._is_in_waiting_room():
                return
            if self._recipe.name_field:
                await self._window.fill(self._recipe.name_field, self._invitation.display_name)
            pressed = await self._window.press(self._recipe.join_button)
            if not self._recipe.in_call and (pressed or time.monotonic() - began > self._recipe.join_patience):
                return
            await asyncio.sleep(_LOOKS_EVERY)
        raise JoinError("browser_crashed", "the browser ended before the bot was in the meeting", may_retry=True)

    # ── what is to be seen ────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self) -> None:
        """Look at the page again and again until the call is over."""
        while not self._is_over:
            await self._look_once()
            await asyncio.sleep(_LOOKS_EVERY)

    async def _look_once(self) -> None:
        signs = self._recipe.endings if self._is_admitted else (*self._recipe.refusals, *self._recipe.endings)
        if reason := await self._shown(signs):
            self._end(reason)
        elif not self._recipe.in_call or await self._is_in_call():
            self._out_since = None
            self._is_waiting = False
            if not self._is_admitted:
                self._is_admitted = True
                self._tell([Admitted()])
                self._meet()
        elif await self._is_in_waiting_room():
            self._out_since = None
            if not self._is_waiting:
                self._is_waiting, self._is_admitted = True, False
                self._tell([WaitingRoom()])
        elif self._is_admitted:
            self._notice_absence()

    def _meet(self) -> None:
        # Before the call there is music, or a preview of it: nobody is met there.
        if not self._has_met:
            self._has_met = True
            self._tell(self._hearing.present())

    def _notice_absence(self) -> None:
        now = time.monotonic()
        self._out_since = self._out_since or now
        if now - self._out_since > _RETURNS_WITHIN:
            self._end("meeting_ended", "not_in_call")

    async def _is_in_call(self) -> bool:
        return bool(self._recipe.in_call) and await self._window.holds(self._recipe.in_call)

    async def _is_in_waiting_room(self) -> bool:
        return bool(self._recipe.waiting_room) and await self._window.shows(self._recipe.waiting_room)

    async def _shown(self, signs: Sequence[tuple[str, str]]) -> str:
        for place, (reason, selector) in enumerate(signs):
            if await self._window.shows(selector):
                # A sign that tells more comes first; it may have come while we looked for the others.
                return await self._shown(signs[:place]) or reason
        return ""

    async def _say_goodbye(self) -> None:
        for button in self._recipe.leave_buttons:
            if await self._window.press(button):
                await asyncio.sleep(_GOODBYE)

    async def _notice_crash(self, chromium: Chromium) -> None:
        await chromium.ended()
        self.broken("browser_crashed")

    # ── what the window says ──────────────────────────────────────────────────────────────────────────────────────────

    def reported(self, frame: object, report: object) -> None:
        """The capture in a frame reports something."""
        try:
            told = READ.validate_python(report)
        except ValidationError:
            # A page's own doing; what is in it is nobody's business here.
            _log.warning("browser.report_refused")
            return
        before = self._documents.get(frame)
        if before != told.document:
            self._documents[frame] = told.document
            if before is not None:
                self._tell_of_people(self._hearing.forget(before))
        for each in told.reports:
            if isinstance(each, Refused):
                _log.warning("browser.not_heard", extra={"why": each.why})
        now = Now(since=time.monotonic() - self._made, wall=time.time())
        self._tell_of_people(self._hearing.take(told, now))

    def gone(self, frame: object) -> None:
        """A frame is no longer there."""
        if document := self._documents.pop(frame, None):
            self._tell_of_people(self._hearing.forget(document))

    def loaded(self) -> None:
        """The window shows another page."""
        if not self._is_admitted:
            return
        if self._recipe.in_call:
            self._out_since = time.monotonic()
        else:
            self._end("navigated_away")

    def broken(self, reason: str) -> None:
        """The window will say no more, but the meeting goes on: another browser may have more luck."""
        self._end(reason, is_fault=True)

    def _tell_of_people(self, happenings: Iterable[Happening]) -> None:
        for happening in happenings:
            if self._has_met:
                self._happened.put_nowait(happening)

    def _tell(self, happenings: Iterable[Happening]) -> None:
        for happening in happenings:
            self._happened.put_nowait(happening)

    def _end(self, reason: str, sub_code: str = "", *, is_fault: bool = False) -> None:
        if not self._is_over:
            self._is_over = True
            self._tell([Ended(reason, sub_code, is_fault=is_fault)])

    def _watch(self, work: Coroutine[object, object, None]) -> None:
        self._watching.append(asyncio.create_task(work))
