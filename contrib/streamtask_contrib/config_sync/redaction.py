"""Redaction: what of a configuration everybody may see. Pure.

A secret is known by its name (`password`, `api_key`, whatever stands below `credentials`) or by its form (the password
in a URL, a private key, a token of a known kind). In doubt it is hidden: by name as a whole, by form the part of a text
that is one. `Sealing` puts a keyed digest in its place, which tells two apart and does not say what they are.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from streamtask_contrib.config_sync.documents import canonical, dotted

#: What stands in the place of a secret.
HIDDEN: Final = "***"

Path = tuple[str, ...]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ── by name ───────────────────────────────────────────────────────────────────────────────────────────────────────

#: A name with one of these words in it is a secret's.
_SECRET_WORDS: Final = _words(
    "apikey apikeys auth authorization bearer cookie cookies cred credential credentials creds hmac jwt otp pass "
    "passcode passphrase passwd password passwords pat pin psk pw pwd salt secret secrets sid signature token "
    "tokens"
)
#: A name that ends so, and does not begin so: `api_key`, and not `public_key`.
_KEYS: Final = frozenset({"key", "keys"})
_OPEN_KEYS: Final = _words(
    "cache dedup foreign group hot index map message object order partition primary public routing shard sort"
)
#: What is said about a secret, and is none: `token_ttl`, `password_file`.
_ABOUT: Final = _words(
    "algorithm count days enabled endpoint env expiry file header hours length limit minutes name path prefix ref "
    "required rotation seconds size timeout ttl type url uri"
)
#: An amount of something: `max_tokens`.
_AMOUNTS: Final = frozenset({"count", "max", "maximum", "min", "minimum", "n", "num", "total"})
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# ── by form ───────────────────────────────────────────────────────────────────────────────────────────────────────

_NAME: Final = (
    r"[\w.-]*(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|credentials?|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|account[_-]?key|shared[_-]?key|authorization|signature|sig)"
)
#: The whole text is a secret.
_WHOLE: Final = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|^PuTTY-User-Key-File|AGE-SECRET-KEY-1")
#: What follows the `://` of a URL, looked at once: a password may hold any other character, unescaped by mistake.
_URL: Final = re.compile(r"(?<=://)\S+")
_AFTER_NAME: Final = r"(?P<secret>\"[^\"]*\"|'[^']*'|(?:(?:bearer|basic)\s+)?[^\s&;,\"']+)"
#: Each with the group that is the secret, and what before it is shown.
_PARTS: Final = (
    # ?token=…, password=…, "secret": "…"
    re.compile(rf"(?P<shown>(?<![\w.-]){_NAME}[\"']?\s*[=:]\s*){_AFTER_NAME}", re.IGNORECASE),
    re.compile(rf"(?P<shown>(?<!\S)--?{_NAME}\s+){_AFTER_NAME}", re.IGNORECASE),
    re.compile(r"(?P<shown>\b(?:bearer|basic)\s+)(?P<secret>[\w.~+/-]{8,}=*)", re.IGNORECASE),
    # JWT; AWS, GitHub, GitLab, Slack, Stripe and OpenAI, Google, Hugging Face, npm.
    re.compile(r"(?P<secret>\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)"),
    re.compile(
        r"(?P<secret>\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|(?:ghp|gho|ghu|ghs|ghr)_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
        r"|xox[abeoprs]-[\w-]{10,}|(?:sk|rk|pk)[-_][\w-]{16,}|AIza[\w-]{30,}|hf_\w{20,}|npm_\w{20,}|whsec_[\w+/=-]{16,}))"
    ),
    # What crypt and its successors make of a password.
    re.compile(r"(?P<secret>\$(?:1|2[abxy]|5|6|y|scrypt|pbkdf2[\w-]*|argon2\w*)\$[\w./$=,+-]+)"),
)
#: An option whose value is the next of a list: ["--token", "…"].
_OPTION: Final = re.compile(rf"--?{_NAME}", re.IGNORECASE)


def redacted(values: Mapping[str, Any], patterns: Sequence[str] = ()) -> dict[str, Any]:
    """Values with `***` in the place of every secret.

    `patterns`: dotted names that are secrets beside those that are known, with `*`: "billing.*", "*.webhook".
    """
    return _Walk(patterns, lambda _: HIDDEN, lambda text, _: _masked(text)).mapping(values, ())


def secrets(values: Mapping[str, Any], patterns: Sequence[str] = ()) -> dict[str, Any]:
    """Dotted name → value of every secret, as it stands there: not to be shown to anybody."""
    found: dict[str, Any] = {}

    def whole(secret: Secret) -> str:
        found[secret.name] = secret.value
        return HIDDEN

    def part(text: str, name: str) -> str:
        found[name] = text
        return text

    _Walk(patterns, whole, part).mapping(values, ())
    return found


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that is hidden as a whole."""

    name: str
    value: Any


class Sealing:
    """Digests by a key: whoever has the key can compare secrets, and whoever has not can try none out."""

    def __init__(self, key: bytes, patterns: Sequence[str] = ()) -> None:
        """`key`: of one service, kept where its versions are. `patterns`: as for `redacted`."""
        self._key = key
        self._patterns = patterns

    def checksum(self, values: Mapping[str, Any]) -> str:
        """SHA-256 of the canonical JSON, in hex, with the digest of every secret in its place.

        Without that, whoever reads the events could try out short passwords until the checksum fits.
        """
        walk = _Walk(self._patterns, lambda secret: self.digest(secret.value), lambda text, _: self.digest(text))
        return hashlib.sha256(canonical(walk.mapping(values, ())).encode()).hexdigest()

    def digests(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Dotted name → digest of every secret."""
        return {name: self.digest(value) for name, value in secrets(values, self._patterns).items()}

    def digest(self, value: Any) -> str:
        """The digest of one value, in hex."""
        return hmac.new(self._key, canonical(value).encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class _Walk:
    """Goes through values and makes others of the secrets among them."""

    patterns: Sequence[str]
    #: What becomes of a value that is a secret as a whole.
    whole: Callable[[Secret], str]
    #: What becomes of a text with a secret in it; it has its name.
    part: Callable[[str, str], str]

    def mapping(self, values: Mapping[str, Any], path: Path) -> dict[str, Any]:
        if _has_secret_key(values):
            return {HIDDEN: self.whole(Secret(dotted((*path, HIDDEN)), values))}
        # {"name": "DB_PASSWORD", "value": "…"}, as in lists of environment variables.
        named = next((values[key] for key in ("name", "key") if isinstance(values.get(key), str)), "")
        is_pair = "value" in values and _is_secret_name(named, values["value"])
        return {
            key: self._value(value, (*path, key), is_secret=is_pair and key == "value") for key, value in values.items()
        }

    def _value(self, value: Any, path: Path, *, is_secret: bool = False) -> Any:
        name = dotted(path)
        if is_secret or _is_secret_name(path[-1], value) or self._is_named(path):
            return self.whole(Secret(name, value))
        match value:
            case dict():
                return self.mapping(value, path)
            case list():
                before = ["", *value][: len(value)]
                return [
                    self._value(each, (*path, str(place)), is_secret=_is_option(option))
                    for place, (option, each) in enumerate(zip(before, value, strict=True))
                ]
            case str() if _has_secret(value):
                return self.part(value, name)
        return value

    def _is_named(self, path: Path) -> bool:
        name = ".".join(path).lower()
        return any(fnmatchcase(name, pattern.lower()) for pattern in self.patterns)


def _is_secret_name(name: str, value: Any) -> bool:
    # True and nothing are no secrets: `auth: true`. Nor is what says that there is none.
    if value is None or isinstance(value, bool) or value in ("", [], {}):
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT:
        return False
    if _is_numeric(value) and (words[0] in _AMOUNTS or words[-1] == "tokens"):
        # Of a model's tokens: `max_tokens`, `suppress_tokens`.
        return False
    if words[-1] in _KEYS and len(words) > 1 and words[-2] not in _OPEN_KEYS:
        return True
    return not _SECRET_WORDS.isdisjoint(words)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, list) and all(map(_is_numeric, value)))


def _has_secret_key(values: Mapping[str, Any]) -> bool:
    """Whether a key is a secret itself: {"sk-…": "alice"}."""
    return any(_has_secret(key) for key in values)


def _is_option(text: Any) -> bool:
    return isinstance(text, str) and _OPTION.fullmatch(text) is not None


def _has_secret(text: str) -> bool:
    return _masked(text) != text


def _masked(text: str) -> str:
    """A text with its secrets hidden."""
    if _WHOLE.search(text):
        return HIDDEN
    text = _URL.sub(_without_credentials, text)
    for pattern in _PARTS:
        text = pattern.sub(lambda found: (found.groupdict().get("shown") or "") + HIDDEN, text)
    return text


def _without_credentials(found: re.Match[str]) -> str:
    credentials, at, place = found[0].rpartition("@")
    user, colon, _ = credentials.partition(":")
    # Without a colon it may be a name or a token.
    shown = f"{user}:{HIDDEN}@" if colon else f"{HIDDEN}@"
    return shown + place if at else place
