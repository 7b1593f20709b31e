"""`streamtask worker` without click, which would take a fifth of the worker's start.

Command lines that are beyond doubt, as they stand in unit files and images, are read here; the process becomes the
supervisor then. Whatever is not known to the letter, a question for help among it, is left to click, which comes to the
same (`tests/unit/cli/test_quick.py`) or says what is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

from streamtask.cli.flags import FLAGS, Flag, Value, supervisor_settings

#: Digits of a number that nobody has to look at twice.
_DIGITS = 9


def options_of(words: Iterable[str], environment: Mapping[str, str]) -> dict[str, Value] | None:
    """The options that these words give, by their parameters; None: that is for click to say."""
    known = {name: flag for flag in FLAGS for name in (flag.name, flag.short) if name}
    options: dict[str, Value] = {
        flag.to: (environment.get(flag.variable) if flag.variable else None) or flag.default for flag in FLAGS
    }
    several: dict[str, list[str]] = {flag.to: [] for flag in FLAGS if flag.many}
    left = iter(words)
    for word in left:
        flag = known.get(word)
        if flag is None:
            return None
        if flag.kind is bool:
            options[flag.to] = True
            continue
        text = next(left, "")
        value = _value(flag, text)
        if value is None:
            return None
        if flag.many:
            several[flag.to].append(text)
        else:
            options[flag.to] = value
    # A limit of memory is only for systems that tell how much there is. And the URL of a broker may have a password,
    # which must not stay in the arguments of the process: after click, another program takes it over.
    is_for_click = not options["reference"] or options["max_memory"] is not None or options["broker"] is not None
    return None if is_for_click else {**options, **several}


def _value(flag: Flag, text: str) -> Value:
    """A value of an option; None where it is not one for certain."""
    if flag.kind is str:
        return text if text and not text.startswith("-") and (not flag.choices or text in flag.choices) else None
    digits = text.replace(".", "", 1) if flag.kind is float else text
    if not digits.isascii() or not digits.isdecimal() or len(digits) > _DIGITS:
        return None
    number: float = flag.kind(text)
    is_fit = (flag.least is None or number >= flag.least) and (flag.most is None or number <= flag.most)
    return number if is_fit else None


def run(arguments: list[str]) -> None:
    """Become the supervisor of a worker, and end with it. Returns where click is needed."""
    options = options_of(arguments[1:], os.environ) if arguments[:1] == ["worker"] else None
    if options is None:
        return
    # Not before: other commands do without it.
    from streamtask.worker.supervisor.command import main  # noqa: PLC0415

    sys.exit(main(supervisor_settings(options)))
