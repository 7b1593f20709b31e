"""What an ACL lacks is named, as well as each version of the server lets us."""

from __future__ import annotations

import pytest

from streamtask.transport.redis.client import Script
from streamtask.transport.redis.line import ServerError
from streamtask.transport.redis.permissions import lacking

ACK = Script("ack")
_LINE = next(number for number, line in enumerate(ACK.text.splitlines(), 1) if "'XACK'" in line)


#: How Redis 6.2, 7.0, and 7.2 and newer refuse: at first hand, and within a script.
_PLAIN_62 = "NOPERM this user has no permissions to run the 'evalsha' command or its subcommand"
_PLAIN_70 = "NOPERM this user has no permissions to run the 'config|get' command"
_PLAIN_72 = "NOPERM User w has no permissions to run the 'xack' command"
_SCRIPT_62 = (
    f"ERR Error running script (call to f_1): @user_script:{_LINE}: @user_script: {_LINE}: "
    "The user executing the script can't run this command or subcommand"
)
_SCRIPT_70 = (
    f"ERR The user executing the script can't run this command or subcommand script: 1, on @user_script:{_LINE}."
)
_SCRIPT_72 = (
    "ERR ACL failure in script: User w has no permissions to run the 'xack' command script: 1, on "
    f"@user_script:{_LINE}."
)
#: What a script of ours says of what it has tried.
_TRIED = "failed: XADD stream:made: ERR The user executing the script can't access at least one of the keys"
_UNNAMED = "failed: ERR The user executing the script can't run this command or subcommand"


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (_PLAIN_62, "EVALSHA on stream:jobs"),
        (_PLAIN_70, "CONFIG GET on stream:jobs"),
        (_PLAIN_72, "XACK on stream:jobs"),
        (_SCRIPT_62, "what its script sends (XACK)"),
        (_SCRIPT_70, "what its script sends (XACK)"),
        (_SCRIPT_72, "XACK on stream:jobs"),
        (_TRIED, "XADD on stream:made"),
        (_UNNAMED, "ACL LOG"),
    ],
)
def test_a_refusal_names_the_command_the_key_and_where_to_read_on(refusal: str, said: str) -> None:
    error = ServerError(refusal)
    text = lacking(str(error), ["EVALSHA", ACK.sha, 1, "stream:jobs", "shop"], ACK.text)

    assert error.code == "NOPERM"
    assert ServerError(text).code == "NOPERM"
    assert said in text
    assert "how-to/securing" in text
    assert refusal[:20] in text


def test_a_command_that_is_no_script_names_itself_where_only_a_key_is_refused() -> None:
    refusal = "NOPERM No permissions to access a key"
    assert "XADD on stream:jobs;" in lacking(refusal, ["XADD", "stream:jobs", "*", "envelope", b"{}"])


def test_other_errors_are_not_taken_for_a_refusal_by_the_acl() -> None:
    assert ServerError("ERR no such key").code == "ERR"
    assert ServerError("OOM command not allowed when used memory > 'maxmemory'.").code == "OOM"
