"""What a translation worker can be told: the fields of `TranslationSettings`, by environment or in code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from streamtask_contrib.models import TRANSLATION


class TranslationSettings(BaseSettings):
    """Each field is also a variable, such as STREAMTASK_TRANSLATION_BEAM_SIZE."""

    model_config = SettingsConfigDict(env_prefix="STREAMTASK_TRANSLATION_", env_ignore_empty=True, frozen=True)

    #: The folder of a model as CTranslate2 has it. By default the small one that ships, which knows forty words.
    model: Path = TRANSLATION
    #: Where it runs; "auto": on a GPU if there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: How its numbers are kept: "default" as the folder has them, "auto" the fastest that the device has, or a name
    #: such as "int8". MADLAD goes wrong with "float16".
    compute_type: str = "default"
    #: Batches that are translated at the same time; each in a thread of its own, on the same weights.
    inter_threads: int = Field(default=1, ge=1)
    #: Processor cores for each of these batches; 0: as many as CTranslate2 finds right.
    intra_threads: int = Field(default=0, ge=0)

    #: Tokens of a batch, over all events that wait at the time.
    batch_tokens: int = Field(default=1024, ge=16)
    #: Seconds that a sentence waits for others to be translated with.
    batch_wait: float = Field(default=0.01, ge=0.0, le=5.0)
    #: Tokens of a sentence; a longer one is cut at commas or spaces. Models are trained on sentences far shorter.
    max_sentence_tokens: int = Field(default=200, ge=8, le=1000)

    #: Translations that are weighed against each other: 1 is fastest, 4 is as good as it gets.
    beam_size: int = Field(default=2, ge=1, le=16)
    #: So many tokens must not come twice in the same order; 0: they may. It ends loops, and harms what was said twice
    #: on purpose: with 3, "seven seven seven seven" loses a seven. `max_length_ratio` bounds loops, too.
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    #: Above 1, a token that has come before is less likely to come again; 1: as likely. As above.
    repetition_penalty: float = Field(default=1.0, ge=1.0, le=2.0)
    #: A translation may have this many tokens for each of the longest sentence in its batch, and ten more.
    max_length_ratio: float = Field(default=2.0, gt=0.0, le=10.0)

    #: Requests that are in work at the same time, in one worker process. What is in work is batched together.
    concurrency: int = Field(default=64, ge=1)
    #: Seconds after which a request for a partial result is skipped: a newer one has been asked for.
    partial_max_age: float = Field(default=3.0, gt=0.0)
    #: Seconds without work after which the model is unloaded, to be loaded again by the next request; 0: never.
    idle_unload: float = Field(default=0.0, ge=0.0)
    #: Bytes of JSON above which segments do not travel in the event but beside it, as a blob.
    inline_bytes: int = Field(default=500_000, ge=1_000, le=900_000)
