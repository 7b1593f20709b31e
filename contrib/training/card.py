"""The page that says how good the shipped models are. Its figures are those of `evaluate`, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RESULTS, CARD = "results.json", "README.md"

_PAGE = """\
# Two small models

Made here, by [`contrib/training`](../../training/README.md), from nothing but espeak-ng's voices and the rules of that
folder: so that streamtask can hear and translate on a machine that fetches nothing. They show that the pipeline works.
For meetings of people, take a real Whisper and a real OPUS-MT, NLLB or MADLAD.

| Folder | What it is | Size |
|---|---|---|
| `whisper-commands-en` | Whisper's architecture, 0.8 million numbers in 8 bits; for faster-whisper | {speech_size} |
| `opus-commands-en-fr-de` | a transformer from English to French and German; for CTranslate2 | {translation_size} |

They know 43 English words and no other: the digits, and what one says to run a meeting ("please leave the meeting
now", "next slide", "stop record").

Every figure below was written by `python -m training evaluate`; `results.json` has them all.

## The recogniser

Judged by {lines} utterances of {voices} espeak-ng voices that it never heard, through faster-whisper with `int8`. **No
human voice has been tried, and none was learnt from.**

| How | Words | Wrong | Lines right |
|---|---|---|---|
{rows}

"Several turns" are windows of 8 s with two to four turns of different voices and pauses of 0.3 to 2 s between them;
"half a minute" is more of the same. It was never given long texts as what was said before, and loses words if it is:
for more than one window, pass `condition_on_previous_text=False`, or cut into turns first.

| Voice | Words | Wrong | Lines right |
|---|---|---|---|
{by_voice}

- Silence and noise: {pieces} pieces, of which {heard_nothing} taken for words.
- Where several turns are heard as so many, they begin and end {turns_astray} s (median) from the truth;
  {turns_in_place} of these times are within 0.1 s.
- With `word_timestamps=True`, words within a turn begin {words_astray} s (median) from where espeak-ng began them;
  {words_in_place} are within 0.1 s. The first word after a pause begins up to half a second early, as with any Whisper.

## The translator

Judged with a beam of two by lines that are kept from its training: commands, digits, single words, and several of each
together.

| To | Lines | Exact |
|---|---|---|
{translation}

It takes one token for the language (`>>fra<<` or `>>deu<<`), then the pieces of `spm.model`; `streamtask-model.json`
says so to streamtask. What is not among the 43 words it cannot know.

## How they were trained

By `contrib/training`, from seeds alone: the recogniser in {speech_steps} steps from seed {speech_seed}, on {utterances}
utterances of espeak-ng; the translator in {translation_steps} steps from seed {translation_seed}. Its page says
what comes out the same when it is done again, and what does not.
"""


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """Write the figures and the page that shows them."""
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    (folder / CARD).write_text(render(results))


def render(results: Mapping[str, Any]) -> str:
    """Return the page for these figures."""
    speech, translation = results["speech"], results["translation"]
    alone = speech["default options"]
    return _PAGE.format(
        speech_size=_kilobytes(results["bytes"]["speech"]),
        translation_size=_kilobytes(results["bytes"]["translation"]),
        lines=alone["lines"],
        voices=len(speech["by voice"]),
        rows=_rows(speech, (name for name, one in speech.items() if "errors" in one)),
        by_voice=_rows(speech["by voice"], speech["by voice"]),
        pieces=speech["nothing"]["pieces"],
        heard_nothing=speech["nothing"]["taken for words"] or "none",
        turns_astray=speech["times"]["turns"]["median"],
        turns_in_place=f"{speech['times']['turns']['within 0.1 s']:.1%}",
        words_astray=speech["times"]["words"]["median"],
        words_in_place=f"{speech['times']['words']['within 0.1 s']:.1%}",
        translation="\n".join(
            f"| {language} | {one['lines']} | {one['exact'] / one['lines']:.1%} |"
            for language, one in translation.items()
        ),
        utterances=f"{results['training']['utterances']:,}",
        speech_steps=f"{results['training']['speech']['steps']:,}",
        speech_seed=results["training"]["speech"]["seed"],
        translation_steps=f"{results['training']['translation']['steps']:,}",
        translation_seed=results["training"]["translation"]["seed"],
    )


def _rows(scores: Mapping[str, Any], names: Iterable[str]) -> str:
    return "\n".join(
        f"| {name} | {one['words']} | {one['errors'] / one['words']:.1%} | {one['right']} of {one['lines']} |"
        for name, one in ((name, scores[name]) for name in names)
    )


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.0f} kB"
