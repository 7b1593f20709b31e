"""Text for a terminal: what comes from events is shown and never obeyed."""

from __future__ import annotations

from collections.abc import Mapping

from streamtask.unprintable import UNPRINTABLE

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"))
_SIZES = ("B", "KB", "MB", "GB", "TB")
_KILO = 1024


def printable(text: str) -> str:
    """The text on one line; what a terminal would obey is shown as Python writes it."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """The same, keeping its lines."""
    return "\n".join(map(printable, text.splitlines()))


def one_line(text: str) -> str:
    """An error's message, whatever it quotes, on one line."""
    return printable(" ".join(text.split()))


def escaped_json(text: str) -> str:
    """JSON that a terminal obeys as little: what is unprintable can only stand inside its strings."""
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def counted(number: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(ms: int) -> str:
    """Milliseconds for people: `250 ms`, `12.3 s`, `4m 5s`, `3d 2h`."""
    if ms < 1000:  # noqa: PLR2004 - a second
        return f"{ms} ms"
    if ms < 60_000:  # noqa: PLR2004 - a minute
        return f"{ms / 1000:.1f} s"
    smaller = {"d": (3_600_000, "h"), "h": (60_000, "m"), "m": (1000, "s")}
    size, unit = next((size, unit) for size, unit in _UNITS if ms >= size)
    part, name = smaller[unit]
    return f"{ms // size}{unit} {ms % size // part}{name}"


def size(number: int) -> str:
    """Bytes for people: `512 B`, `1.5 MB`."""
    amount = float(number)
    for unit in _SIZES[:-1]:
        if amount < _KILO:
            return f"{number} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= _KILO
    return f"{amount:.1f} {_SIZES[-1]}"


def cell(name: str, value: object) -> str:
    """One value of a table, by the name of its column."""
    match value:
        case bool():
            text = "yes" if value else "no"
        case int() if name.endswith("_ms"):
            text = duration(value)
        case int() if name == "bytes":
            text = size(value)
        case float():
            text = f"{value:.1f}"
        case Mapping() if name == "progress":
            text = printable(f"{value['fraction']:.0%} {value['message']}".rstrip())
        case Mapping() | list() | tuple():
            text = printable(", ".join(map(str, value)))
        case None:
            text = ""
        case _:
            text = printable(str(value))
    return text or "-"
