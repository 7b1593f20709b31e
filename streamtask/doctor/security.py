"""Who else can get at the events, read from the configuration of a server: open doors, and holes that are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from streamtask.doctor.facts import Facts, Finding, Level

#: First patched versions: argument handling of XACKDEL (CVE-2025-62507), unblocking a client (CVE-2026-23479).
_XACKDEL = ((8, 2, 0), (8, 2, 3))
_UNBLOCK = ((7, 2, 0), (8, 6, 3))
#: And by series: the parser of Lua (CVE-2025-49844). Redis 7.0 was given up before.
_LUA: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {
    "redis": {
        (6, 2): (6, 2, 20),
        (7, 0): (7, 2, 11),
        (7, 2): (7, 2, 11),
        (7, 4): (7, 4, 6),
        (8, 0): (8, 0, 4),
        (8, 2): (8, 2, 2),
    },
    "valkey": {(7, 2): (7, 2, 11), (8, 0): (8, 0, 6), (8, 1): (8, 1, 4)},
}
_LOOPBACK = ("127.", "::1", "localhost")


def _password(facts: Facts) -> Iterator[Finding]:
    words = facts.settings
    if not _asks_nothing(facts):
        return
    # "-::1": an address that may be missing. None at all: every interface.
    addresses = [word.removeprefix("-") for word in words.get("bind", "127.0.0.1").split()] or ["*"]
    outside = [address for address in addresses if not address.startswith(_LOOPBACK)]
    protected = words.get("protected-mode", "yes") == "yes"
    remedy = "a password for the default user, or users as how-to/securing has them and ACL SETUSER default off"
    if outside and not protected:
        yield Finding(
            level=Level.PROBLEM,
            check="password",
            message=f"whoever reaches this server ({', '.join(outside)}) can read, forge and delete events: it has no "
            "password, and protected-mode is no",
            remedy=remedy,
        )
    elif outside:
        yield Finding(
            level=Level.WARNING,
            check="password",
            message=f"this server listens beyond its own machine ({', '.join(outside)}) and has no password; only "
            "protected-mode keeps others out, and with them workers on other machines",
            remedy=remedy,
        )
    elif not protected:
        yield Finding(
            level=Level.NOTE,
            check="protected-mode",
            message="protected-mode is no and there is no password: a change of `bind` would open it to everybody",
            remedy=f"CONFIG SET protected-mode yes, or {remedy}",
        )


def _asks_nothing(facts: Facts) -> bool:
    """Whether a port is open to who has neither a password nor a certificate, as far as that is known."""
    words = facts.settings
    plain = words.get("port", "0") != "0"
    secure = words.get("tls-port", "0") != "0" and words.get("tls-auth-clients") == "no"
    default = words.get("default-user", "nopass" if words.get("requirepass") == "" else "")
    return (plain or secure) and default == "nopass"


def _version(facts: Facts) -> Iterator[Finding]:
    version = _parsed(facts.version)
    mended = _LUA[facts.engine].get(version[:2]) if facts.engine in _LUA else None
    if mended is not None and version < mended:
        yield Finding(
            level=Level.NOTE,
            check="version",
            message=f"{facts.engine} {facts.version}: who may run scripts may run code on the server (CVE-2025-49844)",
            remedy=f"{facts.engine} {'.'.join(map(str, mended))} or newer, unless your distributor has mended it; and "
            "users with no more rights than they need (how-to/securing)",
        )
    if facts.engine != "redis":
        return
    if _XACKDEL[0] <= version < _XACKDEL[1]:
        yield _outdated(facts.version, "XACKDEL overflows its stack (CVE-2025-62507)", "8.2.3")
    if _UNBLOCK[0] <= version < _UNBLOCK[1]:
        yield _outdated(facts.version, "unblocking a client uses freed memory (CVE-2026-23479)", "8.6.3")


def _outdated(version: str, what: str, mended: str) -> Finding:
    return Finding(
        level=Level.WARNING,
        check="version",
        message=f"Redis {version}: {what}; who may send commands may crash it, or worse",
        remedy=f"Redis {mended} or newer, or an older series in which your distributor has mended it",
    )


def _parsed(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (_password, _version)
