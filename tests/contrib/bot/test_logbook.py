"""The log of a bot's process: one line a record, and no secret in it."""

from __future__ import annotations

import json
import logging
from urllib.parse import quote

from pydantic import SecretStr
from streamtask_contrib.bot.logbook import Logbook, Secrets

TOKEN = 'pass "word" & more/+=\'\\'


def written(**record: object) -> dict[str, object]:
    """The line of a record, which is one."""
    secrets = Secrets()
    secrets.add(SecretStr(TOKEN))
    line = Logbook(secrets).format(
        logging.makeLogRecord({"name": "streamtask_contrib.bot", "levelname": "INFO"} | record)
    )
    assert "\n" not in line
    assert "word" not in line
    found: dict[str, object] = json.loads(line)
    return found


def test_a_record_is_a_line_with_its_fields() -> None:
    line = written(msg="bot.state", state="joining", attempt=2, is_last=False, nothing=None)
    assert (line["event"], line["state"], line["attempt"], line["is_last"]) == ("bot.state", "joining", 2, False)
    assert line["nothing"] is None
    assert str(line["ts"]).endswith("+00:00")


def test_a_secret_is_struck_out_wherever_it_stands() -> None:
    assert written(msg="it is %s", args=(TOKEN,))["event"] == "it is ***"
    assert written(msg="x", url=f"https://meet/?jwt={quote(TOKEN, safe='')}")["url"] == "https://meet/?jwt=***"
    assert "***" in str(written(msg="x", nested={"token": [TOKEN]})["nested"])
    assert "***" in str(written(msg="x", answer=json.dumps({"token": TOKEN}))["answer"])


def test_a_secret_in_an_exception_and_in_its_cause_is_struck_out() -> None:
    try:
        try:
            raise ValueError(TOKEN)
        except ValueError as error:
            raise RuntimeError(f"on the way to {TOKEN}") from error
    except RuntimeError as error:
        line = written(msg="x", exc_info=(type(error), error, error.__traceback__))
    assert "on the way to ***" in str(line["exception"])
    assert "ValueError: ***" in str(line["exception"])


def test_a_record_of_somebody_else_says_whose_it_is() -> None:
    assert written(msg="x", name="playwright")["logger"] == "playwright"


def test_what_is_too_short_to_be_a_secret_makes_no_log_unreadable() -> None:
    secrets = Secrets()
    secrets.add(SecretStr("a"))
    assert secrets.strike("a bot has joined") == "a bot has joined"
