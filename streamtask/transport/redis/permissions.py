"""What an ACL lacks, said so that it can be granted: Redis names the command or the key, and within a script neither.

Pure functions over what was sent and what came back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from streamtask.transport.redis import keys

#: What a script of ours was refused while it tried: a command and its key.
_TRIED = re.compile(r"failed: ([A-Z]+) (\S+): ")
#: How a server names the command that it refused (within scripts only since Redis 7.2).
_NAMED = re.compile(r"'([a-z|]{1,40})' command")
#: Where in a script it was.
_LINE = re.compile(r"@user_script: ?(\d{1,5})")
_CALLED = re.compile(r"redis\.p?call\('([A-Z]+)'")


def lacking(refusal: str, command: Sequence[object], script: str | None = None) -> str:
    """A refusal for want of a permission, with the command, its keys, and where to read what has to be granted.

    `script`: the text of the script that the command runs, if it runs one.
    """
    ours = ", ".join(sorted({str(word) for word in command if keys.is_ours(word)}))
    return (
        f"NOPERM the ACL of this Redis user does not allow streamtask {_refused(refusal, command, script)}"
        f"{f' on {ours}' if ours else ''}; how-to/securing in the documentation has the lines that do ({refusal})"
    )


def _refused(refusal: str, command: Sequence[object], script: str | None) -> str:
    """What was refused, as well as it can be told."""
    if tried := _TRIED.search(refusal):
        return f"{tried[1]} on {tried[2]}"
    if named := _NAMED.search(refusal):
        return named[1].replace("|", " ").upper()
    if script is None:
        return str(command[0])
    line = _LINE.search(refusal)
    called = _CALLED.search(script.splitlines()[int(line[1]) - 1]) if line else None
    return f"what its script sends ({called[1] if called else 'ACL LOG on the server names it'})"
