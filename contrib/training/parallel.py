"""English to French and German, by rule, for everything that the recogniser can write: what the translator learns.

A sentence is cut from the left into the longest parts that a rule knows: a command ("please leave the meeting now"),
a courtesy, a thing, or one word. The words that stand between the rules' parts are those of `vocabulary.WORDS`.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from training.vocabulary import DIGITS, PHRASES, utterance

#: The languages, each with the token that asks for it.
TAGS: Mapping[str, str] = MappingProxyType({"fr": ">>fra<<", "de": ">>deu<<"})


@dataclass(frozen=True, slots=True)
class Noun:
    """A thing in both languages, with its article where it is an object."""

    french: str
    french_next: str
    german: str
    german_next: str
    german_dative: str
    german_dative_next: str


@dataclass(frozen=True, slots=True)
class Verb:
    """What to do with a thing: French as a command and after "veuillez"; German with what stands after the thing."""

    french: str
    french_infinitive: str
    german: str
    german_after: str = ""
    takes_dative: bool = False


_NOUNS: Mapping[str, Noun] = MappingProxyType(
    {
        "meeting": Noun(
            *("la réunion", "la réunion suivante"),
            *("die Besprechung", "die nächste Besprechung", "der Besprechung", "der nächsten Besprechung"),
        ),
        "slide": Noun(
            *("la diapositive", "la diapositive suivante"),
            *("die Folie", "die nächste Folie", "der Folie", "der nächsten Folie"),
        ),
        "message": Noun(
            *("le message", "le message suivant"),
            *("die Nachricht", "die nächste Nachricht", "der Nachricht", "der nächsten Nachricht"),
        ),
        "team": Noun("l'équipe", "l'équipe suivante", "das Team", "das nächste Team", "dem Team", "dem nächsten Team"),
    }
)
#: "Start record": the recording, without an article in English.
_RECORDING = Noun(*("l'enregistrement",) * 2, *("die Aufnahme",) * 2, *("der Aufnahme",) * 2)

_VERBS: Mapping[str, Verb] = MappingProxyType(
    {
        "start": Verb("commencez", "commencer", "starten Sie"),
        "stop": Verb("arrêtez", "arrêter", "stoppen Sie"),
        "pause": Verb("suspendez", "suspendre", "pausieren Sie"),
        "record": Verb("enregistrez", "enregistrer", "nehmen Sie", "auf"),
        "open": Verb("ouvrez", "ouvrir", "öffnen Sie"),
        "close": Verb("fermez", "fermer", "schließen Sie"),
        "call": Verb("appelez", "appeler", "rufen Sie", "an"),
        "join": Verb("rejoignez", "rejoindre", "treten Sie", "bei", takes_dative=True),
        "leave": Verb("quittez", "quitter", "verlassen Sie"),
        "save": Verb("sauvegardez", "sauvegarder", "speichern Sie"),
        "send": Verb("envoyez", "envoyer", "senden Sie"),
    }
)

#: A word, or words that belong together, where no command is: English to (French, German).
_PARTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **dict(
            zip(
                DIGITS,
                zip(
                    ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
                    ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
                    strict=True,
                ),
                strict=True,
            )
        ),
        "start": ("commencez", "starten"),
        "stop": ("arrêtez", "stoppen"),
        "pause": ("suspendez", "pausieren"),
        "record": ("enregistrez", "aufnehmen"),
        "open": ("ouvrez", "öffnen"),
        "close": ("fermez", "schließen"),
        "call": ("appelez", "anrufen"),
        "join": ("rejoignez", "beitreten"),
        "leave": ("quittez", "verlassen"),
        "save": ("sauvegardez", "speichern"),
        "send": ("envoyez", "senden"),
        "meeting": ("réunion", "Besprechung"),
        "team": ("équipe", "Team"),
        "slide": ("diapositive", "Folie"),
        "message": ("message", "Nachricht"),
        "next meeting": ("réunion suivante", "nächste Besprechung"),
        "next team": ("équipe suivante", "nächstes Team"),
        "next slide": ("diapositive suivante", "nächste Folie"),
        "next message": ("message suivant", "nächste Nachricht"),
        "next": ("suivant", "nächste"),
        "the": ("le", "das"),
        "hello": ("bonjour", "hallo"),
        "hello team": ("bonjour l'équipe", "hallo Team"),
        "goodbye": ("au revoir", "auf Wiedersehen"),
        "goodbye team": ("au revoir l'équipe", "auf Wiedersehen Team"),
        "thank": ("merci", "danke"),
        "thank you": ("merci", "danke"),
        "thank you team": ("merci l'équipe", "danke Team"),
        "you": ("vous", "Sie"),
        "yes": ("oui", "ja"),
        "no": ("non", "nein"),
        "please": ("s'il vous plaît", "bitte"),
        "red": ("rouge", "rot"),
        "green": ("vert", "grün"),
        "blue": ("bleu", "blau"),
        "up": ("en haut", "oben"),
        "down": ("en bas", "unten"),
        "left": ("à gauche", "links"),
        "right": ("à droite", "rechts"),
        "now": ("maintenant", "jetzt"),
        "today": ("aujourd'hui", "heute"),
    }
)

_VERB = f"(?:{'|'.join(_VERBS)})"
_THING = rf"the(?: next)? (?:{'|'.join(_NOUNS)})"
_COMMAND = re.compile(
    rf"(?P<please>please )?"
    rf"(?:(?P<verb>{_VERB}) the(?P<next> next)? (?P<noun>{'|'.join(_NOUNS)})|(?P<recording>start|stop|pause) record)"
    rf"(?P<when> now| today)?"
    # "Please" belongs to the command before it, unless another one follows.
    rf"(?P<finally> please(?! {_VERB} the\b)(?! (?:start|stop|pause) record\b))?"
    rf"(?= |$)"
)
_OBJECT = re.compile(rf"(?P<thing>{_THING})(?= |$)")


def translate(text: str, language: str) -> str:
    """Return the French ("fr") or German ("de") of words that the models know."""
    parts: list[str] = []
    place = 0
    while place < len(text):
        end, part = _command(text, place, language) or _object(text, place, language) or _part(text, place, language)
        parts.append(part)
        place = end + 1
    return " ".join(parts)


def sentence(rng: random.Random) -> str:
    """Return a line as a transcript has it: what one breath gives, a command of any make, or several together."""
    kind = rng.random()
    if kind < 0.3:
        return utterance(rng)
    if kind < 0.5:
        return _any_command(rng)
    if kind < 0.6:
        return " ".join(rng.choice(DIGITS) for _ in range(rng.randint(1, 16)))
    if kind < 0.7:
        return " ".join(rng.choice(tuple(_PARTS)) for _ in range(rng.randint(1, 6)))
    return " ".join(rng.choice((utterance, _any_command, _phrase))(rng) for _ in range(rng.randint(2, 4)))


def is_held_out(text: str) -> bool:
    """Say whether a line is kept from the training: one in ten of those with three words or more."""
    return text.count(" ") > 1 and zlib.crc32(text.encode()) % 10 == 0


def unseen(count: int, *, seed: int) -> list[str]:
    """Return lines that the training leaves out."""
    rng = random.Random(seed)
    lines: dict[str, None] = {}
    while len(lines) < count:
        line = sentence(rng)
        if is_held_out(line):
            lines[line] = None
    return list(lines)


def _phrase(rng: random.Random) -> str:
    return rng.choice(PHRASES)


def _any_command(rng: random.Random) -> str:
    noun = f"the {rng.choice(('', 'next '))}{rng.choice(tuple(_NOUNS))}"
    verb = rng.choice(tuple(_VERBS))
    what = f"{verb} {noun}" if rng.random() < 0.9 else f"{rng.choice(('start', 'stop', 'pause'))} record"
    before = rng.choice(("", "", "please "))
    return before + what + rng.choice(("", "", " now", " today")) + rng.choice(("", "", "", " please"))


def _command(text: str, place: int, language: str) -> tuple[int, str] | None:
    found = _COMMAND.match(text, place)
    if found is None:
        return None
    verb = _VERBS[found["verb"] or found["recording"]]
    noun = _NOUNS[found["noun"]] if found["noun"] else _RECORDING
    say = _french if language == "fr" else _german
    words = say(verb, noun, is_next=found["next"] is not None, asks=found["please"] is not None)
    for word in (found["when"], found["finally"]):
        if word:
            words.insert(
                len(words) - (language == "de" and word == found["when"] and bool(verb.german_after)),
                _word(word.strip(), language),
            )
    return found.end(), " ".join(words)


def _french(verb: Verb, noun: Noun, *, is_next: bool, asks: bool) -> list[str]:
    thing = noun.french_next if is_next else noun.french
    return ["veuillez", verb.french_infinitive, thing] if asks else [verb.french, thing]


def _german(verb: Verb, noun: Noun, *, is_next: bool, asks: bool) -> list[str]:
    if verb.takes_dative:
        thing = noun.german_dative_next if is_next else noun.german_dative
    else:
        thing = noun.german_next if is_next else noun.german
    after = [verb.german_after] if verb.german_after else []
    return [*(["bitte"] if asks else []), verb.german, thing, *after]


def _object(text: str, place: int, language: str) -> tuple[int, str] | None:
    found = _OBJECT.match(text, place)
    if found is None:
        return None
    noun, is_next = _NOUNS[found["thing"].split()[-1]], " next " in found["thing"]
    if language == "fr":
        return found.end(), noun.french_next if is_next else noun.french
    return found.end(), noun.german_next if is_next else noun.german


_LONGEST_PART = max(len(part.split()) for part in _PARTS)


def _part(text: str, place: int, language: str) -> tuple[int, str]:
    words = text[place:].split(" ")
    for count in range(min(_LONGEST_PART, len(words)), 0, -1):
        part = " ".join(words[:count])
        if part in _PARTS:
            return place + len(part), _word(part, language)
    raise ValueError(f"{words[0]!r} is no word of the vocabulary")


def _word(part: str, language: str) -> str:
    french, german = _PARTS[part]
    return french if language == "fr" else german
