"""Speech from espeak-ng's library, with the place of every word in it.

The program `espeak-ng` would do for the sound alone. The library also reports where each word begins, and that is
worth the ctypes: a recogniser that is told which frames belong to which word learns in minutes what it otherwise
learns in hours.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

RATE = 16_000

_SYNCHRONOUS, _DO_NOT_EXIT = 2, 0x8000
_WORDS_PER_MINUTE, _PITCH = 1, 3
_UTF8, _CHARACTERS = 1, 1
_NO_MORE_EVENTS, _WORD = 0, 1
#: Quieter than this is the silence that espeak-ng puts around an utterance.
_SILENT = 1e-3
_DRAWN = "drawn"


class EspeakError(Exception):
    """Espeak-ng's library is not there, or refuses what was asked of it."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance: mono at 16 kHz, and the samples at which its words begin; the last ends with the clip."""

    text: str
    samples: NDArray[np.float32]
    begins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Speaker:
    """How an utterance is spoken."""

    language: str
    #: One of espeak-ng's variants by the name of its file, or, where `drawn` says what is in that file, nothing.
    variant: str = ""
    drawn: str = ""
    words_per_minute: int = 165
    pitch: int = 50
    #: 1.1 plays it faster, 0.9 slower, which also moves pitch and formants.
    stretch: float = 1.0


class _Identity(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """Espeak-ng in this process, with data of its own. The library keeps one state: make one of these a process."""

    def __init__(self, folder: Path) -> None:
        """Load the library; `folder` is for its data, to which a drawn variant is added when one is to speak.

        Raises:
            EspeakError: there is no library, or it cannot read its data.
        """
        try:
            self._library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
        except OSError as error:
            raise EspeakError(f"espeak-ng's library cannot be loaded: {error}") from error
        self._initialise(None)
        self._variants = _link_data(self._installed(), folder)
        self._rate = self._initialise(folder)
        self._pieces: list[NDArray[np.int16]] = []
        self._begins: dict[int, int] = {}
        self._callback = _Callback(self._take)  # the library calls it: it must live as long as this
        self._library.espeak_SetSynthCallback(self._callback)

    def _initialise(self, data: Path | None) -> int:
        path = None if data is None else str(data).encode()
        rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, path, _DO_NOT_EXIT)
        if rate <= 0:
            raise EspeakError(f"espeak-ng cannot read its data{'' if data is None else f' in {data}'}")
        return rate

    def _installed(self) -> Path:
        path = ctypes.c_char_p()
        self._library.espeak_Info.restype = ctypes.c_char_p
        self._library.espeak_Info(ctypes.byref(path))
        return Path((path.value or b"").decode())

    def speak(self, text: str, speaker: Speaker) -> Clip:
        """Return `text` as the speaker says it, without the silence before and after.

        Raises:
            EspeakError: there is no such voice, nothing is to be heard, or not every word is reported.
        """
        self._choose(speaker)
        self._pieces.clear()
        self._begins.clear()
        said = text.encode()
        status = self._library.espeak_Synth(said, len(said) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        if status != 0:
            raise EspeakError(f"espeak-ng does not say {text!r}: status {status}")
        begins = self._begins_of_words(text)
        wave = np.concatenate(self._pieces).astype(np.float32) / 32768
        # 22,050 to 16,000 is 320 to 441; another ratio is another speed, for nothing.
        up, down = 320, round(441 * self._rate / 22_050 * speaker.stretch)
        wave = resample_poly(wave, up, down).astype(np.float32)
        return _trim(text, wave, [begin * up / down for begin in begins])

    def _choose(self, speaker: Speaker) -> None:
        variant = speaker.variant
        if speaker.drawn:
            variant = _DRAWN
            (self._variants / variant).write_text(speaker.drawn)
        if variant and not (self._variants / variant).is_file():
            # Espeak-ng itself would speak with the plain voice, and say nothing of it.
            raise EspeakError(f"espeak-ng has no variant {variant!r} (names of files: upper and lower case differ)")
        voice = f"{speaker.language}+{variant}" if variant else speaker.language
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(_WORDS_PER_MINUTE, speaker.words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, speaker.pitch, 0)

    def _begins_of_words(self, text: str) -> list[int]:
        """A word is reported by the place of its first letter, counted from one; one in a hundred reports is false."""
        places = [1, *(place + 2 for place, letter in enumerate(text) if letter == " ")]
        missing = [place for place in places if place not in self._begins]
        if missing or not self._pieces:
            raise EspeakError(f"espeak-ng does not report every word of {text!r}")
        return [self._begins[place] for place in places]

    def _take(self, wave: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        number = 0
        while events[number].type != _NO_MORE_EVENTS:
            if events[number].type == _WORD:
                self._begins.setdefault(events[number].text_position, events[number].sample)
            number += 1
        if wave and count:
            self._pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0


def _trim(text: str, wave: NDArray[np.float32], begins: list[float]) -> Clip:
    loud = np.flatnonzero(np.abs(wave) > _SILENT)
    if loud.size == 0:
        raise EspeakError(f"nothing is to be heard of {text!r}")
    first, last = max(0, int(loud[0]) - 160), int(loud[-1]) + 320
    samples = wave[first:last]
    return Clip(text, samples, tuple(int(min(max(0, begin - first), len(samples) - 1)) for begin in begins))


def _link_data(installed: Path, folder: Path) -> Path:
    """Fill `folder` with links to espeak-ng's data; return its own folder of links to the variants."""
    variants = folder / "voices" / "!v"
    variants.mkdir(parents=True)
    for source, target in (
        (installed, folder),
        (installed / "voices", folder / "voices"),
        (installed / "voices" / "!v", variants),
    ):
        for entry in source.iterdir():
            if not (target / entry.name).exists():
                (target / entry.name).symlink_to(entry)
    return variants
