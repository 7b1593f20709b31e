"""Two small models that were made here, for machines that cannot fetch one: where they lie, and nothing else.

They know English meeting commands and digits, and their French and German. README.md beside this file says how well;
`contrib/training` makes them anew. Importing this module imports no library of speech.
"""

from __future__ import annotations

from pathlib import Path

#: A folder that `faster_whisper.WhisperModel` takes: English, 43 words.
SPEECH: Path = Path(__file__).parent / "whisper-commands-en"

#: A folder that `ctranslate2.Translator` takes: those words from English to French and German.
TRANSLATION: Path = Path(__file__).parent / "opus-commands-en-fr-de"

__all__ = ["SPEECH", "TRANSLATION"]
