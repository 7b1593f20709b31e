"""pyannote.audio, 3.1 and 4: a pipeline from a folder or from the hub, which is given samples and no file.

Not a dependency of streamtask: this module is imported only where a pipeline is configured.
"""

from __future__ import annotations

import inspect
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyannote.audio import Pipeline

from streamtask import ConfigurationError
from streamtask_contrib.audio.decoding import SAMPLE_RATE
from streamtask_contrib.audio.diarization.voices import Span, Voice


class Pyannote:
    """One pipeline, for one recording at a time."""

    def __init__(self, model: str, *, token: str) -> None:
        """Load it.

        Raises:
            ConfigurationError: there is none, or the hub does not give it out.
        """
        # Version 4 calls the hub's token `token`, version 3 `use_auth_token`.
        takes = inspect.signature(Pipeline.from_pretrained).parameters
        credentials = {"token" if "token" in takes else "use_auth_token": token} if token else {}
        try:
            self._pipeline = Pipeline.from_pretrained(model, **credentials)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the diarization pipeline {model!r} cannot be loaded: {error}") from error
        if self._pipeline is None:
            # Version 3 prints why and returns nothing.
            where = "its folder has no pipeline" if Path(model).is_dir() else "the hub wants its terms accepted"
            raise ConfigurationError(f"the diarization pipeline {model!r} cannot be loaded: {where}")
        if torch.cuda.is_available():
            self._pipeline.to(torch.device("cuda"))
        self._gives_output = "return_embeddings" not in inspect.signature(self._pipeline.apply).parameters
        self._lock = threading.Lock()

    def hear(self, samples: NDArray[np.float32]) -> tuple[list[Span], dict[str, Voice]]:
        """Who speaks when, nobody at the same time, and the voice of each."""
        sound = {"waveform": torch.from_numpy(samples[np.newaxis]), "sample_rate": SAMPLE_RATE}
        with self._lock:
            if self._gives_output:
                output = self._pipeline(sound)
                everybody, alone, voices = (
                    output.speaker_diarization,
                    output.exclusive_speaker_diarization,
                    output.speaker_embeddings,
                )
            else:
                everybody, voices = self._pipeline(sound, return_embeddings=True)
                alone = everybody
        spans = [Span(turn.start, turn.end, str(label)) for turn, _, label in alone.itertracks(yield_label=True)]
        return spans, _by_label(everybody, voices)


def _by_label(annotation: Any, voices: Any) -> dict[str, Voice]:
    if voices is None:
        return {}
    # One row a label, in the order of the annotation's labels.
    rows = zip(annotation.labels(), voices, strict=False)
    return {str(label): np.asarray(voice, np.float32) for label, voice in rows}
