"""`streamtask bot`: bots in meetings."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from streamtask import App, StreamtaskError
from streamtask_contrib.bot.asking import BotTakenError, ask_for, ask_to_stop
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import FINAL, Bot
from streamtask_contrib.bot.wishes import BotWish, in_words
from streamtask_contrib.capture.register import SessionTakenError
from streamtask_contrib.cli import printing
from streamtask_contrib.cli.connecting import broker_option, connected, json_option, works
from streamtask_contrib.cli.following import Log, statuses
from streamtask_contrib.events import BotRequested, BotState, BotStatusUpdate

#: Who starts bots, and how somebody starts that.
_GROUP = "bot-orchestrator"
_NOBODY_STARTS = (
    f"No worker of group {_GROUP} lives: it holds, and is done as soon as one does "
    "(streamtask worker -A streamtask_contrib.bot:app)."
)
#: The bot is where it should be, or nowhere.
_THERE: frozenset[BotState] = FINAL | {"in_call", "capturing"}
#: Seconds that a session is kept.
_SESSION_TTL = 7 * 86_400.0


@click.group()
def bot() -> None:
    """Send bots to meetings, and call them back."""


# ── start and stop ────────────────────────────────────────────────────────────────────────────────────────────────


@bot.command()
@click.argument("meeting_url", metavar="URL")
@click.option("--id", "bot_id", help="A name for it; the same request again is the same bot.")
@click.option("--session", "session_id", help="A name for its session, which must not have audio yet.")
@click.option("--name", "display_name", help="What the meeting shows.")
@click.option("--driver", help="browser (by default), or file for a recording.")
@click.option("--recipe", help="How the driver finds its way: jitsi, generic; by default by the address.")
@click.option("--token-ref", "auth_token_ref", help="Where the token is, never the token: env:NAME, file:name, call:…")
@click.option("--language", help="What is spoken, such as en; by default the model finds out.")
@click.option("--translate", multiple=True, help="A language to translate to; may be given again.")
@click.option("--user", help="Whose bot it is, for an API with keys.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is in the call.")
@broker_option
@json_option
def start(*, user: str | None, wait: bool, broker: str | None, as_json: bool, **wish: Any) -> None:
    """Send a bot to the meeting at URL.

    Its id goes to standard output, and nothing else does; how it gets on, to standard error. Exit code 1 where it does
    not get into the call.
    """
    try:
        request = BotWish(**{name: value for name, value in wish.items() if value}).request(user)
    except ValueError as error:
        raise click.UsageError(_as_options(in_words(error))) from error

    async def ask(app: App) -> BotStatusUpdate | None:
        found = await ask_for(app, request, session_ttl=_SESSION_TTL)
        if not as_json:
            printing.say(found.bot_id)
        if not await works(app, _GROUP):
            printing.remark(_NOBODY_STARTS)
        return await _follow(app, found, _THERE) if wait else None

    try:
        last = connected(broker, ask)
    except (BotTakenError, SessionTakenError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException(f"not waited for: the bot goes on; streamtask bot stop {request.bot_id}") from None
    if as_json:
        printing.document(_started(request, last))
    if last is not None and last.state in FINAL:
        raise click.ClickException(f"bot {request.bot_id} is not in the meeting: {_with_reason(last)}")


def _as_options(problem: str) -> str:
    """A problem with a field, in the words of the command line."""
    names = {"meeting_url": "URL", "auth_token_ref": "--token-ref", "bot_id": "--id", "session_id": "--session"}
    for field, option in names.items():
        problem = problem.replace(field, option)
    return problem


def _started(request: BotRequested, last: BotStatusUpdate | None) -> dict[str, Any]:
    state = {} if last is None else {"state": last.state, "reason": last.reason, "sub_code": last.sub_code}
    return {"bot_id": request.bot_id, "session_id": request.session_id} | state


@bot.command()
@click.argument("bot_id", metavar="ID")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it has ended.")
@broker_option
@json_option
def stop(*, bot_id: str, wait: bool, broker: str | None, as_json: bool) -> None:
    """Have the bot ID leave its meeting; it holds for one that has not been started, too."""

    async def ask(app: App) -> BotStatusUpdate | None:
        found = await _bot(app, bot_id)
        if found.is_final:
            printing.remark(f"Bot {bot_id} has ended already.")
        elif not await works(app, _GROUP):
            printing.remark(_NOBODY_STARTS)
        asked = await ask_to_stop(app, bot_id, "requested")
        return await _follow(app, asked, FINAL) if wait else None

    last = connected(broker, ask)
    if as_json:
        state = {} if last is None else {"state": last.state, "reason": last.reason, "sub_code": last.sub_code}
        printing.document({"bot_id": bot_id} | state)


async def _follow(app: App, found: Bot, until: frozenset[BotState]) -> BotStatusUpdate | None:
    """Tell how a bot gets on until it is in one of these states; its last status."""
    last = None
    async for update in statuses(app, found):
        if last is None or (update.state, update.attempt) != (last.state, last.attempt):
            printing.remark(_with_reason(update))
        last = update
        if update.state in until:
            break
    return last


def _with_reason(status: BotStatusUpdate) -> str:
    again = f", attempt {status.attempt}" if status.attempt > 1 else ""
    # That somebody has asked for it is no news.
    why = ", ".join(word for word in (status.reason, status.sub_code) if word and word != "requested")
    return f"{status.state.replace('_', ' ')}{again}{f' ({why})' if why else ''}"


# ── list and logs ─────────────────────────────────────────────────────────────────────────────────────────────────


@bot.command("list")
@click.option("--all", "ended", is_flag=True, help="Those that have ended, too.")
@broker_option
@json_option
def list_(*, ended: bool, broker: str | None, as_json: bool) -> None:
    """Bots, the newest first."""

    async def ask(app: App) -> list[Bot]:
        return await Bots(app).all() if ended else await Bots(app).living()

    found = [one for one in reversed(connected(broker, ask)) if one.state is not None and (ended or not one.is_final)]
    if as_json:
        printing.document([_facts(one) for one in found])
    elif found:
        printing.table(("bot", "state", "since", "meeting", "participants"), [_row(one) for one in found])
    else:
        printing.remark("There are no bots." if ended else "No bot lives; --all lists those that have ended, too.")


def _row(found: Bot) -> tuple[str | Text, ...]:
    why = ", ".join(word for word in (found.reason, found.sub_code) if word and word != "requested")
    if found.desired == "stopped" and not found.is_final:
        why = "asked to leave"
    return (
        found.bot_id,
        printing.styled(str(found.state), f" ({why})" if why else ""),
        printing.ago(found.changed_at or found.created_at),
        found.request.meeting_url if found.request else "",
        ", ".join(found.participants),
    )


def _facts(found: Bot) -> dict[str, Any]:
    kept = {"bot_id", "state", "desired", "reason", "sub_code", "sequence", "attempt", "participants", "changed_at"}
    facts = found.model_dump(mode="json", include=kept)
    asked = found.request.model_dump(
        mode="json", include={"session_id", "user_id", "meeting_url", "driver", "display_name", "requested_at"}
    ) if found.request else {}  # fmt: skip
    return facts | asked


@bot.command()
@click.argument("bot_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until it has ended.")
@broker_option
@json_option
def logs(*, bot_id: str, follow: bool, broker: str | None, as_json: bool) -> None:
    """What the bot ID has written, as far as it is kept; with --json, a document a line."""

    async def ask(app: App) -> None:
        log, told = Log(app, await _bot(app, bot_id)), False
        async for logged, lines in log.all() if follow else log.past():
            told = True
            for text in lines:
                if as_json:
                    printing.line({"at": logged.logged_at, "attempt": logged.attempt, "line": text})
                else:
                    printing.say(text)
        if not told:
            printing.remark(f"Bot {bot_id} has written nothing, or it is kept no longer.")

    try:
        connected(broker, ask)
    except KeyboardInterrupt:
        # That is how one stops to follow.
        return


async def _bot(app: App, bot_id: str) -> Bot:
    """A bot by its id. Raises StreamtaskError with those that there are."""
    found = await Bots(app).load(bot_id)
    if found is not None and found.request is not None:
        return found
    there = [one.bot_id for one in reversed(await Bots(app).all()) if one.request is not None]
    raise StreamtaskError(f"no bot {bot_id!r}; {printing.there_are(bot_id, there)}")
